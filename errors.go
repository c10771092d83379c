package microsandbox

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// ErrorKind is one of a closed list of failures that a caller can act on.
//
// To add a kind: 1. the constant, at the end, 2. its line in kinds.
type ErrorKind int

// The kinds of errors. Those from ErrVolumeInUse on are not in the SDK that this one is compatible with.
const (
	ErrUnknown ErrorKind = iota
	ErrSandboxNotFound
	ErrSandboxNotRunning
	ErrSandboxAlreadyExists
	ErrSandboxStillRunning
	ErrVolumeNotFound
	ErrVolumeAlreadyExists
	ErrExecTimeout
	ErrExecFailed // the command did not start
	ErrFilesystem // the guest's file system refused
	ErrPathNotFound
	ErrImageNotFound
	ErrImageInUse
	ErrImagePullFailed
	ErrSnapshotNotFound
	ErrSnapshotAlreadyExists
	ErrSnapshotSandboxRunning
	ErrSnapshotImageMissing
	ErrSnapshotIntegrity
	ErrSnapshotMigration
	ErrPatchFailed
	ErrNetworkPolicy
	ErrSecretViolation
	ErrTLS
	ErrIO // of this machine
	ErrInvalidConfig
	ErrInvalidArgument
	ErrInvalidHandle  // it was closed
	ErrBufferTooSmall // there is more than is kept in memory; stream it
	ErrCancelled      // by the caller's context
	ErrLibraryNotLoaded
	ErrMetricsDisabled
	ErrMetricsUnavailable
	ErrUnsupportedOperation
	ErrInternal
	ErrNoDefaultCommand
	ErrSandboxReplaced // another sandbox has the name by now

	ErrVolumeInUse
)

// kinds gives each kind its name and the kinds of package sandbox that become it.
var kinds = [...]struct {
	name string
	from []sandbox.Kind
}{
	ErrUnknown:              {"Unknown", nil},
	ErrSandboxNotFound:      {"SandboxNotFound", []sandbox.Kind{sandbox.NotFound}},
	ErrSandboxNotRunning:    {"SandboxNotRunning", []sandbox.Kind{sandbox.NotRunning}},
	ErrSandboxAlreadyExists: {"SandboxAlreadyExists", []sandbox.Kind{sandbox.AlreadyExists}},
	ErrSandboxStillRunning:  {"SandboxStillRunning", []sandbox.Kind{sandbox.StillRunning}},
	ErrVolumeNotFound:       {"VolumeNotFound", []sandbox.Kind{sandbox.VolumeNotFound}},
	ErrVolumeAlreadyExists:  {"VolumeAlreadyExists", []sandbox.Kind{sandbox.VolumeExists}},
	ErrExecTimeout:          {"ExecTimeout", []sandbox.Kind{sandbox.ExecTimeout}},
	ErrExecFailed:           {"ExecFailed", []sandbox.Kind{sandbox.ExecFailed}},
	// What is not there is an error of the file system, too; IsKind knows both.
	ErrFilesystem:             {"Filesystem", []sandbox.Kind{sandbox.Filesystem, sandbox.PathNotFound}},
	ErrPathNotFound:           {"PathNotFound", nil},
	ErrImageNotFound:          {"ImageNotFound", []sandbox.Kind{sandbox.ImageNotFound}},
	ErrImageInUse:             {"ImageInUse", []sandbox.Kind{sandbox.ImageInUse}},
	ErrImagePullFailed:        {"ImagePullFailed", []sandbox.Kind{sandbox.ImagePullFailed}},
	ErrSnapshotNotFound:       {"SnapshotNotFound", nil},
	ErrSnapshotAlreadyExists:  {"SnapshotAlreadyExists", nil},
	ErrSnapshotSandboxRunning: {"SnapshotSandboxRunning", nil},
	ErrSnapshotImageMissing:   {"SnapshotImageMissing", nil},
	ErrSnapshotIntegrity:      {"SnapshotIntegrity", nil},
	ErrSnapshotMigration:      {"SnapshotMigration", nil},
	ErrPatchFailed:            {"PatchFailed", []sandbox.Kind{sandbox.PatchFailed}},
	ErrNetworkPolicy:          {"NetworkPolicy", nil},
	ErrSecretViolation:        {"SecretViolation", nil},
	ErrTLS:                    {"TLS", nil},
	ErrIO:                     {"IO", []sandbox.Kind{sandbox.IO}},
	ErrInvalidConfig:          {"InvalidConfig", []sandbox.Kind{sandbox.InvalidConfig}},
	ErrInvalidArgument:        {"InvalidArgument", []sandbox.Kind{sandbox.InvalidArgument, sandbox.InvalidCursor}},
	ErrInvalidHandle:          {"InvalidHandle", nil},
	ErrBufferTooSmall:         {"BufferTooSmall", nil},
	ErrCancelled:              {"Cancelled", []sandbox.Kind{sandbox.Cancelled}},
	ErrLibraryNotLoaded:       {"LibraryNotLoaded", []sandbox.Kind{sandbox.LibraryNotLoaded}},
	ErrMetricsDisabled:        {"MetricsDisabled", []sandbox.Kind{sandbox.MetricsDisabled}},
	ErrMetricsUnavailable:     {"MetricsUnavailable", []sandbox.Kind{sandbox.MetricsUnavailable}},
	ErrUnsupportedOperation:   {"UnsupportedOperation", []sandbox.Kind{sandbox.Unsupported}},
	ErrInternal:               {"Internal", nil}, // and whatever is not above
	ErrNoDefaultCommand:       {"NoDefaultCommand", []sandbox.Kind{sandbox.NoDefaultCommand}},
	ErrSandboxReplaced:        {"SandboxReplaced", []sandbox.Kind{sandbox.Replaced}},
	ErrVolumeInUse:            {"VolumeInUse", []sandbox.Kind{sandbox.VolumeInUse}},
}

