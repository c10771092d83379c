package jsonrpc

import (
	"errors"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/sandboxfile"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// TestSpecOfOneNamespace has keys of one namespace and of all ask for the server's programs and network.
func TestSpecOfOneNamespace(t *testing.T) {
	ref := sandbox.Ref{Namespace: "team", Name: "a"}
	team, all := server.WithCaller(t.Context(), server.Caller{Namespace: "team"}), server.WithCaller(t.Context(), server.Caller{Namespace: server.AllNamespaces})
	v := New(server.New(server.Config{Namespaces: t.TempDir()}))
	defer v.server.Close()
	host := sandboxfile.Sandbox{Image: sandbox.HostImage}
	if _, err := v.spec(team, ref, host); !errors.Is(err, sandbox.InvalidConfig) {
		t.Errorf("the image host: %v", err)
	}
	if _, err := v.spec(all, ref, host); err != nil {
		t.Errorf("the image host, with a key for all: %v", err)
	}
	any := sandboxfile.Sandbox{Image: "alpine", Scope: "any"}
	mine, err := v.spec(team, ref, any)
	if err != nil || len(mine.Network.Policy.Rules) != 1 || mine.Network.Policy.Rules[0].String() != "deny@host:tcp+udp:0-52,54-65535" {
		t.Errorf("the scope any: %+v, %v", mine.Network.Policy, err)
	}
	theirs, err := v.spec(all, ref, any)
	if err != nil || len(theirs.Network.Policy.Rules) != 0 || theirs.Labels[configLabel] != mine.Labels[configLabel] {
		t.Errorf("the scope any, with a key for all: %+v, %v", theirs, err)
	}
}
