package runner

import (
	"reflect"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func TestHandoff(t *testing.T) {
	env := []sandbox.EnvVar{{Key: "A", Value: "1"}}
	for what, c := range map[string]struct {
		init       sandbox.Init
		entrypoint []string
		want       agentproto.HandoffInit
		before     []string // what then comes before a command
	}{
		"a program": {sandbox.Init{Cmd: "/sbin/x", Args: []string{"y"}, Env: env}, []string{"/init"},
			agentproto.HandoffInit{Cmd: "/sbin/x", Args: []string{"y"}, Env: []agentproto.EnvVar{{Key: "A", Value: "1"}}}, []string{"/init"}},
		"the image's": {sandbox.Init{Cmd: "auto"}, []string{"/init", "-v"}, agentproto.HandoffInit{Cmd: "/init", Args: []string{"-v"}}, nil},
		"the image's, with arguments": {sandbox.Init{Cmd: "auto", Args: []string{"z"}}, []string{"/init", "-v"},
			agentproto.HandoffInit{Cmd: "/init", Args: []string{"z"}}, nil},
		"the agent looks":  {sandbox.Init{Cmd: "auto"}, []string{"/entry.sh"}, agentproto.HandoffInit{Cmd: "auto"}, []string{"/entry.sh"}},
		"nothing is known": {sandbox.Init{Cmd: "auto"}, nil, agentproto.HandoffInit{Cmd: "auto"}, nil},
	} {
		if got := handoff(c.init, c.entrypoint); !reflect.DeepEqual(*got, c.want) {
			t.Errorf("%s: %+v, want %+v", what, *got, c.want)
		}
		spec := sandbox.Spec{Init: &c.init, Runtime: sandbox.RuntimeOptions{Entrypoint: c.entrypoint}}
		if got := spec.Entrypoint(); !reflect.DeepEqual(got, c.before) {
			t.Errorf("%s: %q comes before a command, want %q", what, got, c.before)
		}
	}
}
