package cli

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Exit codes (contract msb-0.6 §1.1). A command in the guest that a signal killed has 128 and the signal's number, where
// the signal is known; the wire does not carry it, so it is taken to be SIGKILL where it is not.
const (
	exitError         = 1
	exitUsage         = 2
	exitNotExecutable = 126
	exitNotFound      = 127
	exitKilled        = 128 + 9
	exitDetached      = 255
)

// exitCode is the end of a command that is a result and no failure: nothing is printed.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// errDone is the end of a command that has done what it was asked before it ran.
var errDone = exitCode(0)

// codedError is an error with an exit code of its own.
type codedError struct {
	error
	code int
}

func (e *codedError) Unwrap() error { return e.error }

// report prints what is to be said of err and returns the exit code.
func (a *app) report(_ *cobra.Command, err error) int {
	a.settle()
	var (
		code  exitCode
		usage *usageError
		coded *codedError
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage):
		a.fail(err)
		return exitUsage
	case errors.As(err, &coded):
		a.fail(coded.error)
		return coded.code
	case errors.Is(err, syscall.EPIPE): // whoever read our output has gone
		return 128 + int(syscall.SIGPIPE)
	}
	a.fail(err)
	return codeOf(err)
}

// codeOf is the exit code of a failure.
func codeOf(err error) int {
	var failed *agentproto.ExecFailed
	if errors.As(err, &failed) {
		switch failed.Kind {
		case agentproto.FailNotFound:
			return exitNotFound
		case agentproto.FailPermissionDenied, agentproto.FailNotExecutable:
			return exitNotExecutable
		}
	}
	return exitError
}

// fail prints an error, and below it what the reader can do.
func (a *app) fail(err error) {
	st := styleOf(a.err)
	var e *sandbox.Error
	if errors.As(err, &e) && e.Kind == sandbox.BootFailed {
		stage := e.Op
		if stage == "" {
			stage = "boot"
		}
		message, cause := e.Message, e.Err
		if !strings.HasPrefix(message, "failed to start") {
			message, cause = fmt.Sprintf("failed to start %q", e.Ref.Name), err
		}
		a.printError(st, message, fmt.Sprintf("%s: %v", stage, cause), sandbox.HintOf(err))
		return
	}
	a.printError(st, err.Error(), hintOf(err, ""))
}

func (a *app) printError(st style, message string, lines ...string) {
	fmt.Fprintf(a.err, "%s %s\n", st.red("error:"), oneLine(message))
	for _, l := range lines {
		if l != "" {
			fmt.Fprintf(a.err, "  %s %s\n", st.dim("→"), oneLine(l))
		}
	}
}

// warn prints a warning and what follows from it.
func (a *app) warn(message string, lines ...string) {
	st := styleOf(a.err)
	a.above(func() {
		fmt.Fprintf(a.err, "%s %s\n", st.yellow("warn:"), oneLine(message))
		for _, l := range lines {
			fmt.Fprintf(a.err, "  %s %s\n", st.dim("→"), oneLine(l))
		}
	})
}

// oneLine keeps what others wrote (file names, the guest) from looking like more than one line of ours, or moving the cursor.
func oneLine(s string) string {
	s = strings.TrimRight(s, "\n")
	if strings.IndexFunc(s, func(c rune) bool { return c < 0x20 || c == 0x7f }) < 0 {
		return s
	}
	return strings.Map(func(c rune) rune {
		if c < 0x20 || c == 0x7f {
			return ' '
		}
		return c
	}, s)
}

// hintOf is what the reader can do about err.
func hintOf(err error, otherwise string) string {
	var usage *usageError
	if errors.As(err, &usage) {
		return usage.hint
	}
	if h := sandbox.HintOf(err); h != "" {
		return h
	}
	if strings.HasSuffix(otherwise, "--help") {
		return "see: " + otherwise
	}
	return otherwise
}

// detail is what err says without the words of its kind.
func detail(err error) string {
	var e *sandbox.Error
	if errors.As(err, &e) && e.Message != "" {
		return e.Message
	}
	return err.Error()
}
