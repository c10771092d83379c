package agent

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// restrict applies the profile "restricted" to this process and so to all that it starts: no set-id bits, no file
// capabilities, and no CAP_SYS_ADMIN, which the agent itself needs only for the mounts that are done by now.
func restrict() error {
	if _, _, e := syscall.AllThreadsSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); e != 0 {
		return fmt.Errorf("no_new_privs: %w", e)
	}
	_, _, e := syscall.AllThreadsSyscall(syscall.SYS_PRCTL, unix.PR_CAPBSET_DROP, unix.CAP_SYS_ADMIN, 0)
	if e != 0 && e != syscall.EPERM { // who may not drop it does not have it
		return fmt.Errorf("drop CAP_SYS_ADMIN from the bounding set: %w", e)
	}
	return dropCapability(unix.CAP_SYS_ADMIN)
}

// dropCapability removes one capability from the sets of every thread.
func dropCapability(n uint) error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&head, &sets[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	bit := uint32(1) << (n % 32)
	set := &sets[n/32]
	set.Effective &^= bit
	set.Permitted &^= bit
	set.Inheritable &^= bit
	_, _, e := syscall.AllThreadsSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&sets[0])), 0)
	if e != 0 {
		return fmt.Errorf("drop CAP_SYS_ADMIN: %w", e)
	}
	return nil
}
