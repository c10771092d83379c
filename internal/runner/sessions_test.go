package runner

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/execlog"
)

// newLoggedBench is a bench whose relay writes a log, which the function reads.
func newLoggedBench(t *testing.T) (*bench, func() string) {
	b := newBench(t)
	dir := t.TempDir()
	b.r.out = execlog.NewWriter(dir, 0, slog.New(slog.DiscardHandler))
	return b, func() string {
		b.r.out.Close()
		r, err := execlog.Open(t.Context(), dir, execlog.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		var all strings.Builder
		for {
			e, err := r.Next()
			if errors.Is(err, io.EOF) {
				return all.String()
			}
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&all, "%d %s %q\n", *e.Session, e.Source, e.Data)
		}
	}
}

// exec begins a session and lets the agent see it.
func (b *bench) exec(c *testClient, id uint32, tty bool) {
	b.t.Helper()
	b.say(c, agentproto.Append(nil, id, agentproto.TypeExecRequest, &agentproto.ExecRequest{Cmd: "x", TTY: tty}))
	b.want(id, agentproto.TypeExecRequest)
}

// hear passes a frame of the agent's on to a client.
func (b *bench) hear(c *testClient, frame []byte) {
	b.t.Helper()
	b.say(b.agent, frame)
	f, err := c.in.Next()
	if err != nil || string(f.Raw()) != string(frame) {
		b.t.Fatalf("the client got %v, %v", f, err)
	}
}

func TestRelayLogsSessions(t *testing.T) {
	b, read := newLoggedBench(t)
	one, two := b.connect(), b.connect()
	b.exec(one, one.start, false)
	b.exec(two, two.start+7, true)
	b.hear(one, agentproto.AppendData(nil, one.start, agentproto.TypeExecStdout, []byte("out")))
	b.hear(one, agentproto.AppendData(nil, one.start, agentproto.TypeExecStderr, []byte("err\xc3")))
	b.hear(two, agentproto.AppendData(nil, two.start+7, agentproto.TypeExecStdout, []byte("tty")))
	b.hear(one, agentproto.AppendData(nil, one.start, agentproto.TypeFSData, []byte("no output")))
	b.hear(one, agentproto.Append(nil, one.start, agentproto.TypeExecExited, &agentproto.ExecExited{}))
	b.hear(one, agentproto.AppendData(nil, one.start, agentproto.TypeExecStdout, []byte("of no session")))
	b.exec(one, one.start, false) // an id may be used again
	b.hear(one, agentproto.AppendData(nil, one.start, agentproto.TypeExecStdout, []byte("again")))
	b.say(one, agentproto.Append(nil, one.start+1, agentproto.TypeKernelRun, &agentproto.KernelRun{Language: "python"}))
	b.want(one.start+1, agentproto.TypeKernelRun)
	b.hear(one, agentproto.AppendData(nil, one.start+1, agentproto.TypeKernelStdout, []byte("cell")))
	b.hear(one, agentproto.AppendData(nil, one.start+1, agentproto.TypeKernelStderr, []byte("error")))
	b.hear(one, agentproto.Append(nil, one.start+1, agentproto.TypeKernelResult, &agentproto.KernelResult{MIME: "text/plain", Data: []byte("no output")}))
	b.hear(one, agentproto.Append(nil, one.start+1, agentproto.TypeKernelDone, &agentproto.KernelDone{}))
	two.Close()
	b.want(two.start+7, agentproto.TypeExecSignal)
	b.want(0, agentproto.TypeClientDisconnected)
	b.want(two.start, agentproto.TypePing)
	const want = "1 stdout \"out\"\n1 stderr \"err\"\n2 output \"tty\"\n1 stderr \"\\xc3\"\n3 stdout \"again\"\n4 stdout \"cell\"\n4 stderr \"error\"\n"
	if got := read(); got != want {
		t.Errorf("logged\n%s, want\n%s", got, want)
	}
}

