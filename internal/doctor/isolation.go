package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// namespaces tries what a runner does first: a mount namespace, within a user namespace unless this is root.
func namespaces(ctx context.Context) Check {
	const name = "namespaces"
	attr := syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	what := "a mount namespace as root"
	if os.Geteuid() != 0 {
		what = "user and mount namespaces as an ordinary user"
		attr.Cloneflags = syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	err := play(ctx, roleNamespaces, attr)
	if err == nil {
		return ok(name, what+" can be made and mounted in: sandboxes need no more")
	}
	if os.Geteuid() == 0 {
		return fail(name, fmt.Sprintf("%s cannot be made: %v", what, err), "give this process CAP_SYS_ADMIN, or run msb as an ordinary user")
	}
	detail := fmt.Sprintf("%s cannot be made: %v", what, err)
	switch {
	case sysctl("kernel.unprivileged_userns_clone") == "0":
		return fail(name, detail, "as root: sysctl -w kernel.unprivileged_userns_clone=1")
	case sysctl("kernel.apparmor_restrict_unprivileged_userns") == "1":
		return fail(name, detail, "AppArmor restricts user namespaces; as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or give msb a profile that allows userns")
	case sysctl("user.max_user_namespaces") == "0":
		return fail(name, detail, "as root: sysctl -w user.max_user_namespaces=15000")
	}
	return fail(name, detail, "this may be a container that forbids it: allow clone(CLONE_NEWUSER) in its seccomp profile, or run msb as root")
}

// tryMounts is the child of namespaces: its mounts are its own, and go with it.
func tryMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("msb-doctor", "/proc/self/fdinfo", "tmpfs", 0, "size=4k"); err != nil && !errors.Is(err, unix.EINVAL) {
		if err := unix.Mount("msb-doctor", "/tmp", "tmpfs", 0, "size=4k"); err != nil {
			return fmt.Errorf("mount a tmpfs: %w", err)
		}
	}
	return nil
}

// systrap tries what gVisor's platform of that name is made of: seccomp filters, and tracing a child.
func systrap(ctx context.Context) Check {
	const name = "isolation"
	if err := play(ctx, roleSeccomp, syscall.SysProcAttr{}); err != nil {
		return fail(name, fmt.Sprintf("seccomp filters cannot be set: %v", err), "gVisor needs a kernel with CONFIG_SECCOMP_FILTER that lets this process use it")
	}
	if err := tryTrace(ctx); err != nil {
		remedy := "allow ptrace in this container's seccomp profile"
		if v := sysctl("kernel.yama.ptrace_scope"); v == "3" {
			remedy = "kernel.yama.ptrace_scope is 3, which only a reboot undoes: set it to 1 in /etc/sysctl.d"
		}
		return fail(name, fmt.Sprintf("a child cannot be traced: %v", err), remedy)
	}
	return ok(name, "gVisor (systrap): a kernel in user space between the guest and this one, not a virtual machine; seccomp and ptrace work")
}

// trySeccomp is a child of systrap: it sets a filter that allows everything.
func trySeccomp() error {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	filter := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}

// tryTrace starts a child that stops for its tracer, and kills it.
func tryTrace(ctx context.Context) error {
	runtime.LockOSThread() // only the thread that started it is its tracer
	defer runtime.UnlockOSThread()
	cmd := child(ctx, roleTraced, syscall.SysProcAttr{Ptrace: true})
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	deadline := time.Now().Add(probeTimeout)
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(cmd.Process.Pid, &ws, unix.WNOHANG|unix.WUNTRACED, nil)
		switch {
		case err != nil && err != unix.EINTR:
			return err
		case pid > 0 && ws.Stopped():
			return nil
		case pid > 0:
			return fmt.Errorf("it ended with status %#x", uint32(ws))
		case time.Now().After(deadline):
			return errHangs
		}
		time.Sleep(time.Millisecond)
	}
}

// kvm tries to run a small virtual machine.
func kvm(ctx context.Context) Check {
	const name = "kvm"
	const use = "sandboxes do not need it"
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err == nil {
		_ = f.Close()
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return ok(name, "not present; "+use)
	case errors.Is(err, os.ErrPermission):
		return ok(name, "present, but not for this user; "+use)
	case err != nil:
		return ok(name, fmt.Sprintf("present, but does not open (%v); %s", err, use))
	}
	const remedy = "nothing to do; on a cloud machine, nested virtualization would make it usable"
	err = play(ctx, roleKVM, syscall.SysProcAttr{})
	var exit *exec.ExitError
	switch {
	case err == nil:
		return ok(name, "usable: a small guest ran at full speed; "+use)
	case errors.Is(err, errHangs):
		return warn(name, fmt.Sprintf("present but not usable: a small guest did not end within %v; %s", hangTimeout, use), remedy)
	case errors.As(err, &exit):
		err = fmt.Errorf("the attempt crashed: %v", exit)
	}
	return warn(name, fmt.Sprintf("present but not usable: %v; %s", err, use), remedy)
}

// sysctl reads a kernel parameter, "" where there is none.
func sysctl(name string) string {
	b, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func sysctlInt(name string) int {
	n, _ := strconv.Atoi(sysctl(name))
	return n
}
