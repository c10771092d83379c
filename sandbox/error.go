package sandbox

import (
	"cmp"
	"errors"
	"strings"
)

// Kind is one of a closed list of failures that a caller can act on. The strings are those of the upstream Go SDK
// (contract msb-0.6 §2.10). A Kind is itself an error, so errors.Is(err, sandbox.NotRunning) holds on both sides of the wire.
//
// To add a kind: 1. add the constant, 2. its row in kinds.
type Kind string

// The kinds of failure.
const (
	NotFound           Kind = "SandboxNotFound"
	NotRunning         Kind = "SandboxNotRunning"
	AlreadyExists      Kind = "SandboxAlreadyExists"
	StillRunning       Kind = "SandboxStillRunning"
	Replaced           Kind = "SandboxReplaced" // another one has the name by now
	VolumeNotFound     Kind = "VolumeNotFound"
	VolumeExists       Kind = "VolumeAlreadyExists"
	VolumeInUse        Kind = "VolumeInUse"
	ExecTimeout        Kind = "ExecTimeout"
	ExecFailed         Kind = "ExecFailed"
	Filesystem         Kind = "Filesystem"
	PathNotFound       Kind = "PathNotFound"
	ImageNotFound      Kind = "ImageNotFound"
	ImageInUse         Kind = "ImageInUse"
	ImagePullFailed    Kind = "ImagePullFailed"
	PatchFailed        Kind = "PatchFailed"
	IO                 Kind = "IO"
	InvalidConfig      Kind = "InvalidConfig"
	InvalidArgument    Kind = "InvalidArgument"
	Cancelled          Kind = "Cancelled"
	LibraryNotLoaded   Kind = "LibraryNotLoaded" // a binary of ours (runner, agent) is missing
	Unsupported        Kind = "UnsupportedOperation"
	Runtime            Kind = "Runtime"    // the driver or the runner failed
	BootFailed         Kind = "BootFailed" // the sandbox never became ready
	NoDefaultCommand   Kind = "NoDefaultCommand"
	Protocol           Kind = "Protocol" // a peer broke the agent protocol
	InvalidCursor      Kind = "InvalidCursor"
	MissedRotation     Kind = "MissedRotation" // a reader of a log was so slow that what it had to read is gone
	MetricsDisabled    Kind = "MetricsDisabled"
	MetricsUnavailable Kind = "MetricsUnavailable"
	Internal           Kind = "Internal"
)

// kinds gives each Kind the words its messages begin with (contract msb-0.6 §2.10); "" where the message stands alone.
var kinds = map[Kind]string{
	NotFound:           "sandbox not found",
	NotRunning:         "",
	AlreadyExists:      "sandbox already exists",
	StillRunning:       "sandbox still running",
	Replaced:           "sandbox replaced",
	VolumeNotFound:     "volume not found",
	VolumeExists:       "volume already exists",
	VolumeInUse:        "volume in use by sandbox(es)",
	ExecTimeout:        "",
	ExecFailed:         "exec failed",
	Filesystem:         "sandbox fs error",
	PathNotFound:       "sandbox fs error",
	ImageNotFound:      "image not found",
	ImageInUse:         "image in use by sandbox(es)",
	ImagePullFailed:    "image error",
	PatchFailed:        "patch failed",
	IO:                 "io error",
	InvalidConfig:      "invalid config",
	InvalidArgument:    "",
	Cancelled:          "",
	LibraryNotLoaded:   "",
	Unsupported:        "",
	Runtime:            "runtime error",
	BootFailed:         "",
	NoDefaultCommand:   "",
	Protocol:           "protocol error",
	InvalidCursor:      "invalid cursor",
	MissedRotation:     "",
	MetricsDisabled:    "metrics disabled for sandbox",
	MetricsUnavailable: "metrics unavailable for sandbox",
	Internal:           "internal error",
}

// Error makes a Kind usable as the target of errors.Is.
func (k Kind) Error() string {
	if p := kinds[k]; p != "" {
		return p
	}
	return string(k)
}

// Error is a failure with its Kind. The zero value of every field but Kind may be left out.
type Error struct {
	Op      string // what was being done, e.g. "exec"
	Ref     Ref    // the sandbox it was done to
	Kind    Kind
	Message string // what went wrong, in the reader's words; when empty, Err or Ref.Name says it
	Hint    string // what the reader can do, one line
	Err     error  // the cause
}

// Error says the kind's words, then the message, then the cause.
func (e *Error) Error() string {
	d := e.Detail()
	if kinds[e.Kind] == "" || d == "" {
		return cmp.Or(d, e.Kind.Error())
	}
	return kinds[e.Kind] + ": " + d
}

// Detail is what Error says, without the kind's words.
func (e *Error) Detail() string {
	parts := make([]string, 0, 2)
	switch {
	case e.Message != "":
		parts = append(parts, e.Message)
	case e.Err == nil && e.Ref.Name != "":
		parts = append(parts, string(e.Ref.Name))
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	return strings.Join(parts, ": ")
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is this error's Kind.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

// KindOf returns the Kind of the outermost *Error in err's chain, or Internal when there is none. It is "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	var k Kind
	if errors.As(err, &k) {
		return k
	}
	return Internal
}

// HintOf returns the first hint in err's chain, or "".
func HintOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}