// TestWorkIsCounted walks through what is a session and what is activity.
func TestWorkIsCounted(t *testing.T) {
	b := newBench(t)
	c := b.connect()
	var activity uint64
	step := func(what string, open int, active bool) {
		t.Helper()
		now := b.r.work.activity.Load()
		if (now > activity) != active {
			t.Errorf("%s: activity went from %d to %d", what, activity, now)
		}
		activity = now
		if n := b.r.work.sessions(); n != open {
			t.Errorf("%s: %d sessions are open, want %d", what, n, open)
		}
	}
	send := func(id uint32, typ agentproto.Type, p agentproto.Payload) {
		t.Helper()
		b.say(c, agentproto.Append(nil, id, typ, p))
		b.want(id, typ)
	}
	send(c.start, agentproto.TypePing, nil)
	b.hear(c, agentproto.Append(nil, c.start, agentproto.TypePong, nil))
	step("ping", 0, false)
	send(c.start, agentproto.TypeTouch, nil)
	step("touch", 0, true)
	b.hear(c, agentproto.Append(nil, c.start, agentproto.TypeTouched, &agentproto.Touched{ActivitySeq: 1}))
	step("touched", 0, false)
	b.exec(c, c.start+1, false)
	step("exec", 1, true)
	b.hear(c, agentproto.AppendData(nil, c.start+1, agentproto.TypeExecStdout, make([]byte, 1000)))
	step("output", 1, true)
	send(c.start+2, agentproto.TypeTCPConnect, &agentproto.TCPConnect{Host: "localhost", Port: 80})
	step("connect", 2, true)
	send(c.start+3, agentproto.TypeFSRequest, &agentproto.FSRequest{Op: agentproto.FSOp{Op: agentproto.OpStat, FSArgs: agentproto.FSArgs{Path: "/"}}})
	step("stat", 3, true)
	b.hear(c, agentproto.Append(nil, c.start+3, agentproto.TypeFSResponse, &agentproto.FSResponse{OK: true}))
	step("response", 2, true)
	send(c.start+2, agentproto.TypeCancel, nil)
	step("cancel", 1, true)
	b.hear(c, agentproto.Append(nil, c.start+1, agentproto.TypeError, &agentproto.Error{Kind: agentproto.InvalidPayload, Message: strings.Repeat("x", 500)}))
	step("error", 0, false)
	send(c.start+4, agentproto.TypeKernelRun, &agentproto.KernelRun{Language: "python"})
	step("cell", 1, true)
	b.hear(c, agentproto.Append(nil, c.start+4, agentproto.TypeKernelDone, &agentproto.KernelDone{}))
	step("cell's end", 0, true)
	send(c.start+5, agentproto.TypeKernelRequest, &agentproto.KernelRequest{Op: agentproto.KernelList})
	step("list of interpreters", 0, true)
	b.exec(c, c.start+1, false)
	step("exec", 1, true)
	c.Close()
	b.want(c.start+1, agentproto.TypeExecSignal)
	b.want(0, agentproto.TypeClientDisconnected)
	b.want(c.start, agentproto.TypePing)
	step("left", 0, false)
}

func TestDraining(t *testing.T) {
	b := newBench(t)
	c := b.connect()
	b.exec(c, c.start, false)
	drained := make(chan struct{})
	if !b.r.work.drain(func() { close(drained) }) || b.r.work.drain(func() { t.Error("drained by the second") }) {
		t.Error("the first call is the one that counts")
	}
	// Nothing new begins, and the agent does not hear of it; what is there goes on.
	b.say(c, agentproto.Append(nil, c.start+1, agentproto.TypeExecRequest, &agentproto.ExecRequest{Cmd: "x"}))
	f, err := c.in.Next()
	if err != nil {
		t.Fatal(err)
	}
	m, err := agentproto.Open(f.Body())
	var refused agentproto.Error
	if err == nil {
		err = agentproto.Decode(m.Payload, &refused)
	}
	if err != nil || f.ID != c.start+1 || m.Type != agentproto.TypeError || f.Flags&agentproto.Terminal == 0 || refused.Kind != agentproto.InvalidSession {
		t.Errorf("the second session: %v %+v, %v", m.Type, refused, err)
	}
	b.say(c, agentproto.Append(nil, c.start, agentproto.TypePing, nil))
	b.want(c.start, agentproto.TypePing)
	select {
	case <-drained:
		t.Error("drained with a session open")
	default:
	}
	b.hear(c, agentproto.Append(nil, c.start, agentproto.TypeExecExited, &agentproto.ExecExited{}))
	select {
	case <-drained:
	case <-time.After(10 * time.Second):
		t.Error("the last session has ended, and nobody was told")
	}
	idle := work{}
	over := false
	if idle.drain(func() { over = true }); !over {
		t.Error("without sessions it is drained at once")
	}
}

