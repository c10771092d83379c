package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// binaries says which of our own are missing.
func binaries(m Machine) []Check {
	const name = "binaries"
	if len(m.Missing) == 0 {
		return []Check{ok(name, "msb-runner and msb-agent are found")}
	}
	var checks []Check
	for _, err := range m.Missing {
		checks = append(checks, fail(name, err.Error(), sandbox.HintOf(err)))
	}
	return checks
}

// kernel tries the system calls that are younger than others.
func kernel() Check {
	const name = "kernel"
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fail(name, err.Error(), "")
	}
	release := "Linux " + unix.ByteSliceToString(u.Release[:])
	var missing []string
	if fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC}); err == nil {
		_ = unix.Close(fd)
	} else if errors.Is(err, unix.ENOSYS) {
		missing = append(missing, "openat2 (Linux 5.6)")
	}
	if fd, err := unix.PidfdOpen(os.Getpid(), 0); err == nil {
		_ = unix.Close(fd)
	} else {
		missing = append(missing, "pidfd_open (Linux 5.3)")
	}
	if fd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC); err == nil {
		_ = unix.Close(fd)
	} else if errors.Is(err, unix.ENOSYS) {
		missing = append(missing, "fsopen (Linux 5.2)")
	}
	if len(missing) > 0 {
		return fail(name, release+" has no "+strings.Join(missing, ", no "), "use a kernel of version 5.6 or later")
	}
	return ok(name, release+" has openat2, pidfd_open and fsopen")
}

// maxSendBuffer is what the network link of a sandbox asks for.
const maxSendBuffer = 4 << 20

func sockets() Check {
	const name = "socket buffers"
	have := sysctlInt("net.core.wmem_max")
	switch {
	case have >= maxSendBuffer:
		return ok(name, fmt.Sprintf("net.core.wmem_max is %d KiB: a sandbox's network gets the %d KiB that it wants", have>>10, maxSendBuffer>>10))
	case os.Geteuid() == 0:
		return ok(name, fmt.Sprintf("net.core.wmem_max is %d KiB, which does not bind root: a sandbox's network gets the %d KiB that it wants", have>>10, maxSendBuffer>>10))
	}
	return warn(name, fmt.Sprintf("net.core.wmem_max is %d KiB: the network of a sandbox works, but slower than with %d KiB", have>>10, maxSendBuffer>>10),
		fmt.Sprintf("as root: sysctl -w net.core.wmem_max=%d", maxSendBuffer))
}

func erofs() Check {
	return ok("images", "EROFS, mounted by gVisor itself: this kernel need not know it")
}

// What is little and what is too little space for images and sandboxes, in bytes.
const (
	littleSpace = 1 << 30
	noSpace     = 32 << 20
	fewFiles    = 1000
)

func disk(m Machine) Check {
	const name = "disk"
	if m.HomeErr != nil {
		return fail(name, m.HomeErr.Error(), sandbox.HintOf(m.HomeErr))
	}
	dir := m.Home
	for { // it may not be there yet
		if st, err := os.Stat(dir); err == nil {
			if !st.IsDir() {
				return fail(name, dir+" is not a directory", "set MSB_HOME to a directory of yours")
			}
			break
		}
		up := filepath.Dir(dir)
		if up == dir {
			break
		}
		dir = up
	}
	if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return fail(name, fmt.Sprintf("%s cannot be written to: %v", dir, err), "set MSB_HOME to a directory of yours")
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fail(name, fmt.Sprintf("look at %s: %v", dir, err), "set MSB_HOME to a directory of yours")
	}
	free := fs.Bavail * uint64(fs.Bsize)
	detail := fmt.Sprintf("%s has %d MiB free", m.Home, free>>20)
	remedy := "make room, or set MSB_HOME to a directory on a larger disk"
	switch {
	case free < noSpace || fs.Files > 0 && fs.Ffree < 10:
		return fail(name, detail, remedy)
	case free < littleSpace || fs.Files > 0 && fs.Ffree < fewFiles:
		return warn(name, fmt.Sprintf("%s and room for %d files", detail, fs.Ffree), remedy)
	}
	return ok(name, detail)
}

// wantFiles is how many open files a runner and its sandbox need with ease.
const wantFiles = 4096

func files() Check {
	const name = "open files"
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return warn(name, err.Error(), "")
	}
	switch {
	case lim.Max < 1024:
		return fail(name, fmt.Sprintf("at most %d (hard limit): too few for a sandbox", lim.Max), "raise it: ulimit -Hn 65536, as root, or nofile in /etc/security/limits.conf")
	case lim.Max < wantFiles:
		return warn(name, fmt.Sprintf("at most %d (hard limit): a guest with many open files may see errors", lim.Max), "raise it: ulimit -Hn 65536, as root, or nofile in /etc/security/limits.conf")
	}
	return ok(name, fmt.Sprintf("up to %d", lim.Max))
}

// clock looks for a date that would break TLS, and for a clock that costs a system call each time.
func clock() Check {
	const name = "clock"
	now := time.Now()
	if now.Before(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) {
		return warn(name, "it is "+now.UTC().Format(time.DateOnly)+", which is in the past: TLS in sandboxes will fail", "set the date")
	}
	b, _ := os.ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	source := strings.TrimSpace(string(b))
	switch source {
	case "hpet", "acpi_pm", "jiffies", "pit":
		return warn(name, "the clock source is "+source+": reading the time is slow", "choose tsc or kvm-clock, if there is one: /sys/devices/system/clocksource/clocksource0/available_clocksource")
	case "":
		return ok(name, now.UTC().Format(time.DateTime)+" UTC")
	}
	return ok(name, now.UTC().Format(time.DateTime)+" UTC, from "+source)
}
