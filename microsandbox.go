// Package microsandbox runs untrusted code in sandboxes on this machine: each has its own kernel surface, root file
// system, network policy and limits, starts in tens of milliseconds and leaves nothing behind. It needs no KVM, no root
// and no daemon.
//
// A sandbox is made by [CreateSandbox] and is a [Sandbox] from then on: it runs commands ([Sandbox.Exec], [Sandbox.Shell],
// [Sandbox.ExecStream], and [Sandbox.CommandContext] with the shape of os/exec), has a file system ([Sandbox.FS]), logs
// and metrics. It ends with this process, at [Sandbox.Stop] or at [Sandbox.Close], unless it was made [WithDetached] or was
// let go of with [Sandbox.Detach]. What is recorded of it is a [SandboxHandle] ([GetSandbox], [ListSandboxes]).
//
// The package is source-compatible with the Go SDK of microsandbox 0.6: the same names, options, constants and kinds of
// errors. There is no native library. What it needs instead are two programs, msb-runner and msb-agent: [EnsureInstalled]
// says whether they are found, and how to get them.
//
// Every failure is an [*Error] with a [ErrorKind]; see [IsKind]. A command that exits with a code other than 0 is a result,
// not an error. A context bounds the call that it is given to, not the sandbox.
package microsandbox
