//go:build !amd64

package gvisor

import "gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"

// precompiledPrograms has nothing for this architecture: gVisor compiles its filters at every start.
func precompiledPrograms() []precompiledseccomp.Program { return nil }