// kindOf is the kind that each one of package sandbox becomes.
var kindOf = func() map[sandbox.Kind]ErrorKind {
	m := map[sandbox.Kind]ErrorKind{}
	for k, row := range kinds {
		for _, from := range row.from {
			m[from] = ErrorKind(k)
		}
	}
	return m
}()

// String is the kind's name, e.g. "SandboxNotFound".
func (k ErrorKind) String() string {
	if k < 0 || int(k) >= len(kinds) {
		return kinds[ErrUnknown].name
	}
	return kinds[k].name
}

// Error is what every function here returns when something failed. errors.Is also finds what caused it: a context's error,
// a kind of package sandbox, and fs.ErrNotExist where a path of the guest is not there.
type Error struct {
	Kind    ErrorKind
	Message string
	Cause   error
}

// Error is the message, and the cause if that says more.
func (e *Error) Error() string {
	switch {
	case e.Cause == nil && e.Message == "":
		return e.Kind.String()
	case e.Cause == nil:
		return e.Message
	case e.Message == "":
		return e.Cause.Error()
	case strings.Contains(e.Message, e.Cause.Error()):
		return e.Message
	}
	return e.Message + ": " + e.Cause.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is reports whether target is fs.ErrNotExist and the error is about a path that is not there.
func (e *Error) Is(target error) bool {
	return target == fs.ErrNotExist && (e.Kind == ErrPathNotFound || e.Cause != nil && errors.Is(e.Cause, sandbox.PathNotFound))
}

// Hint is what the reader can do about it, in one line; "" if nothing is known.
func (e *Error) Hint() string { return sandbox.HintOf(e.Cause) }

// IsKind reports whether err is, or wraps, an *Error of that kind. A path that is not there is of two kinds: ErrFilesystem and
// ErrPathNotFound.
func IsKind(err error, kind ErrorKind) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	return e.Kind == kind || kind == ErrPathNotFound && errors.Is(err, sandbox.PathNotFound)
}

// wrap makes an *Error of any error. The end of a caller's context is always ErrCancelled.
func wrap(err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	kind, known := kindOf[sandbox.KindOf(err)]
	switch {
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		kind = ErrCancelled
	case !known:
		kind = ErrInternal
	}
	return &Error{Kind: kind, Message: err.Error(), Cause: err}
}

func fail(kind ErrorKind, message string) error { return &Error{Kind: kind, Message: message} }

// unsupported is the error of what this release or this backend does not do (contract msb-0.6 §2.10).
func unsupported(what, hint string) error {
	return wrap(&sandbox.Error{Kind: sandbox.Unsupported, Message: what + " is not supported by this backend: " + hint})
}
