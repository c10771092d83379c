package agentclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// sh is a request for a script.
func sh(script string) agentclient.ExecRequest {
	return agentclient.ExecRequest{Cmd: "/bin/sh", Args: []string{"-c", script}}
}

// start runs a command that the test does not wait for.
func (g *guest) start(t *testing.T, req agentclient.ExecRequest) *agentclient.Session {
	t.Helper()
	s, err := g.Client.Exec(t.Context(), req)
	if err != nil {
		t.Fatalf("exec %s: %v", req.Cmd, err)
	}
	return s
}

// until polls a condition that another process makes true.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timed out waiting until %s", what)
		}
	}
}

// alive reports whether a process exists and is not a zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

func TestExec(t *testing.T) {
	b := agentproto.Bootstrap{DefaultCwd: "/usr", DefaultEnv: []agentproto.EnvVar{{Key: "A", Value: "1"}, {Key: "B", Value: "2"}}}
	eachPlace(t, b, func(t *testing.T, g *guest) {
		req := sh("echo $A $B $PATH; pwd; echo no >&2; exit 7")
		req.Cmd, req.Env = "sh", []string{"B=3"}
		out, errs, code := g.output(t, req)
		want := "1 3 /.msb/scripts:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n/usr\n"
		if out != want || errs != "no\n" || code != 7 {
			t.Errorf("have %q, %q, %d; want %q", out, errs, code, want)
		}
		if _, _, code := g.output(t, sh("kill -KILL $$")); code != -1 {
			t.Errorf("killed by a signal: code %d, want -1", code)
		}
		req = sh("pwd; echo $PATH $HOME")
		req.Cwd, req.Env = "/bin/..", []string{"PATH=/.msb/scripts:/bin", "HOME=/h"}
		if out, _, _ := g.output(t, req); out != "/\n/.msb/scripts:/bin /h\n" && out != "/usr\n/.msb/scripts:/bin /h\n" {
			t.Errorf("have %q", out)
		}
	})
}

func TestStdin(t *testing.T) {
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		data := make([]byte, 5<<20)
		for i := range data {
			data[i] = byte(rand.Uint32())
		}
		var out buffer
		s := g.start(t, agentclient.ExecRequest{Cmd: "cat", Stdin: bytes.NewReader(data), Stdout: &out})
		if code, err := s.Wait(); code != 0 || err != nil || !bytes.Equal(out, data) {
			t.Errorf("cat: code %d, error %v, %d bytes of %d", code, err, len(out), len(data))
		}

		// Who does not read gets an error that does not end the session.
		s = g.start(t, sh("exec <&-; echo closed; read -r x; sleep 0.3; echo done"))
		if e, err := s.Recv(); err != nil || string(e.Data) != "closed\n" {
			t.Fatalf("have %v, %v", e, err)
		}
		if _, err := s.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		var kinds []agentclient.EventKind
		for {
			e, err := s.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if e.Kind == agentclient.EventStdinError && e.StdinError.ErrnoName != "EPIPE" {
				t.Errorf("have %+v", e.StdinError)
			}
			if e.Kind != agentclient.EventStderr {
				kinds = append(kinds, e.Kind)
			}
		}
		want := []agentclient.EventKind{agentclient.EventStdinError, agentclient.EventStdout, agentclient.EventExited}
		if fmt.Sprint(kinds) != fmt.Sprint(want) {
			t.Errorf("have events %v, want %v", kinds, want)
		}
	})
}

