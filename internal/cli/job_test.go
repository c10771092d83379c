package cli

import (
	"errors"
	"slices"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func TestJobComplete(t *testing.T) {
	t.Setenv("TERM", "")
	spec := sandbox.Spec{Name: "s", Runtime: sandbox.RuntimeOptions{Workdir: "/w", User: "u", Shell: "/bin/zsh"}, Env: []sandbox.EnvVar{{Key: "A", Value: "1"}, {Key: "B", Value: "2"}}}
	j := job{env: []sandbox.EnvVar{{Key: "B", Value: "3"}}, req: agentclient.ExecRequest{Cmd: "x", Args: []string{"y"}}}
	if err := j.complete(spec); err != nil {
		t.Fatal(err)
	}
	if j.req.Cwd != "/w" || j.req.User != "u" || !slices.Equal(j.req.Env, []string{"A=1", "B=3"}) {
		t.Errorf("request is %+v", j.req)
	}

	j = job{req: agentclient.ExecRequest{TTY: true, Cwd: "/mine", User: "me"}}
	if err := j.complete(spec); err != nil {
		t.Fatal(err)
	}
	if j.req.Cmd != "/bin/zsh" || j.req.Cwd != "/mine" || j.req.User != "me" || !slices.Equal(j.req.Env, []string{"A=1", "B=2", "TERM=xterm"}) {
		t.Errorf("request with a terminal is %+v", j.req)
	}

	spec.Env = append(spec.Env, sandbox.EnvVar{Key: "TERM", Value: "mine"})
	j = job{req: agentclient.ExecRequest{TTY: true, Cmd: "x"}}
	if err := j.complete(spec); err != nil || slices.Contains(j.req.Env, "TERM=xterm") {
		t.Errorf("TERM of the sandbox does not win: %v, %v", j.req.Env, err)
	}

	j = job{}
	if err := j.complete(sandbox.Spec{}); !errors.Is(err, sandbox.NoDefaultCommand) {
		t.Errorf("nothing to run: %v", err)
	}
	j = job{req: agentclient.ExecRequest{Cmd: "x"}}
	if err := j.complete(sandbox.Spec{}); err != nil || j.req.Cwd != "/" {
		t.Errorf("no directory: %q, %v", j.req.Cwd, err)
	}
}
