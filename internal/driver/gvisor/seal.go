package gvisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A sentry starts with a few capabilities over its own namespaces, with which it makes its empty root. When root starts it,
// gVisor gives them up by executing itself again, a seventh of a start; when anyone else does, it keeps them. Here the
// sentry is always started in the second way, and gives them up itself as soon as it is in its root, before it starts the
// process that guest code runs in (docs/adr/0007). What makes it wait for that is the list of mounts, which it reads
// between the two.

const mountsFlag = "--mounts-fd="

// sealed returns the sentry's arguments with the list of mounts led through us, and starts who hands it on.
func sealed(args []string, spec childSpec) []string {
	from, at, boot := -1, -1, -1
	for i, a := range args {
		if v, ok := strings.CutPrefix(a, mountsFlag); ok {
			if fd, err := strconv.Atoi(v); err == nil && fd >= 0 {
				from = fd
			}
			at = i
		}
		if a == "boot" && boot < 0 {
			boot = i
		}
	}
	if boot < 0 {
		fatal("start the sentry", fmt.Errorf("no boot command in %q", args))
	}
	mounts, err := os.Open("/proc/self/mountinfo") // poll(2) tells of each change of it
	if err != nil {
		fatal("watch the mounts", err)
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		fatal("make a pipe", err)
	}
	go func() {
		if err := waitForRoot(mounts); err != nil {
			fatal("wait for the sentry's root", err)
		}
		mounts.Close()
		if err := seal(); err != nil {
			fatal("seal the sentry", err)
		}
		if err := handOn(from, os.NewFile(uintptr(p[1]), "mounts"), spec.Mounts); err != nil {
			fatal("hand on the mounts", err)
		}
	}()
	to := mountsFlag + strconv.Itoa(p[0])
	var out []string
	for i, a := range args {
		switch i {
		case boot:
			out = append(out, "--rootless=true", a)
			if at < 0 {
				out = append(out, to)
			}
		case at:
			out = append(out, to)
		default:
			out = append(out, a)
		}
	}
	return out
}

// lookAgain is how long a change of the mounts may go unnoticed.
const lookAgain = 200 * time.Microsecond

// waitForRoot returns when the sentry is in the empty root that gVisor makes for it and the old one is unmounted.
func waitForRoot(changes *os.File) error {
	for {
		b, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil && !errors.Is(err, os.ErrNotExist) { // it is not there for a moment, between the two roots
			return err
		}
		if inEmptyRoot(string(b)) {
			return nil
		}
		// The kernel tells of the first of several changes that come at once, so the last may have to be looked for.
		again := unix.NsecToTimespec(int64(lookAgain))
		if _, err := unix.Ppoll([]unix.PollFd{{Fd: int32(changes.Fd()), Events: unix.POLLPRI}}, &again, nil); err != nil && err != unix.EINTR {
			return err
		}
	}
}

// inEmptyRoot reads a mountinfo (proc(5)): at "/" there is gVisor's read-only tmpfs, and nothing above or below it.
func inEmptyRoot(mountinfo string) bool {
	roots, ours := 0, 0
	for line := range strings.Lines(mountinfo) {
		mount, fs, ok := strings.Cut(line, " - ")
		at, of := strings.Fields(mount), strings.Fields(fs)
		if !ok || len(at) < 6 || len(of) < 2 || at[4] != "/" {
			continue
		}
		roots++
		if of[0] == "tmpfs" && of[1] == "runsc-root" && slices.Contains(strings.Split(at[5], ","), "ro") {
			ours++
		}
	}
	return roots == 1 && ours == 1
}

// seal gives up every capability, on all threads.
func seal() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // of the calling thread: each of them
	var none [2]unix.CapUserData
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&none[0])), 0); errno != 0 {
		return fmt.Errorf("drop all capabilities: %w", errno)
	}
	return noDirectories()
}

// noDirectories makes sure that no directory of the host is open in the sentry: one would be a way out of its root.
func noDirectories() error {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, d := range fds {
		fd, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return fmt.Errorf("file descriptor %d is a directory", fd)
		}
	}
	return nil
}

// handOn writes the mounts as the gofer resolved them, or where there is no gofer as the spec has them.
func handOn(from int, to *os.File, mounts []specs.Mount) error {
	defer to.Close()
	if from < 0 {
		return json.NewEncoder(to).Encode(mounts)
	}
	gofer := os.NewFile(uintptr(from), "mounts of the gofer")
	defer gofer.Close()
	_, err := io.Copy(to, gofer)
	return err
}

// fatal ends a sentry that cannot be made safe. Its parent sees that it did not boot.
func fatal(doing string, err error) {
	fmt.Fprintf(os.Stderr, "%s: %v\n", doing, err)
	os.Exit(128)
}
