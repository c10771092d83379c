// Package microsandbox runs untrusted code in sandboxes on this machine: each has its own kernel surface, root file
// system, network policy and limits, starts in tens of milliseconds and leaves nothing behind. It needs no KVM, no root
// and no daemon.
//
// The SDK will be here; until then the command msb is the way in.
package microsandbox
