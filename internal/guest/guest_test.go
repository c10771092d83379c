package guest_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentclient/agenttest"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/guest"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func TestExplain(t *testing.T) {
	info := sandbox.Info{Ref: sandbox.DefaultRef("x"), Status: sandbox.Running}
	info.Spec.Resources.MemoryMiB = 64
	lost := &sandbox.Error{Kind: sandbox.NotRunning, Message: "the connection to the sandbox ended"}
	ending := &sandbox.Error{Kind: sandbox.Protocol, Err: &agentproto.Error{Kind: agentproto.InvalidSession, Message: agentproto.ShuttingDown}}
	for name, c := range map[string]struct {
		err  error
		end  *sandbox.End
		gone bool
		want string
	}{
		"out of memory":    {err: lost, end: &sandbox.End{Reason: sandbox.ReasonOOM, Message: "?"}, want: `sandbox "x" ended: it went over its memory limit of 64 MiB`},
		"stopped":          {err: ending, end: &sandbox.End{Reason: sandbox.ReasonShutdown}, want: `sandbox "x" ended: it was stopped`},
		"says it itself":   {err: lost, end: &sandbox.End{Reason: sandbox.ReasonFailed, Message: "it fell over"}, want: `sandbox "x" ended: it fell over`},
		"only a reason":    {err: lost, end: &sandbox.End{Reason: sandbox.ReasonIdle}, want: `sandbox "x" ended: ` + string(sandbox.ReasonIdle)},
		"nobody knows":     {err: lost, want: `sandbox "x" ended`},
		"removed":          {err: lost, gone: true, want: `sandbox "x" ended`},
		"another thing":    {err: &sandbox.Error{Kind: sandbox.Filesystem, Message: "no"}, want: "no"},
		"a backend's word": {err: info.NotRunning("exec"), want: "sandbox 'x' is not running (status: Running)"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // it looks again and again
				begin := time.Now()
				ctx, cancel := context.WithCancel(t.Context())
				cancel() // the caller's time is over; how it ended is told all the same
				err := guest.Explain(ctx, c.err, info, func(context.Context) (sandbox.Info, error) {
					now := info
					if c.gone {
						return now, &sandbox.Error{Kind: sandbox.NotFound}
					}
					if time.Since(begin) > time.Second {
						now.End = c.end
					}
					return now, nil
				})
				var ended *guest.Ended
				if is := errors.As(err, &ended); !strings.Contains(err.Error(), c.want) || is != (err != c.err) || is && !errors.Is(err, sandbox.NotRunning) {
					t.Errorf("%q (%T), want %q", err, err, c.want)
				}
			})
		})
	}
}

// deaf is a backend whose agents do not answer.
type deaf struct{ guest.Dialer }

func (deaf) Dial(context.Context, sandbox.Ref) (net.Conn, error) {
	here, _ := net.Pipe()
	return here, nil
}

func TestConnectTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		_, err := guest.Connect(t.Context(), deaf{}, sandbox.DefaultRef("x"))
		if took := time.Since(begin); sandbox.KindOf(err) != sandbox.Runtime || took != guest.ConnectTimeout {
			t.Errorf("%v after %v", err, took)
		}
	})
}

func TestComplete(t *testing.T) {
	spec := sandbox.Spec{Runtime: sandbox.RuntimeOptions{Entrypoint: []string{"a"}, Cmd: []string{"b", "c"}, Shell: "/bin/zsh", Workdir: "/w"}}
	for _, c := range []struct {
		what guest.What
		req  agentclient.ExecRequest
		spec sandbox.Spec
		want string
	}{
		{guest.Given, agentclient.ExecRequest{Cmd: "x", Args: []string{"y"}}, spec, "x y"},
		{guest.Default, agentclient.ExecRequest{}, spec, "a b c"},
		{guest.Shell, agentclient.ExecRequest{}, spec, "/bin/zsh"},
		{guest.Shell, agentclient.ExecRequest{}, sandbox.Spec{}, sandbox.DefaultShell},
		{guest.Line, agentclient.ExecRequest{Cmd: "l"}, spec, "/bin/zsh -c l"},
		{guest.Default, agentclient.ExecRequest{}, sandbox.Spec{}, ""},
		{guest.Given, agentclient.ExecRequest{}, spec, ""},
	} {
		err := guest.Complete(&c.req, c.what, c.spec, nil)
		got := strings.Join(append([]string{c.req.Cmd}, c.req.Args...), " ")
		if c.want == "" && sandbox.KindOf(err) != sandbox.NoDefaultCommand || c.want != "" && (err != nil || got != c.want) {
			t.Errorf("%+v: %q, %v, want %q", c, got, err, c.want)
		}
	}
}

