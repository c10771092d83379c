package microsandbox_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"testing/iotest"
	"time"

	"github.com/microsandbox-go/microsandbox"
)

func TestFS(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "fs", microsandbox.WithEphemeral(true))
	f := sb.FS()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(f.Mkdir(ctx, "/tmp/a/b/c"))
	check(f.Mkdir(ctx, "/tmp/a/b/c"))
	check(f.WriteString(ctx, "/tmp/a/file", "content"))
	if got := must[string](t)(f.ReadString(ctx, "/tmp/a/file")); got != "content" {
		t.Errorf("read %q", got)
	}
	check(f.Copy(ctx, "/tmp/a/file", "/tmp/a/copy"))
	check(f.Rename(ctx, "/tmp/a/copy", "/tmp/a/moved"))
	st := must[*microsandbox.FsStat](t)(f.Stat(ctx, "/tmp/a/moved"))
	if st.Size != 7 || st.IsDir || st.Mode&0o170000 != 0o100000 || time.Since(st.ModTime) > time.Hour || st.Path != "/tmp/a/moved" {
		t.Errorf("stat %+v", st)
	}
	kinds := map[string]microsandbox.FsEntryKind{}
	shell(t, sb, "ln -s file /tmp/a/link; mkfifo /tmp/a/pipe")
	for _, e := range must[[]microsandbox.FsEntry](t)(f.List(ctx, "/tmp/a")) {
		kinds[e.Path] = e.Kind
	}
	for path, kind := range map[string]microsandbox.FsEntryKind{"/tmp/a/b": "directory", "/tmp/a/file": "file", "/tmp/a/link": "symlink", "/tmp/a/pipe": "other"} {
		if kinds[path] != kind {
			t.Errorf("%s is a %q, want %q", path, kinds[path], kind)
		}
	}
	for path, want := range map[string]bool{"/tmp/a/file": true, "/tmp/a/link": true, "/tmp/nothing": false} {
		if got, err := f.Exists(ctx, path); got != want || err != nil {
			t.Errorf("Exists(%s) = %v, %v", path, got, err)
		}
	}
	check(f.Remove(ctx, "/tmp/a/link"))
	check(f.RemoveDir(ctx, "/tmp/a"))
	_, err := f.Read(ctx, "/tmp/a/file")
	wantKind(t, err, microsandbox.ErrFilesystem)
	wantKind(t, err, microsandbox.ErrPathNotFound)
	if !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "sandbox fs error: open: ") {
		t.Errorf("error %v", err)
	}

	dir := t.TempDir()
	check(os.MkdirAll(filepath.Join(dir, "tree/sub"), 0o755))
	check(os.WriteFile(filepath.Join(dir, "tree/sub/f"), []byte("from here"), 0o640))
	check(f.CopyFromHost(ctx, filepath.Join(dir, "tree"), "/tmp/tree"))
	if got := must[string](t)(f.ReadString(ctx, "/tmp/tree/sub/f")); got != "from here" {
		t.Errorf("copied %q", got)
	}
	check(f.CopyToHost(ctx, "/tmp/tree/sub/f", filepath.Join(dir, "back")))
	if got := must[[]byte](t)(os.ReadFile(filepath.Join(dir, "back"))); string(got) != "from here" {
		t.Errorf("copied back %q", got)
	}
}

func TestFSStreams(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "fs", microsandbox.WithEphemeral(true), microsandbox.WithMemory(1024))
	f := sb.FS()
	size := int64(48 << 20)
	if testing.Short() {
		size = 4 << 20
	}
	sum := sha256.New()
	w := must[*microsandbox.FsWriteStream](t)(f.WriteStream(ctx, "/tmp/large"))
	n, err := io.CopyN(io.MultiWriter(w, sum), random(), size)
	if err != nil || n != size {
		t.Fatal(n, err)
	}
	if err := w.WriteCtx(ctx, []byte("end")); err != nil {
		t.Fatal(err)
	}
	sum.Write([]byte("end"))
	if err := w.Close(ctx); err != nil {
		t.Fatal(err)
	}
	wantKind(t, w.Close(ctx), microsandbox.ErrInvalidHandle)
	want := hex.EncodeToString(sum.Sum(nil))
	if got := shell(t, sb, "sha256sum < /tmp/large"); !strings.HasPrefix(got, want) {
		t.Errorf("the guest has %s, want %s", got, want)
	}
	r := must[*microsandbox.FsReadStream](t)(f.ReadStream(ctx, "/tmp/large"))
	back := sha256.New()
	piece := must[[]byte](t)(r.Recv(ctx))
	back.Write(piece)
	if _, err := r.WriteTo(back); err != nil {
		t.Fatal(err)
	}
	if piece, err := r.Recv(ctx); piece != nil || err != nil {
		t.Errorf("after the end: %d bytes, %v", len(piece), err)
	}
	if err := errors.Join(r.Close(), r.Close()); err != nil {
		t.Error(err)
	}
	if got := hex.EncodeToString(back.Sum(nil)); got != want {
		t.Errorf("read %s, want %s", got, want)
	}
	data := must[[]byte](t)(f.Read(ctx, "/tmp/large"))
	if all := sha256.Sum256(data); hex.EncodeToString(all[:]) != want {
		t.Errorf("Read returned something else")
	}
	// A reader that stops hinders nobody, and can be given up.
	stuck := must[*microsandbox.FsReadStream](t)(f.ReadStream(ctx, "/dev/zero"))
	must[[]byte](t)(stuck.Recv(ctx))
	if got := shell(t, sb, "echo free"); got != "free" {
		t.Errorf("beside a stuck reader: %q", got)
	}
	late, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = stuck.CopyTo(late, io.Discard)
	wantKind(t, err, microsandbox.ErrCancelled)
	if err := stuck.Close(); err != nil {
		t.Error(err)
	}
	full := must[*microsandbox.FsWriteStream](t)(f.WriteStream(ctx, "/dev/full"))
	_, err = full.Write(make([]byte, 4<<20))
	if cerr := full.Close(ctx); err == nil {
		err = cerr
	}
	wantKind(t, err, microsandbox.ErrFilesystem)
}

