// Package version says which release this is and what it is compatible with.
package version

// Version is the release of microsandbox in Go; `msb --version` prints it.
const Version = "0.1.0"

// Contract is the release of the original whose command line, SDK and wire this one speaks (contract msb-0.6).
const Contract = "0.6.18"

// GVisor is the revision of gVisor that msb-runner is built with. A test holds it against go.mod.
const GVisor = "20260905-160fafc42237"

// build says which build of Version this is; the linker sets it (see Makefile).
var build string

// Build says which build of Version this is, "" for none in particular.
func Build() string { return build }