func TestFailures(t *testing.T) {
	dir := t.TempDir()
	noexec, text := dir+"/noexec", dir+"/text"
	if err := errors.Join(os.WriteFile(noexec, nil, 0o600), os.WriteFile(text, []byte("x"), 0o700)); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		req     agentclient.ExecRequest
		kind    agentproto.FailureKind
		errno   string
		message string
	}{
		{agentclient.ExecRequest{Cmd: "/no/such"}, agentproto.FailNotFound, "ENOENT", `spawn "/no/such": no such file or directory`},
		{agentclient.ExecRequest{Cmd: "nosuchcommand"}, agentproto.FailNotFound, "ENOENT", `spawn "nosuchcommand": no such file or directory`},
		{agentclient.ExecRequest{Cmd: "/bin/sh/x"}, agentproto.FailBadCwd, "ENOTDIR", `spawn "/bin/sh/x": not a directory`},
		{agentclient.ExecRequest{Cmd: noexec}, agentproto.FailPermissionDenied, "EACCES", ""},
		{agentclient.ExecRequest{Cmd: text}, agentproto.FailNotExecutable, "ENOEXEC", ""},
		{agentclient.ExecRequest{Cmd: "/bin/sh", Cwd: "/nowhere"}, agentproto.FailBadCwd, "ENOENT", `spawn "/bin/sh": chdir "/nowhere": no such file or directory`},
		{agentclient.ExecRequest{Cmd: "/bin/sh", Cwd: text}, agentproto.FailBadCwd, "ENOTDIR", ""},
		{agentclient.ExecRequest{Cmd: "sh", Args: []string{strings.Repeat("x", 1<<20)}}, agentproto.FailBadArgs, "E2BIG", ""},
		{agentclient.ExecRequest{Cmd: "sh", Args: []string{"a\x00b"}}, agentproto.FailBadArgs, "", ""},
		{agentclient.ExecRequest{Cmd: ""}, agentproto.FailBadArgs, "", ""},
		{agentclient.ExecRequest{Cmd: "sh", User: "nosuchuser"}, agentproto.FailUserSetup, "", `spawn "sh": unknown user "nosuchuser"`},
		{agentclient.ExecRequest{Cmd: "sh", User: "root:nosuchgroup"}, agentproto.FailUserSetup, "", `spawn "sh": unknown group "nosuchgroup"`},
		{agentclient.ExecRequest{Cmd: "sh", Rlimits: []sandbox.Rlimit{{Resource: "x"}}}, agentproto.FailResourceLimit, "", `spawn "sh": unknown resource limit "x"`},
	}
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		for _, c := range cases {
			s, err := g.Client.Exec(t.Context(), c.req)
			if s != nil {
				t.Fatalf("%+v started", c.req)
			}
			if !errors.Is(err, sandbox.ExecFailed) {
				t.Errorf("%v is not ExecFailed", err)
			}
			f := failure(t, err)
			if f.Kind != c.kind || f.ErrnoName != c.errno || c.message != "" && f.Message != c.message {
				t.Errorf("have %+v, want %+v", *f, c)
			}
		}
		if out := g.sh(t, "echo fine"); out != "fine\n" {
			t.Errorf("have %q", out)
		}
	})
}

// counter counts what is written to it and checks that it is whole.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

func TestMuchOutput(t *testing.T) {
	const size = 128 << 20
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var c counter
		req := sh(fmt.Sprintf("head -c %d /dev/zero", size))
		req.Stdout = &c
		begin := time.Now()
		if code, err := g.start(t, req).Wait(); code != 0 || err != nil {
			t.Fatal(code, err)
		}
		t.Logf("%d MB/s", int64(size)/1e3/time.Since(begin).Milliseconds())
		runtime.ReadMemStats(&after)
		if c.n != size {
			t.Errorf("have %d bytes of %d", c.n, size)
		}
		if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 48<<20 {
			t.Errorf("the heap grew by %d MiB", grown>>20)
		}
	})
}

// A command that does not read its input stops its own writer, and nobody else.
func TestStdinBackPressure(t *testing.T) {
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		s := g.start(t, sh("sleep 1000"))
		var sent atomic.Int64
		stopped := make(chan error, 1)
		go func() {
			chunk := make([]byte, 64<<10)
			for {
				n, err := s.Write(chunk)
				sent.Add(int64(n))
				if err != nil {
					stopped <- err
					return
				}
			}
		}()
		until(t, "the window is full", func() bool { return sent.Load() >= agentclient.Window })
		for range 20 {
			if err := g.Client.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if out := g.sh(t, "echo other"); out != "other\n" {
			t.Errorf("have %q", out)
		}
		if n := sent.Load(); n > 2*agentclient.Window {
			t.Errorf("%d bytes are under way", n)
		}
		if err := s.Signal(int(syscall.SIGKILL)); err != nil {
			t.Fatal(err)
		}
		if code, err := s.Wait(); code != -1 || err != nil {
			t.Errorf("have %d, %v", code, err)
		}
		if err := <-stopped; err == nil {
			t.Error("writing to a command that is gone did not fail")
		}
	})
}

// A client that does not read one session's output still gets the others'.
func TestOutputBackPressure(t *testing.T) {
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		s := g.start(t, sh("yes"))
		time.Sleep(100 * time.Millisecond) // long enough to fill any window
		if out := g.sh(t, "echo other"); out != "other\n" {
			t.Errorf("have %q", out)
		}
		s.Close()
		until(t, "the command is dead", func() bool { return !alive(int(s.PID())) })
	})
}

