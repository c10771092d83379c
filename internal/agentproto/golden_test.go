package agentproto

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

var update = flag.Bool("update", false, "write testdata/golden.txt")

func ptr[T any](v T) *T { return &v }

// golden is one message of each kind. Its bytes are in testdata/golden.txt, beside what another implementation of CBOR
// (in its diagnostic notation) reads in them.
var golden = []struct {
	name string
	id   uint32
	t    Type
	p    Payload
}{
	{"ready", 0, TypeReady, &Ready{BootTimeNS: 1, InitTimeNS: 1000, ReadyTimeNS: 1 << 40, AgentVersion: "0.1"}},
	{"ready of ours", 0, TypeReady, &Ready{Types: []Type{TypeFiles, TypeAck}}},
	{"init resolved", 0, TypeInitResolved, &InitResolved{UserID{1000, 100}}},
	{"init ack", 0, TypeInitAck, nil},
	{"shutdown", 0, TypeShutdown, nil},
	{"disconnected", 0, TypeClientDisconnected, &ClientDisconnected{1, 33554431}},
	{"clock sync", 0, TypeClockSync, &ClockSync{1_800_000_000_000_000_000}},
	{"ping", 1, TypePing, nil},
	{"pong", 1, TypePong, nil},
	{"touch", 1, TypeTouch, nil},
	{"touched", 1, TypeTouched, &Touched{300}},
	{"error", 1, TypeError, &Error{InvalidFlags, "bad", "core.ping"}},
	{"error without type", 1, TypeError, &Error{Kind: MalformedMessage, Message: "bad"}},
	{"exec request", 1, TypeExecRequest, &ExecRequest{Cmd: "ls"}},
	{"exec request in full", 1, TypeExecRequest, &ExecRequest{Cmd: "sh", Args: []string{"-c", "é"}, Env: []string{"A=1"}, Cwd: "/", User: "root",
		TTY: true, Rows: 50, Cols: 300, Rlimits: []Rlimit{{"nofile", 1024, 1<<64 - 1}}, Window: 1 << 20}},
	{"exec started", 1, TypeExecStarted, &ExecStarted{42}},
	{"exec exited", 1, TypeExecExited, &ExecExited{Code: -1}},
	{"exec failed", 1, TypeExecFailed, &ExecFailed{FailNotFound, 2, "ENOENT", `spawn "x": no`, "exec"}},
	{"exec failed, short", 1, TypeExecFailed, &ExecFailed{Kind: FailUserSetup, Message: "no"}},
	{"stdin error", 1, TypeExecStdinError, &ExecStdinError{32, "EPIPE", "broken"}},
	{"resize", 1, TypeExecResize, &ExecResize{24, 80}},
	{"signal", 1, TypeExecSignal, &ExecSignal{9}},
	{"ack", 1, TypeAck, &Ack{65536}},
	{"cancel", 1, TypeCancel, nil},
	{"fs stat", 1, TypeFSRequest, fsRequest(OpStat, FSArgs{Path: "/a", FollowSymlink: true})},
	{"fs set stat", 1, TypeFSRequest, fsRequest(OpSetStat, FSArgs{Path: "/a", Attrs: FileAttrs{Mode: ptr[uint32](0o644), MTime: ptr[int64](-1)}})},
	{"fs symlink", 1, TypeFSRequest, fsRequest(OpSymlink, FSArgs{Target: "t", LinkPath: "/l"})},
	{"fs mkdir", 1, TypeFSRequest, fsRequest(OpMkdir, FSArgs{Path: "/d"})},
	{"fs remove dir", 1, TypeFSRequest, fsRequest(OpRemoveDir, FSArgs{Path: "/d", Recursive: true})},
	{"fs rename", 1, TypeFSRequest, fsRequest(OpRename, FSArgs{Src: "/a", Dst: "/b"})},
	{"fs open", 1, TypeFSRequest, fsRequest(OpOpenFile, FSArgs{Path: "/a", Options: OpenOptions{Write: true, Create: true, Truncate: true, Mode: ptr[uint32](0o600)}})},
	{"fs read", 1, TypeFSRequest, fsRequest(OpRead, FSArgs{Handle: 3})},
	{"fs write", 1, TypeFSRequest, fsRequest(OpWrite, FSArgs{Handle: 3, Offset: 4096, Len: ptr[uint64](10)})},
	{"fs read dir", 1, TypeFSRequest, fsRequest(OpReadDir, FSArgs{Handle: 3})},
	{"fs close", 1, TypeFSRequest, fsRequest(OpCloseHandle, FSArgs{Handle: 3})},
	{"fs done", 1, TypeFSResponse, &FSResponse{OK: true}},
	{"fs failed", 1, TypeFSResponse, &FSResponse{Error: "stat: no such file or directory"}},
	{"fs is stat", 1, TypeFSResponse, &FSResponse{OK: true, Data: &FSResult{Stat: &FileInfo{Path: "/a", Kind: KindFile, Size: 5, Mode: 0o100644,
		Modified: ptr[int64](7), UID: 1, GID: 2, ATime: ptr[int64](6), MTime: ptr[int64](7)}}}},
	{"fs is list", 1, TypeFSResponse, &FSResponse{OK: true, Data: &FSResult{List: []FileInfo{{Path: "/d", Kind: KindDir, Mode: 0o40755}}}}},
	{"fs is empty list", 1, TypeFSResponse, &FSResponse{OK: true, Data: &FSResult{List: []FileInfo{}}}},
	{"fs is handle", 1, TypeFSResponse, &FSResponse{OK: true, Data: &FSResult{Handle: ptr[uint64](0)}}},
	{"fs is path", 1, TypeFSResponse, &FSResponse{OK: true, Data: &FSResult{Path: ptr("/p")}}},
	{"tcp connect", 1, TypeTCPConnect, &TCPConnect{Host: "localhost", Port: 8080}},
	{"tcp connected", 1, TypeTCPConnected, nil},
	{"tcp eof", 1, TypeTCPEOF, nil},
	{"tcp close", 1, TypeTCPClose, nil},
	{"tcp closed", 1, TypeTCPClosed, nil},
	{"tcp failed", 1, TypeTCPFailed, &TCPFailed{"refused"}},
	{"fs put", 1, TypeFSPut, &FSPut{Path: "/d/f", Temp: "/d/.f.1", Mode: 0o640, Data: []byte("hi")}},
	{"fs put nothing", 1, TypeFSPut, &FSPut{Path: "/d/f", Temp: "/d/.f.1"}},
	{"fs get", 1, TypeFSGet, &FSGet{Path: "/d/f"}},
	{"fs got", 1, TypeFSGot, &FSGot{Stat: FileInfo{Path: "/d/f", Kind: KindFile, Size: 2, Mode: 0o100640}, Data: []byte("hi")}},
	{"fs got handle", 1, TypeFSGot, &FSGot{Stat: FileInfo{Path: "/d/f", Kind: KindFile, Size: 1 << 20, Mode: 0o100640}, Handle: ptr[uint64](3)}},
	{"kernel run", 1, TypeKernelRun, &KernelRun{Language: "python", Code: "1+1"}},
	{"kernel run in full", 1, TypeKernelRun, &KernelRun{Language: "node", Session: "s", Code: "é", TimeoutMS: 1500, Echo: EchoAll, MaxOutput: 1 << 30,
		Env: []string{"A=1"}, Cwd: "/w", User: "u:g", Window: 1 << 20}},
	{"kernel started", 1, TypeKernelStarted, &KernelStarted{Cell: 7, Fresh: true}},
	{"kernel result", 1, TypeKernelResult, &KernelResult{MIME: "image/png", Data: []byte{0x89, 'P'}, More: true}},
	{"kernel done", 1, TypeKernelDone, &KernelDone{Status: KernelOK}},
	{"kernel done in full", 1, TypeKernelDone, &KernelDone{Status: KernelDied, Code: -1, Signal: 9, ErrorName: "E", ErrorValue: "v", StateLost: true, Dropped: 5}},
	{"kernel request", 1, TypeKernelRequest, &KernelRequest{Op: KernelRestart, Language: "bash", Session: "s"}},
	{"kernel list", 1, TypeKernelRequest, &KernelRequest{Op: KernelList}},
	{"kernel response", 1, TypeKernelResponse, &KernelResponse{}},
	{"kernel response of a list", 1, TypeKernelResponse, &KernelResponse{[]KernelInfo{{"python", "default", 42, 3, 1, true}}}},
	{"kernel failed", 1, TypeKernelFailed, &KernelFailed{KernelNoInterpreter, "no"}},
	{"bootstrap", 0, TypeBootstrap, &Bootstrap{}},
	{"bootstrap in full", 0, TypeBootstrap, &Bootstrap{
		BlockRoot:   &BlockRoot{Kind: "oci-erofs", Lower: "/dev/vda", Upper: &BlockUpper{Kind: "tmpfs", SizeMiB: 64}},
		DirMounts:   []DirMount{{"t", "/m", MountFlags{ReadOnly: true}}},
		FileMounts:  []FileMount{{"t", "f", "/f", MountFlags{NoExec: true}}},
		DiskMounts:  []DiskMount{{"d", "/d", "ext4", MountFlags{}}},
		TmpfsMounts: []TmpfsMount{{"/tmp", 64, ptr[uint32](0o1777), MountFlags{NoSUID: true, NoDev: true}}},
		Hostname:    "h", HostAlias: "host.internal",
		Network: &GuestNetwork{"eth0", []byte{2, 0, 0, 0, 0, 1}, 1500,
			&GuestAddress{[]byte{10, 0, 0, 2}, 30, []byte{10, 0, 0, 1}, []byte{10, 0, 0, 1}},
			&GuestAddress{bytes.Repeat([]byte{0xfd}, 16), 64, bytes.Repeat([]byte{0xfe}, 16), nil}},
		Rlimits: []Rlimit{{"core", 0, 0}}, User: "u", DefaultCwd: "/w", DefaultEnv: []EnvVar{{"K", "V"}}, SecurityProfile: ProfileRestricted,
		HandoffInit: &HandoffInit{"/sbin/init", []string{"x"}, "/", []EnvVar{{"A", "B"}}}, Files: true, Scripts: true}},
}

