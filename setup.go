package microsandbox

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"runtime/debug"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/version"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// modulePath is this module's path.
const modulePath = "github.com/microsandbox-go/microsandbox"

// SetupOption changes what [EnsureInstalled] does.
type SetupOption func(*setup)

type setup struct{}

// WithSkipDownload keeps EnsureInstalled from downloading anything, which it never does here.
func WithSkipDownload() SetupOption { return func(*setup) {} }

// EnsureInstalled returns nil if msb-runner and msb-agent are found: by MSB_RUNNER and MSB_AGENT, beside this program, in
// $MSB_HOME/bin or on PATH. Otherwise its error is of the kind ErrLibraryNotLoaded and says how to get them. A program that
// imports package runner needs no msb-runner.
func EnsureInstalled(ctx context.Context, opts ...SetupOption) error {
	if err := ctx.Err(); err != nil {
		return wrap(err)
	}
	e, err := open()
	if err == nil {
		_, _, err = e.binaries()
	}
	return wrap(err)
}

// IsInstalled reports whether EnsureInstalled would find everything.
func IsInstalled() bool { return EnsureInstalled(context.Background()) == nil }

// SDKVersion is the release of this module.
func SDKVersion() string { return version.Version }

// RuntimeVersion is the release of the msb-runner that is found. Kind: ErrLibraryNotLoaded.
func RuntimeVersion() (string, error) {
	e, err := open()
	if err != nil {
		return "", wrap(err)
	}
	runner, _, err := e.binaries()
	if err != nil {
		return "", wrap(err)
	}
	if config.Embedded {
		return version.Version, nil
	}
	out, err := exec.Command(runner, "--version").Output()
	if err != nil {
		return "", wrap(&sandbox.Error{Kind: sandbox.LibraryNotLoaded, Message: "ask " + runner + " for its version", Err: err})
	}
	return string(bytes.TrimSpace(bytes.TrimPrefix(out, []byte(config.Runner+" ")))), nil
}

// missing says how to get what FindBinary did not find.
func missing(err error) error {
	var e *sandbox.Error
	if !errors.As(err, &e) || e.Kind != sandbox.LibraryNotLoaded || strings.HasPrefix(e.Message, "MSB_") {
		return err // what the environment names is the user's to mend
	}
	install := "CGO_ENABLED=0 go install " + modulePath + "/cmd/" + config.Runner + "@" + release() + " " + modulePath + "/cmd/" + config.Agent + "@" + release()
	return &sandbox.Error{Kind: sandbox.LibraryNotLoaded, Message: e.Message + "; get it with: " + install, Hint: install}
}

// release is the version of this module that the program is built with, "latest" where nobody knows.
func release() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append(info.Deps, &info.Main) {
			if m.Path == modulePath && strings.HasPrefix(m.Version, "v") && !strings.Contains(m.Version, "+dirty") {
				return m.Version
			}
		}
	}
	return "latest"
}
