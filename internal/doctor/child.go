package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// The roles that this program plays as a child of its own. They are one word, the only argument.
const (
	roleNamespaces = "__msb-doctor-namespaces"
	roleSeccomp    = "__msb-doctor-seccomp"
	roleTraced     = "__msb-doctor-traced"
	roleKVM        = "__msb-doctor-kvm"
)

// Child plays a role of doctor and exits if this process was started for one. It is to be called first in main, and in
// every TestMain that runs doctor.
func Child() {
	if len(os.Args) != 2 || !strings.HasPrefix(os.Args[1], "__msb-doctor-") {
		return
	}
	roles := map[string]func() error{roleNamespaces: tryMounts, roleSeccomp: trySeccomp, roleKVM: tryKVM,
		roleTraced: func() error { return nil }}
	role := roles[os.Args[1]]
	if role == nil {
		return
	}
	// Should the parent have died before it could ask for the death signal: this ends the process, whatever a thread does.
	time.AfterFunc(4*probeTimeout, func() { os.Exit(1) })
	if err := role(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// errHangs is the error of a child that did not answer in time.
var errHangs = errors.New("no answer in time")

// play runs a role in a child that is killed at the deadline and returns what it said was wrong. It returns when the
// child is gone.
func play(ctx context.Context, role string, attr syscall.SysProcAttr) error {
	runtime.LockOSThread() // the parent-death signal follows the thread
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithTimeout(ctx, patience(role))
	defer cancel()
	var said bytes.Buffer
	cmd := child(ctx, role, attr)
	cmd.Stdout = &said
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errHangs
	case errors.As(err, &exit) && said.Len() > 0:
		return errors.New(strings.TrimSpace(said.String()))
	}
	return err
}

// patience is how long a role may take.
func patience(role string) time.Duration {
	switch role {
	case roleNamespaces, roleSeccomp, roleTraced:
		return probeTimeout
	}
	return hangTimeout
}

func child(ctx context.Context, role string, attr syscall.SysProcAttr) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", role)
	cmd.Env = []string{}
	attr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr = &attr
	cmd.WaitDelay = time.Second
	return cmd
}