func fsRequest(op string, args FSArgs) *FSRequest { return &FSRequest{Op: FSOp{op, args}} }

// goldenData is one {data} frame of each type and of each length of the length.
var goldenData = []struct {
	t    Type
	data string
}{
	{TypeExecStdin, ""}, {TypeExecStdout, "hello"}, {TypeExecStderr, strings.Repeat("e", 24)}, {TypeFSData, strings.Repeat("f", 256)},
	{TypeTCPData, "x"}, {TypeFiles, "tar"}, {TypeKernelStdout, "out"}, {TypeKernelStderr, "err"},
}

// lines are the lines of the golden file: name, frame in hexadecimal, payload in diagnostic notation.
func lines(t *testing.T) []string {
	var all []string
	add := func(name string, frame []byte) {
		f, err := NewReader(bytes.NewReader(frame)).Next()
		if err != nil {
			t.Fatal(err)
		}
		m, err := Open(f.Body())
		if err != nil {
			t.Fatal(err)
		}
		diag, err := cbor.Diagnose(m.Payload)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, name+" | "+hex.EncodeToString(frame)+" | "+string(m.Type)+" "+diag)
	}
	for _, g := range golden {
		add(g.name, Append(nil, g.id, g.t, g.p))
	}
	for _, g := range goldenData {
		add("data", AppendData(nil, 7, g.t, []byte(g.data)))
	}
	return all
}

