package gvisor

import (
	"bytes"
	"flag"
	"fmt"
	"go/format"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/bpf"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	sentryfilter "gvisor.dev/gvisor/runsc/boot/filter"
	sentryconfig "gvisor.dev/gvisor/runsc/boot/filter/config"
	goferfilter "gvisor.dev/gvisor/runsc/fsgofer/filter"
	goferconfig "gvisor.dev/gvisor/runsc/fsgofer/filter/config"

	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer"
)

var update = flag.Bool("update", false, "write what the tests compare with")

// TestPrecompiled compares the filters that we ship with what gVisor builds from its rules now. The compiler orders its
// output differently at each run, so they are compared by what they say to system calls. After a change of gVisor's
// version: go test ./internal/driver/gvisor -run TestPrecompiled -update
func TestPrecompiled(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the filters are compiled ahead for amd64 only")
	}
	if *update {
		if err := os.WriteFile("seccomp_amd64.go", source(t, compileAll(t)), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Log("written; run the test again without -update")
		return
	}
	systrap, err := platform.Lookup("systrap")
	if err != nil {
		t.Fatal(err)
	}
	sentry := sentryconfig.Options{Platform: systrap.PrecompiledSeccompInfo()[0], ControllerFD: 77}
	if key := sentry.ConfigKey(); key != sentryFilter {
		t.Errorf("gVisor calls the sentry's filter now\n%s", key)
	}
	gofer := goferconfig.Options{}
	if key := gofer.ConfigKey(); key != goferFilter {
		t.Errorf("gVisor calls the gofer's filter now\n%s", key)
	}
	usePrecompiled()
	ours, ok := sentryfilter.GetPrecompiled(sentryFilter)
	if !ok {
		t.Fatal("gVisor does not see the sentry's filter")
	}
	allow, deny := sentryconfig.Rules(sentry)
	compare(t, "sentry", ours, sentry.Vars(), allow, deny, sentryconfig.SeccompOptions(sentry))
	if ours, ok = goferfilter.GetPrecompiled(goferFilter); !ok {
		t.Fatal("gVisor does not see the gofer's filter")
	}
	allow, deny = goferconfig.Rules(gofer)
	compare(t, "gofer", ours, gofer.Vars(), allow, deny, seccomp.ProgramOptions{})
	disk := diskOptions()
	if key := disk.ConfigKey(); key != diskFilter {
		t.Errorf("gVisor calls the filter of a gofer with rules of ours now\n%s", key)
	}
	if ours, ok = goferfilter.GetPrecompiled(diskFilter); !ok {
		t.Fatal("gVisor does not see the filter of a gofer with rules of ours")
	}
	allow, deny = goferconfig.Rules(disk)
	compare(t, "disk", ours, disk.Vars(), allow, deny, seccomp.ProgramOptions{})
}