// kept is a backend that notes what it is asked.
type kept struct {
	backend.Backend
	missing error
	stopped bool
}

func (k *kept) CheckStart(context.Context, sandbox.Info) error { return k.missing }
func (k *kept) Stop(context.Context, sandbox.Ref, backend.StopOptions) error {
	k.stopped = true
	return nil
}

// What cannot be started again is not stopped for it.
func TestRestart(t *testing.T) {
	running := sandbox.Info{Ref: sandbox.DefaultRef("x"), Status: sandbox.Running}
	ephemeral := running
	ephemeral.Spec.Lifecycle.Ephemeral = true
	for _, c := range []struct {
		info    sandbox.Info
		missing error
		kind    sandbox.Kind
	}{{running, nil, ""}, {ephemeral, nil, sandbox.InvalidArgument}, {running, &sandbox.Error{Kind: sandbox.InvalidConfig}, sandbox.InvalidConfig}} {
		b, started := &kept{missing: c.missing}, false
		err := guest.Restart(t.Context(), b, c.info, guest.StopWithin(time.Second, false), func() error { started = true; return nil })
		if ok := c.kind == ""; err == nil != ok || !ok && sandbox.KindOf(err) != c.kind || b.stopped != ok || started != ok {
			t.Errorf("%+v: %v, stopped %v, started %v", c, err, b.stopped, started)
		}
	}
}

// TestLink: a sandbox is looked up once for as long as its record looks the same and its connection lives.
func TestLink(t *testing.T) {
	gets, status, cwd := 0, sandbox.Running, "/a"
	var stamp any
	var far net.Conn
	dials := 0
	l := &guest.Link{
		Get: func(context.Context) (sandbox.Info, error) {
			gets++
			return sandbox.Info{Status: status, Spec: sandbox.Spec{Runtime: sandbox.RuntimeOptions{Workdir: cwd}}}, nil
		},
		Dial: func(context.Context) (*agentclient.Client, error) {
			dials++
			var near net.Conn
			near, far = net.Pipe()
			return agenttest.Connect(t, near, agentproto.Append(nil, 0, agentproto.TypeReady, &agentproto.Ready{})), nil
		},
		Stamp: func() any { return stamp },
	}
	t.Cleanup(func() { _ = l.Close() })
	check := func(what, dir string, wantGets, wantDials int) {
		t.Helper()
		_, spec, err := l.Agent(t.Context())
		if err != nil || spec.Runtime.Workdir != dir || gets != wantGets || dials != wantDials {
			t.Errorf("%s: %q, %v after %d looks and %d connections, want %q after %d and %d", what, spec.Runtime.Workdir, err, gets, dials, dir, wantGets, wantDials)
		}
		if _, err := l.Client(t.Context()); err != nil || gets != wantGets {
			t.Errorf("%s: %v after %d looks", what, err, gets)
		}
	}
	check("not known", "/a", 1, 1)
	check("not known again", "/a", 2, 1)
	stamp = 1
	check("new", "/a", 3, 1)
	cwd = "/b"
	check("the same", "/a", 3, 1)
	stamp = 2
	check("changed", "/b", 4, 1)
	client, err := l.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	far.Close()
	<-client.Done()
	check("another run", "/b", 5, 2)
	status = sandbox.Stopped
	far.Close()
	client, _ = l.Client(t.Context())
	if client != nil {
		<-client.Done()
	}
	if _, _, err := l.Agent(t.Context()); sandbox.KindOf(err) != sandbox.NotRunning {
		t.Errorf("stopped: %v", err)
	}
	_ = l.Close()
	if _, _, err := l.Agent(t.Context()); err != guest.ErrClosed {
		t.Errorf("closed: %v", err)
	}
}