func TestGolden(t *testing.T) {
	have := strings.Join(lines(t), "\n") + "\n"
	if *update {
		if err := os.WriteFile("testdata/golden.txt", []byte(have), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/golden.txt")
	if err != nil {
		t.Fatal(err)
	}
	wants := strings.Split(string(want), "\n")
	for i, line := range strings.Split(have, "\n") {
		if i >= len(wants) || line != wants[i] {
			t.Errorf("line %d: have\n%s", i+1, line)
		}
	}
}

// What was written is read back, and every type is in the table of goldens.
func TestGoldenDecodes(t *testing.T) {
	seen := map[Type]bool{}
	for _, g := range goldenData {
		seen[g.t] = true
		f, _ := NewReader(bytes.NewReader(AppendData(nil, 7, g.t, []byte(g.data)))).Next()
		m, err := Open(f.Body())
		if err != nil {
			t.Fatal(err)
		}
		if data, err := DecodeData(m.Payload); err != nil || string(data) != g.data {
			t.Errorf("%s: %q, %v", g.t, data, err)
		}
		buf := NewDataBuffer(len(g.data))
		copy(buf.Space(), g.data)
		if b := buf.Frame(7, g.t, len(g.data)); !bytes.Equal(b, f.Raw()) {
			t.Errorf("a DataBuffer makes %x of %s, Append %x", b, g.t, f.Raw())
		}
	}
	for _, g := range golden {
		seen[g.t] = true
		f, _ := NewReader(bytes.NewReader(Append(nil, g.id, g.t, g.p))).Next()
		m, err := Open(f.Body())
		info, known := Lookup(g.t)
		if err != nil || m.Type != g.t || m.Gen != Generation || f.ID != g.id || !known || f.Flags != info.Flags || TypeOf(f.Body()) != g.t {
			t.Errorf("%s: %+v, %v", g.name, m, err)
		}
		if g.p == nil {
			if err := Decode(m.Payload, &None{}); err != nil {
				t.Errorf("%s: %v", g.name, err)
			}
			continue
		}
		back := reflect.New(reflect.TypeOf(g.p).Elem()).Interface().(Payload)
		if err := Decode(m.Payload, back); err != nil {
			t.Errorf("%s: %v", g.name, err)
		}
		if again := Encode(back); !bytes.Equal(again, m.Payload) {
			t.Errorf("%s: decoded and encoded again: %x, want %x", g.name, again, m.Payload)
		}
	}
	for _, info := range types {
		if !seen[info.Type] {
			t.Errorf("%s has no golden line", info.Type)
		}
	}
}

// No map has more keys than one byte of head can say: encodeMap relies on it.
func TestKeyCounts(t *testing.T) {
	for _, g := range golden {
		if g.p == nil {
			continue
		}
		c := codec{out: []byte{majorMap}}
		g.p.fields(&c)
		if c.count > 23 {
			t.Errorf("%s has %d keys", g.name, c.count)
		}
	}
}