// TestDrainingClientThatDoesNotRead asks for sessions without end and reads no answer: it is let go.
func TestDrainingClientThatDoesNotRead(t *testing.T) {
	b := newBench(t)
	c := b.connect()
	b.r.work.drain(func() {})
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	for n := uint32(0); ; n++ {
		if _, err := c.Write(agentproto.Append(nil, c.start+n, agentproto.TypeFSRequest, &agentproto.FSRequest{Op: agentproto.FSOp{Op: agentproto.OpStat, FSArgs: agentproto.FSArgs{Path: "/"}}})); err != nil {
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				t.Error("it is still listened to")
			}
			break
		}
	}
	b.want(0, agentproto.TypeClientDisconnected)
	b.want(c.start, agentproto.TypePing)
}

// BenchmarkRelay is output from the agent to a client, with and without a log, in pieces of two sizes. cpu-ns/op is what both
// ends, the relay and the log take together.
func BenchmarkRelay(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10} {
		for _, logged := range []bool{false, true} {
			b.Run(fmt.Sprintf("%dKiB/logged=%v", size>>10, logged), func(b *testing.B) { benchRelay(b, size, logged) })
		}
	}
}

func benchRelay(b *testing.B, size int, logged bool) {
	agent, relays := socketPair(b)
	r := &relay{agent: relays, in: agentproto.NewReader(relays), ready: agentproto.Append(nil, 0, agentproto.TypeReady, &agentproto.Ready{}), ending: make(chan struct{})}
	if logged {
		r.out = execlog.NewWriter(b.TempDir(), 0, slog.New(slog.DiscardHandler))
		defer r.out.Close()
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = r.run(); r.close() }()
	conn, other := socketPair(b)
	r.serve(other)
	in := agentproto.NewReader(conn)
	start, _, err := in.Words()
	if err != nil {
		b.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, agent) }()
	if _, err := conn.Write(agentproto.Append(nil, start, agentproto.TypeExecRequest, &agentproto.ExecRequest{Cmd: "x"})); err != nil {
		b.Fatal(err)
	}
	for r.work.sessions() == 0 {
		time.Sleep(time.Millisecond)
	}
	data := []byte(strings.Repeat("a line of text that is about so long, perhaps a little longer\n", 1060))[:size]
	frame := agentproto.AppendData(nil, start, agentproto.TypeExecStdout, data)
	b.SetBytes(int64(len(data)))
	b.ResetTimer()
	before := cpuTime(b)
	go func() {
		for range b.N {
			if _, err := agent.Write(frame); err != nil {
				return
			}
		}
	}()
	for n := 0; n < b.N+1; n++ { // and core.ready
		f, err := in.Next()
		if err != nil {
			b.Fatal(err)
		}
		f.Release()
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
	b.StopTimer()
	agent.Close()
	<-done
	conn.Close()
}

// cpuTime is what this process took so far.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

func socketPair(b *testing.B) (net.Conn, net.Conn) {
	b.Helper()
	host, f, err := controlPair()
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	other, err := net.FileConn(f)
	if err != nil {
		b.Fatal(err)
	}
	return host, other
}
