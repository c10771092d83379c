package gvisor

import (
	_ "unsafe" // for go:linkname

	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	goferfilter "gvisor.dev/gvisor/runsc/fsgofer/filter"

	sentryfilter "gvisor.dev/gvisor/runsc/boot/filter"
)

// gVisor compiles its seccomp filters to BPF at every start of a sentry and a gofer, unless its own build system compiled
// them before; with plain "go build" the tables of compiled programs are empty. They are filled here, with what the same
// code of gVisor compiles for the one configuration that we use (seccomp_amd64.go, made and checked by TestPrecompiled). A
// key that is not in the tables is compiled as ever, so nothing is less strict. See docs/adr/0003.

//go:linkname sentryPrograms gvisor.dev/gvisor/runsc/boot/filter.precompiledPrograms
var sentryPrograms map[string]precompiledseccomp.Program

//go:linkname goferPrograms gvisor.dev/gvisor/runsc/fsgofer/filter.precompiledPrograms
var goferPrograms map[string]precompiledseccomp.Program

// The configurations that our sentries and gofers run with, by gVisor's names for them.
const (
	sentryFilter = `GOARCH="amd64" Platform="systrap" HostNetwork=false HostNetworkRawSockets=false HostFilesystem=false ProfileEnable=false Instrumentation=false NVProxy=false NVProxyCaps= TPUProxy=false RDMAProxy=false CgoEnabled=false PluginNetwork=false`
	goferFilter  = `GOARCH="amd64" UDSOpenEnabled=false UDSCreateEnabled=false ProfileEnabled=false DirectFS=false LisafsNeeded=false Instrumentation=false CgoEnabled=false ExtraRules=false`

	// The gofer's with what our own file server adds (gofer.Rules).
	diskFilter = `GOARCH="amd64" UDSOpenEnabled=false UDSCreateEnabled=false ProfileEnabled=false DirectFS=false LisafsNeeded=false Instrumentation=false CgoEnabled=false ExtraRules=true`
)

// usePrecompiled fills the tables. Listing them first makes gVisor set them up, which it does once.
func usePrecompiled() {
	sentryfilter.ListPrecompiled()
	goferfilter.ListPrecompiled()
	for _, p := range precompiledPrograms() {
		for key, table := range map[string]map[string]precompiledseccomp.Program{sentryFilter: sentryPrograms, goferFilter: goferPrograms, diskFilter: goferPrograms} {
			if p.Name == key && table != nil {
				table[key] = p
			}
		}
	}
}