// Whoever stops in the middle leaves nothing behind in the agent.
func TestAbandoned(t *testing.T) {
	g := startGuest(t, inProcess, agentproto.Bootstrap{})
	defer g.stop(t)
	g.sh(t, "true")
	before := runtime.NumGoroutine()
	for range 5 {
		s := g.start(t, sh("yes"))
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
		s.Close()
		r, err := g.Client.OpenRead(t.Context(), "/dev/zero")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		s, err = g.Client.Exec(ctx, sh("setsid sh -c 'while :; do echo x; sleep 0.01; done' & sleep 1000"))
		if err != nil {
			t.Fatal(err)
		}
		e, err := s.Recv()
		if err != nil || e.Kind != agentclient.EventStdout {
			t.Fatal(e, err)
		}
		cancel()
		s.Close()
	}
	until(t, "the agent has let go of everything", func() bool { return runtime.NumGoroutine() <= before })
}

func TestPTY(t *testing.T) {
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		req := sh(`stty size; test -t 0 && test -t 1 && test -t 2 && echo tty; trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.05; done`)
		req.TTY, req.Rows, req.Cols = true, 30, 100
		s := g.start(t, req)
		var got strings.Builder
		for {
			e, err := s.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			switch e.Kind {
			case agentclient.EventStdout:
				got.Write(e.Data)
				if strings.HasSuffix(got.String(), "ready\r\n") {
					if err := s.Resize(40, 120); err != nil {
						t.Fatal(err)
					}
				}
			case agentclient.EventExited:
				if e.Code != 3 {
					t.Errorf("code %d", e.Code)
				}
			default:
				t.Errorf("a PTY has event %v", e)
			}
		}
		if want := "30 100\r\ntty\r\nready\r\n40 120\r\n"; got.String() != want {
			t.Errorf("have %q, want %q", got.String(), want)
		}

		var out buffer
		req = agentclient.ExecRequest{Cmd: "cat", TTY: true, Stdout: &out, Stdin: strings.NewReader("hello\n\x04")}
		if code, err := g.start(t, req).Wait(); code != 0 || err != nil || string(out) != "hello\r\nhello\r\n" {
			t.Errorf("cat on a PTY: %d, %v, %q", code, err, out)
		}
	})
}

func TestUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		for _, c := range []struct{ user, want string }{
			{"", "0 0 0 /root"},
			{"root", "0 0 0 /root"},
			{"0", "0 0 0 /root"},
			{"daemon", "1 1 1 /usr/sbin"},
			{"1:0", "1 0 0 /usr/sbin"},
			{"daemon:bin", "1 2 2 /usr/sbin"},
			{"54321", "54321 0 0 "},
			{"54321:54322", "54321 54322 54322 "},
		} {
			req := sh("echo $(id -u) $(id -g) $(id -G) $HOME; echo x >/dev/stdout")
			req.User = c.user
			out, errs, code := g.output(t, req)
			if want := strings.TrimRight(c.want, " ") + "\nx\n"; out != want || errs != "" || code != 0 {
				t.Errorf("%q: have %q, %q, %d; want %q", c.user, out, errs, code, want)
			}
		}
		req := sh("tty >/dev/null && echo x >/dev/tty")
		req.User, req.TTY = "daemon", true
		if out, _, code := g.output(t, req); out != "x\r\n" || code != 0 {
			t.Errorf("daemon's tty: %q, %d", out, code)
		}
	})
}

func TestRlimits(t *testing.T) {
	b := agentproto.Bootstrap{Rlimits: []agentproto.Rlimit{{Resource: "core", Soft: 0, Hard: 1 << 20}, {Resource: "nofile", Soft: 100, Hard: 200}}}
	eachPlace(t, b, func(t *testing.T, g *guest) {
		if out := g.sh(t, "ulimit -Sn; ulimit -Hn; ulimit -Sc"); out != "100\n200\n0\n" {
			t.Errorf("the guest's own: %q", out)
		}
		req := sh("ulimit -Sn; ulimit -Hn; sh -c 'ulimit -Sn'")
		req.Rlimits = []sandbox.Rlimit{{Resource: "nofile", Soft: 50, Hard: 60}}
		for range 20 {
			if out, errs, _ := g.output(t, req); out != "50\n60\n50\n" {
				t.Errorf("have %q, %q", out, errs)
			}
		}
		req.Cmd = "/no/such"
		if _, err := g.Client.Exec(t.Context(), req); failure(t, err).Kind != agentproto.FailNotFound {
			t.Errorf("have %v", err)
		}
		req = sh("sleep 1000")
		req.Rlimits = []sandbox.Rlimit{{Resource: "cpu", Soft: 2, Hard: 1}}
		if _, err := g.Client.Exec(t.Context(), req); failure(t, err).Kind != agentproto.FailResourceLimit {
			t.Errorf("have %v", err)
		}
	})
}

