package jsonrpc

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/sandboxfile"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (v *Service) rpcStop(ctx context.Context, params json.RawMessage) (any, error) {
	namespace, name, err := ParseNames(params)
	if err != nil {
		return nil, server.Invalid("Invalid params for sandbox.stop: %v", err)
	}
	return v.Stop(ctx, namespace, name)
}

// ParseNames reads which sandbox parameters are about.
func ParseNames(params json.RawMessage) (namespace, name string, err error) {
	var o object
	if err := json.Unmarshal(params, &o); err != nil || o == nil {
		return "", "", errors.New("expected an object")
	}
	if name, err = o.text("sandbox"); err == nil {
		namespace, err = o.namespace()
	}
	return namespace, name, err
}

// Stop stops a sandbox, also one that is just being started, and says so also of one that does not run. Its files stay.
func (v *Service) Stop(ctx context.Context, namespace, name string) (string, error) {
	ref, err := Ref(ctx, namespace, name)
	if err != nil {
		return "", err
	}
	v.interrupt(ctx, ref)
	err = v.backend.Stop(ctx, ref, backend.StopOptions{})
	switch sandbox.KindOf(err) {
	case sandbox.NotRunning:
		err = nil
	case sandbox.NotFound:
		err = v.unknown(ref, err)
	}
	v.server.Audited(ctx, "stop", ref, err)
	if err != nil {
		return "", err
	}
	return "Sandbox " + name + " stopped successfully", nil
}

// unknown is the error of a sandbox that is not there; one that was only written down was never started.
func (v *Service) unknown(ref sandbox.Ref, missing error) error {
	dir := v.dir(ref.Namespace)
	if _, err := os.Stat(dir); err != nil {
		return server.Invalid("Namespace directory '%s' does not exist", ref.Namespace)
	}
	f, err := sandboxfile.Load(sandboxfile.Path(dir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return server.Invalid("Configuration file not found for namespace '%s'", ref.Namespace)
	case err != nil:
		return err
	}
	if _, ok := f.Sandboxes[string(ref.Name)]; ok {
		return nil
	}
	return missing
}
