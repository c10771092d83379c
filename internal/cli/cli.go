// Package cli is the command line of msb (contract msb-0.6 §1): one file per command, each of which turns flags into calls
// of a [backend.Backend] and what comes back into text or JSON. [Main] runs one command and returns the exit code; it
// leaves nothing running.
//
// stdout carries data only; errors, warnings and progress go to stderr.
//
// To add a command: 1. a file with a function of [app] that returns it, 2. its line in [app.commands], 3. a script in
// cmd/msb/testdata/script.
package cli

import (
	"context"
	"io"
	"log/slog"
	"os"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Env is what msb is given by its surroundings. The zero value of each stream is the process's own.
type Env struct {
	// Backend returns this machine's backend. It is called at most once, and only by commands that need one. Warn prints a
	// warning and what follows from it, one line each.
	Backend func(set config.Settings, use Use, warn func(message string, lines ...string)) (backend.Backend, error)
	// Server returns a server with all that it speaks; nil where the program does not link that, and becomes msb-server for it.
	Server func(cfg server.Config) *server.Server
	// MCP speaks with one client over in and out until it goes; nil like Server.
	MCP                   func(ctx context.Context, cfg server.Config, in io.ReadCloser, out io.WriteCloser) error
	Stdin, Stdout, Stderr *os.File
}

// Use says what a command wants a backend for.
type Use int

// The uses of a backend. A backend for UseCreate has all that it takes to make a sandbox, or says what is missing.
const (
	UseManage Use = iota
	UseCreate
	UseCheck // to look at everything as it was left
)

// app is one invocation of msb.
type app struct {
	env      Env
	args     []string // without the program's name
	in       *os.File
	out, err *os.File
	log      *slog.Logger
	level    logLevel
	tree     bool
	version  bool
	// namespace is whose sandboxes the command is about (-N); the tenant.
	namespace  string
	namespaced bool      // it was named
	set        *settings // once they were read
	setErr     error
	spin       *spinner // what moves on stderr now; nil is nothing
}

// Main runs the command that args (without the program's name) spell and returns the exit code (contract msb-0.6 §1.1).
func Main(env Env, args []string) int {
	a := &app{env: env, args: args, in: env.Stdin, out: env.Stdout, err: env.Stderr, namespace: sandbox.DefaultNamespace}
	if a.in == nil {
		a.in = os.Stdin
	}
	if a.out == nil {
		a.out = os.Stdout
	}
	if a.err == nil {
		a.err = os.Stderr
	}
	root := a.root(args)
	root.SetArgs(append([]string{}, args...))
	root.SetOut(a.out)
	root.SetErr(a.err)
	cmd, err := root.ExecuteContextC(context.Background())
	return a.report(cmd, err)
}

// backend returns the backend that is selected, and logs why there is none.
func (a *app) backend(use Use) (backend.Backend, error) {
	set, err := a.settings()
	var b backend.Backend
	if err == nil {
		b, err = a.env.Backend(set.Settings, use, a.warn)
	}
	if err != nil {
		a.log.Debug("no backend", "err", err)
	}
	return b, err
}

// logLevel is the level of the diagnostics on stderr; the zero value is off.
type logLevel struct {
	on    bool
	level slog.Level
}

func (a *app) startLog() {
	var w io.Writer = io.Discard
	if a.level.on {
		w = a.err
	}
	a.log = slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: a.level.level}))
}