func TestInterleaved(t *testing.T) {
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		var all sync.WaitGroup
		for i := range 64 {
			all.Go(func() {
				var out, errs buffer
				req := sh(fmt.Sprintf("for i in 1 2 3 4 5; do echo %d $i; echo %d $i >&2; done; cat; exit %d", i, i, i))
				req.Stdout, req.Stderr, req.Stdin = &out, &errs, strings.NewReader(strings.Repeat(strconv.Itoa(i)+"\n", 1000))
				s, err := g.Client.Exec(t.Context(), req)
				if err != nil {
					t.Errorf("exec %d: %v", i, err)
					return
				}
				code, err := s.Wait()
				var head strings.Builder
				for n := range 5 {
					fmt.Fprintf(&head, "%d %d\n", i, n+1)
				}
				want := head.String() + strings.Repeat(strconv.Itoa(i)+"\n", 1000)
				if code != i || err != nil || string(out) != want || string(errs) != head.String() {
					t.Errorf("exec %d: code %d, error %v, %d bytes of %d", i, code, err, len(out), len(want))
				}
			})
		}
		all.Wait()
	})
}

// core.exec.exited comes after the last byte, whoever writes it.
func TestBackgroundWriter(t *testing.T) {
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		if out := g.sh(t, "(sleep 0.2; echo tail) & echo head"); out != "head\ntail\n" {
			t.Errorf("have %q", out)
		}
		// Its group can be signalled after its leader's end.
		s := g.start(t, sh("sleep 1000 & echo $!"))
		e, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		pid, _ := strconv.Atoi(strings.TrimSpace(string(e.Data)))
		until(t, "the leader is gone", func() bool { return !alive(int(s.PID())) })
		if err := s.Signal(int(syscall.SIGTERM)); err != nil {
			t.Fatal(err)
		}
		if code, err := s.Wait(); code != 0 || err != nil {
			t.Errorf("have %d, %v", code, err)
		}
		until(t, "the background process is dead", func() bool { return !alive(pid) })
	})
}

func TestSignalsAndContexts(t *testing.T) {
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		s := g.start(t, sh("trap 'exit 5' USR1; echo ready; while :; do sleep 0.02; done"))
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
		if err := s.Signal(int(syscall.SIGUSR1)); err != nil {
			t.Fatal(err)
		}
		if code, err := s.Wait(); code != 5 || err != nil {
			t.Errorf("have %d, %v", code, err)
		}

		req := sh("sleep 1000")
		req.Timeout = 50 * time.Millisecond
		s = g.start(t, req)
		_, err := s.Wait()
		if !errors.Is(err, sandbox.ExecTimeout) || err.Error() != "exec timed out after 50ms" {
			t.Errorf("have %v", err)
		}
		until(t, "the command is dead", func() bool { return !alive(int(s.PID())) })

		ctx, cancel := context.WithCancel(t.Context())
		s, err = g.Client.Exec(ctx, sh("sleep 1000"))
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := s.Wait(); !errors.Is(err, sandbox.Cancelled) || !errors.Is(err, context.Canceled) {
			t.Errorf("have %v", err)
		}
		until(t, "the command is dead", func() bool { return !alive(int(s.PID())) })
	})
}

// tree starts a command with a child in its process group and returns both.
func (g *guest) tree(t *testing.T) (s *agentclient.Session, pids []int) {
	t.Helper()
	s = g.start(t, sh("sleep 1000 & echo $!; wait"))
	e, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(e.Data)))
	if err != nil {
		t.Fatal(err)
	}
	return s, []int{int(s.PID()), child}
}

func TestClientDisconnected(t *testing.T) {
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		s, pids := g.tree(t)
		start, end := agentproto.IDRange(1)
		if err := g.Client.Send(0, agentproto.TypeClientDisconnected, &agentproto.ClientDisconnected{IDStart: start, IDEnd: end}); err != nil {
			t.Fatal(err)
		}
		if err := g.Client.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			if !alive(pid) {
				t.Error("another client's end killed the session")
			}
		}
		start, end = g.Client.IDRange()
		if err := g.Client.Send(0, agentproto.TypeClientDisconnected, &agentproto.ClientDisconnected{IDStart: start, IDEnd: end}); err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			until(t, "the session is dead", func() bool { return !alive(pid) })
		}
		s.Close()
	})
}

func TestConnectionEnds(t *testing.T) {
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		s, pids := g.tree(t)
		noisy := g.start(t, sh("yes"))
		pids = append(pids, int(noisy.PID()))
		_ = g.Client.Close()
		if _, err := s.Wait(); err == nil {
			t.Error("a session survived its connection")
		}
		for _, pid := range pids {
			until(t, "the session is dead", func() bool { return !alive(pid) })
		}
	})
}