// random is the same bytes every time.
func random() io.Reader { return rand.NewChaCha8([32]byte{1}) }

func TestIOFS(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "io", microsandbox.WithEphemeral(true))
	shell(t, sb, "mkdir -p /tmp/tree/sub/deep /tmp/tree/empty; echo one > /tmp/tree/one; echo two > /tmp/tree/sub/two; head -c 200000 /dev/zero > /tmp/tree/sub/deep/big")
	tree := sb.FS().IO(ctx, "/tmp/tree")
	if err := fstest.TestFS(tree, "one", "sub/two", "sub/deep/big", "empty"); err != nil {
		t.Error(err)
	}
	sub := must[fs.FS](t)(fs.Sub(tree, "sub"))
	if got := must[[]byte](t)(fs.ReadFile(sub, "two")); string(got) != "two\n" {
		t.Errorf("read %q", got)
	}
	if names := must[[]string](t)(fs.Glob(tree, "*/t*")); len(names) != 1 || names[0] != "sub/two" {
		t.Errorf("glob %v", names)
	}
	_, err := tree.Open("nothing")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	file := must[fs.File](t)(tree.Open("sub/deep/big"))
	defer file.Close()
	if err := iotest.TestReader(file, make([]byte, 200000)); err != nil {
		t.Error(err)
	}
}

func TestDialAndAgent(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "net", microsandbox.WithEphemeral(true), microsandbox.WithNetwork(microsandbox.NetworkPolicy.None()))
	server := `import http.server
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"served")
s = http.server.HTTPServer(("127.0.0.1", 0), H)
print(s.server_port, flush=True)
s.serve_forever()`
	x := must[*microsandbox.ExecHandle](t)(sb.ExecStream(ctx, "python3", []string{"-c", server}))
	defer x.Close()
	port := ""
	for port == "" {
		e := must[*microsandbox.ExecEvent](t)(x.Recv(ctx))
		if e.Kind == microsandbox.ExecEventFailed || e.Kind == microsandbox.ExecEventExited {
			t.Skipf("no server in the guest: %+v", e.Failure)
		}
		if e.Kind == microsandbox.ExecEventStdout {
			port = strings.TrimSpace(string(e.Data))
		}
	}
	client := http.Client{Transport: &http.Transport{DialContext: sb.DialContext, DisableKeepAlives: true}}
	resp, err := client.Get("http://127.0.0.1:" + port + "/")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(body) != "served" {
		t.Errorf("body %q", body)
	}
	if _, err := sb.DialContext(ctx, "udp", "127.0.0.1:1"); !microsandbox.IsKind(err, microsandbox.ErrUnsupportedOperation) {
		t.Errorf("udp: %v", err)
	}
	if _, err := sb.DialContext(ctx, "tcp", "127.0.0.1:1"); err == nil {
		t.Error("a port that nobody listens at answers")
	}

	path := must[string](t)(microsandbox.AgentSocketPath("net"))
	for name, connect := range map[string]func() (*microsandbox.AgentClient, error){
		"by name": func() (*microsandbox.AgentClient, error) { return microsandbox.ConnectAgentSandbox(ctx, "net") },
		"by path": func() (*microsandbox.AgentClient, error) { return microsandbox.ConnectAgentPath(ctx, path) },
	} {
		agent := must[*microsandbox.AgentClient](t)(connect())
		if ready := must[[]byte](t)(agent.ReadyBytes()); !bytes.Contains(ready, []byte("core.ready")) {
			t.Errorf("%s: ready %q", name, ready)
		}
		// {"v": 7, "t": "core.ping", "p": h'a0'}
		ping := append([]byte("\xa3\x61v\x07\x61t\x69core.ping\x61p\x41"), 0xa0)
		frame := must[*microsandbox.RawFrame](t)(agent.Request(ctx, 0, ping))
		if !bytes.Contains(frame.Body, []byte("core.pong")) || frame.Flags != microsandbox.FlagTerminal {
			t.Errorf("%s: answer %d %q", name, frame.Flags, frame.Body)
		}
		s := must[*microsandbox.AgentStream](t)(agent.Stream(ctx, 0, ping))
		if f := must[*microsandbox.RawFrame](t)(s.Next(ctx)); f.ID != s.ID() {
			t.Errorf("%s: id %d, want %d", name, f.ID, s.ID())
		}
		if f, err := s.Next(ctx); f != nil || err != nil {
			t.Errorf("%s: after the end %v, %v", name, f, err)
		}
		wantKind(t, agent.Send(ctx, 0xffffffff, 0, ping), microsandbox.ErrInvalidArgument)
		if err := errors.Join(s.Close(ctx), agent.CloseCtx(ctx), agent.Close()); err != nil {
			t.Error(err)
		}
	}
}
