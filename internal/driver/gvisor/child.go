package gvisor

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd"
	"gvisor.dev/gvisor/runsc/cmd/sentry/sentrycmd"
	"gvisor.dev/gvisor/runsc/cmd/util"

	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer"
	"github.com/microsandbox-go/microsandbox/internal/quietgc"
)

// Roles of gVisor that a process of ours may be started in; gVisor names its children in argv[0].
const (
	sentryProcess = "runsc-sandbox"
	goferProcess  = "runsc-gofer"
)

// What is known of the memory of gVisor's children: a sentry's boot leaves more than 2 MiB of garbage, a gofer's less than a
// collection costs.
const (
	bootTime   = time.Second
	bootMemory = 48 << 20 // bytes
	gcPercent  = 100
)

// Child answers gVisor's boot, gofer and umount roles and does not return if this process was started in one of them.
// It is the first call in the runner's main and in every TestMain that starts a sandbox.
func Child() {
	if !isChild() {
		return
	}
	// A boot that collects no garbage is quicker by several ms of CPU time; the time is over when the guest runs.
	quietgc.Policy{Boot: bootTime, BootBytes: bootMemory, Percent: gcPercent, Collect: os.Args[0] == sentryProcess}.Start()
	usePrecompiled()
	if os.Args[0] == sentryProcess {
		spec := readSpec(os.Args)
		os.Args = sealed(withMachineSize(os.Args, spec), spec)
	}
	if os.Args[0] == goferProcess && gofer.Wanted(readSpec(os.Args).Annotations) {
		if err := gofer.Register(); err != nil {
			fatal("serve the sandbox's disk", err)
		}
	}
	cli.Run(nil, map[util.SubCommand]string{
		new(sentrycmd.Boot):   "",
		new(cmd.Gofer):        "",
		new(sentrycmd.Umount): "",
	}, nil)
	os.Exit(128) // cli.Run exits; this keeps a change there from running the parent's main in a child
}

// isChild knows gVisor's children by argv[0]: the sentry, the gofer, and helpers that the sentry starts by
// /proc/self/exe (umount) or under a name of the form runsc[…].
func isChild() bool {
	if len(os.Args) < 2 {
		return false
	}
	return os.Args[0] == sentryProcess || os.Args[0] == goferProcess ||
		os.Args[0] == "/proc/self/exe" || strings.HasPrefix(os.Args[0], "runsc[")
}

// Annotations of the OCI spec that tell our sentry how large its machine is. gVisor takes the sizes from a cgroup only,
// and passes the host's where it made none.
const (
	memoryAnnotation = "dev.microsandbox.memory" // bytes
	cpusAnnotation   = "dev.microsandbox.cpus"
)

// childSpec is what we read of the OCI spec in a child.
type childSpec struct {
	Annotations map[string]string `json:"annotations"`
	Mounts      []specs.Mount     `json:"mounts"`
}

// maxSpec is the longest OCI spec, in bytes: so many mounts of the longest paths as a sandbox may have.
const maxSpec = 8 << 20

// readSpec reads the spec that the child was given, without moving the file's offset.
func readSpec(args []string) childSpec {
	for _, a := range args {
		v, ok := strings.CutPrefix(a, "--spec-fd=")
		if !ok {
			continue
		}
		fd, err := strconv.Atoi(v)
		if err != nil {
			fatal("find the sandbox's spec", err)
		}
		b, err := io.ReadAll(io.NewSectionReader(fdReader(fd), 0, maxSpec))
		var spec childSpec
		if err == nil {
			err = json.Unmarshal(b, &spec)
		}
		if err != nil {
			fatal("read the sandbox's spec", err)
		}
		return spec
	}
	fatal("find the sandbox's spec", fmt.Errorf("no --spec-fd in %q", args))
	return childSpec{}
}

// withMachineSize returns the sentry's arguments with the memory and CPUs that the guest shall see. The last value of a
// flag counts, and the last argument is the container's id.
func withMachineSize(args []string, spec childSpec) []string {
	id := args[len(args)-1]
	args = slices.Clone(args[:len(args)-1])
	for _, f := range []struct{ flag, annotation string }{{"--total-memory", memoryAnnotation}, {"--cpu-num", cpusAnnotation}} {
		if v := spec.Annotations[f.annotation]; v != "" {
			args = append(args, f.flag, v)
		}
	}
	return append(args, id)
}

// fdReader reads a file descriptor that stays its owner's, without moving its offset.
type fdReader int

func (fd fdReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := unix.Pread(int(fd), p, off)
	if err == nil && n == 0 && len(p) > 0 {
		err = io.EOF
	}
	return max(n, 0), err
}
