package runner

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kept are the capabilities of a runner whose sandbox has started: to end the sentry, which is another user's process; to
// bound it to CPUs; to listen on low ports; to remove its directory below another user's home.
const kept = 1<<unix.CAP_KILL | 1<<unix.CAP_SYS_NICE | 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_DAC_OVERRIDE

// drop gives up, on all threads, every capability that is no more needed, and the means to gain any.
func drop() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&hdr, &have[0]); err != nil {
		return fmt.Errorf("read the runner's capabilities: %w", err)
	}
	want := [2]unix.CapUserData{{Effective: have[0].Effective & kept, Permitted: have[0].Permitted & kept}}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); errno != 0 {
		return fmt.Errorf("set no_new_privs: %w", errno)
	}
	// The header names the calling thread: pid 0.
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&want[0])), 0); errno != 0 {
		return fmt.Errorf("drop the runner's capabilities: %w", errno)
	}
	return nil
}
