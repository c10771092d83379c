package jsonrpc

import (
	"context"

	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// maxName is the longest name, in bytes (contract server-v0.2 §1.8).
const maxName = 63

// checkName says what is wrong with a name, in the order and words of contract server-v0.2 §1.8.
func checkName(what, name string, wildcard bool) error {
	switch {
	case name == "":
		return server.Invalid("%s cannot be empty", what)
	case len(name) > maxName:
		return server.Invalid("%s cannot exceed 63 characters", what)
	case wildcard && name == "*":
		return server.Invalid("Wildcard namespace (*) is not valid for sandbox creation")
	}
	for _, c := range []byte(name) {
		if !alphanumeric(c) && c != '-' && c != '_' {
			return server.Invalid("%s can only contain alphanumeric characters, hyphens, or underscores", what)
		}
	}
	if !alphanumeric(name[0]) {
		return server.Invalid("%s must start with an alphanumeric character", what)
	}
	return nil
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// Ref checks the names of a sandbox, and that the caller may use it.
func Ref(ctx context.Context, namespace, name string) (sandbox.Ref, error) {
	if err := checkName("Sandbox name", name, false); err != nil {
		return sandbox.Ref{}, err
	}
	if err := checkName("Namespace", namespace, true); err != nil {
		return sandbox.Ref{}, err
	}
	if err := server.CallerOf(ctx).Check(namespace); err != nil {
		return sandbox.Ref{}, err
	}
	return sandbox.Ref{Namespace: namespace, Name: sandbox.Name(name)}, nil
}