// compare runs both filters over every system call with the arguments that either of them mentions, one at a time, and
// over random mixtures of them.
func compare(t *testing.T, what string, ours precompiledseccomp.Program, vars precompiledseccomp.Values, allow, deny seccomp.SyscallRules, opt seccomp.ProgramOptions) {
	mine, err := ours.RenderInstructions(vars)
	if err != nil {
		t.Fatal(err)
	}
	p := seccomp.Program{RuleSets: []seccomp.RuleSet{{Rules: deny}, {Rules: allow, Action: seccomp.Allow}}, Options: opt}
	theirs, _, err := p.Build()
	if err != nil {
		t.Fatal(err)
	}
	a, err := bpf.Compile(mine, false)
	if err != nil {
		t.Fatal(err)
	}
	b, err := bpf.Compile(theirs, false)
	if err != nil {
		t.Fatal(err)
	}
	words := map[uint64]bool{0: true, 1: true, 1<<64 - 1: true, 1<<63 - 1: true, 1 << 32: true}
	for _, insn := range append(slices.Clone(mine), theirs...) {
		words[uint64(insn.K)], words[uint64(insn.K)+1], words[uint64(insn.K)<<32] = true, true, true
	}
	values := slices.Sorted(maps.Keys(words))
	buf := make([]byte, 64)
	allowed, tried := 0, 0
	try := func(d linux.SeccompData) {
		in := seccomp.DataAsBPFInput(&d, buf)
		x, err1 := bpf.Exec[bpf.NativeEndian](a, in)
		y, err2 := bpf.Exec[bpf.NativeEndian](b, in)
		if err1 != nil || err2 != nil || x != y {
			t.Fatalf("%s: system call %d %#x: ours says %#x (%v), gVisor's %#x (%v)", what, d.Nr, d.Args, x, err1, y, err2)
		}
		tried++
		if x == uint32(linux.SECCOMP_RET_ALLOW) {
			allowed++
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for nr := range int32(500) {
		for arg := range 6 {
			for _, v := range values {
				d := linux.SeccompData{Nr: nr, Arch: linux.AUDIT_ARCH_X86_64}
				d.Args[arg] = v
				try(d)
			}
		}
		for range 2000 {
			d := linux.SeccompData{Nr: nr, Arch: linux.AUDIT_ARCH_X86_64}
			for arg := range d.Args {
				d.Args[arg] = values[rnd.IntN(len(values))]
			}
			try(d)
		}
	}
	if allowed == 0 || allowed == tried {
		t.Fatalf("%s: %d of %d system calls were allowed: the comparison says nothing", what, allowed, tried)
	}
}

// compileAll has gVisor compile all configurations that it knows, which takes half a minute, and picks ours.
func compileAll(t *testing.T) map[string]precompiledseccomp.Program {
	found := map[string]precompiledseccomp.Program{}
	for key, compile := range map[string]func() ([]precompiledseccomp.Program, error){
		sentryFilter: sentryconfig.PrecompiledPrograms, goferFilter: goferconfig.PrecompiledPrograms} {
		programs, err := compile()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range programs {
			if p.Name == key {
				found[key] = p
			}
		}
		if _, ok := found[key]; !ok {
			t.Fatalf("gVisor compiles no filter for %s", key)
		}
	}
	disk := diskOptions()
	p, err := precompiledseccomp.Precompile(disk.ConfigKey(), slices.Collect(maps.Keys(disk.Vars())), func(vars precompiledseccomp.Values) *seccomp.Program {
		allow, deny := goferconfig.Rules(disk)
		// The process's id is the one variable in the rules; gVisor gives no way to name it from here.
		allow.Remove(unix.SYS_TGKILL)
		allow.Set(unix.SYS_TGKILL, seccomp.PerArg{seccomp.EqualTo(vars.GetUint64("self_pid"))})
		return &seccomp.Program{RuleSets: []seccomp.RuleSet{{Rules: deny.Copy()}, {Rules: allow, Action: seccomp.Allow}}}
	})
	if err != nil {
		t.Fatal(err)
	}
	found[diskFilter] = p
	return found
}

// diskOptions are those of a gofer that our own file server is in.
func diskOptions() goferconfig.Options {
	return goferconfig.Options{ExtraRules: []seccomp.SyscallRules{gofer.Rules()}}
}

// programNames are the names in the source of what we ship.
var programNames = []struct{ key, name string }{{sentryFilter, "sentryFilter"}, {goferFilter, "goferFilter"}, {diskFilter, "diskFilter"}}

func source(t *testing.T, programs map[string]precompiledseccomp.Program) []byte {
	var b bytes.Buffer
	b.WriteString("// Code generated by TestPrecompiled -update; DO NOT EDIT.\n\npackage gvisor\n\nimport \"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp\"\n\nfunc precompiledPrograms() []precompiledseccomp.Program {\nreturn []precompiledseccomp.Program{\n")
	for _, n := range programNames {
		p, name := programs[n.key], n.name
		fmt.Fprintf(&b, "{Name: %s, Bytecode32: %sCode[:], VarOffsets: map[string][]int{\n", name, name)
		for _, v := range slices.Sorted(maps.Keys(p.VarOffsets)) {
			fmt.Fprintf(&b, "%q: %#v,\n", v, p.VarOffsets[v])
		}
		b.WriteString("}},\n")
	}
	b.WriteString("}\n}\n")
	for _, program := range programNames {
		key, name := program.key, program.name
		fmt.Fprintf(&b, "\nvar %sCode = [...]uint32{", name)
		for n, w := range programs[key].Bytecode32 {
			if n%12 == 0 {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "%#x, ", w)
		}
		b.WriteString("\n}\n")
	}
	out, err := format.Source(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return out
}
