package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// stageVar is set for this test's binary when it is to be a stage.
const stageVar = "MSB_E2E_STAGE"

// stage is a process that changes what a program finds on the machine and then becomes the program. It has a mount namespace
// of its own, and for an ordinary user's suite, or where asked for, a user namespace.
type stage struct {
	Tmpfs    string // a path to mount a tmpfs at
	Options  string // of that
	ReadOnly bool   // make it read-only then
	NoUserNS bool   // there can be no user namespace below that of the stage
	UserID   int    // become that user
	Argv     []string
}

// on makes cmd start on a stage.
func (w *world) on(s stage, cmd *exec.Cmd) *exec.Cmd {
	s.Argv, s.UserID = append([]string{cmd.Path}, cmd.Args[1:]...), os.Geteuid()
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if s.NoUserNS && !w.user {
		w.t.Fatal("this would change the whole machine")
	}
	if w.user {
		if os.Geteuid() == 0 {
			s.UserID = userID
		}
		if os.Geteuid() != 0 || s.NoUserNS {
			attr.Cloneflags |= unix.CLONE_NEWUSER
			attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: s.UserID, HostID: s.UserID, Size: 1}}
			attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: w.groupID(), HostID: w.groupID(), Size: 1}}
			attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SYS_RESOURCE}
			if os.Geteuid() == 0 {
				attr.GidMappingsEnableSetgroups = true
				attr.Credential = w.credential()
			}
		}
	}
	b, err := json.Marshal(s)
	w.must(err)
	// By this name another user may run it whatever directory "go test" put it in.
	cmd.Path, cmd.Args = "/proc/self/exe", []string{"e2e-stage"}
	cmd.Env = append(cmd.Env, stageVar+"="+string(b))
	cmd.SysProcAttr = attr
	return cmd
}

func (w *world) groupID() int {
	if os.Geteuid() == 0 {
		return groupID
	}
	return os.Getegid()
}

// stageMain returns only if something failed.
func stageMain() int {
	runtime.LockOSThread() // its capabilities are what the program gets
	if err := setStage(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e stage:", err)
	}
	return 99
}

func setStage() error {
	var s stage
	if err := json.Unmarshal([]byte(os.Getenv(stageVar)), &s); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if s.Tmpfs != "" {
		if err := unix.Mount("tmpfs", s.Tmpfs, "tmpfs", 0, s.Options); err != nil {
			return fmt.Errorf("mount a tmpfs at %s: %w", s.Tmpfs, err)
		}
	}
	if s.ReadOnly {
		if err := unix.Mount("", s.Tmpfs, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("make %s read-only: %w", s.Tmpfs, err)
		}
	}
	if s.NoUserNS {
		if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
			return err
		}
	}
	if s.UserID != os.Geteuid() {
		for _, step := range []func() error{
			func() error { return syscall.Setgroups(nil) },
			func() error { return syscall.Setgid(groupID) },
			func() error { return syscall.Setuid(s.UserID) },
		} {
			if err := step(); err != nil {
				return fmt.Errorf("become an ordinary user: %w", err)
			}
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop the ambient capabilities: %w", err)
	}
	if err := os.Unsetenv(stageVar); err != nil {
		return err
	}
	return syscall.Exec(s.Argv[0], s.Argv, os.Environ())
}
