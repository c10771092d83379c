package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// The hand-over of PID 1 (contract msb-0.6 §2.2, §4.4). When the guest is ready but for saying so, the agent starts itself anew
// as a child, which waits, and becomes the init. The child serves the connection from then on, and says that the guest is
// ready when the exec has succeeded. If it has not, PID 1 still is the agent and says why.

// HandedOver is the argument of an agent that an agent which became something else has left behind.
const HandedOver = "handed-over"

// File descriptors of such an agent beside the connection.
const (
	bootstrapFD = 4 // core.bootstrap's payload
	execFD      = 5 // ends when PID 1 is the init
)

// initPaths are where "auto" looks for an init, after the image's own entrypoint, which the host knows.
var initPaths = [...]string{"/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd", "/bin/init", "/init"}

// handOver makes PID 1 the init. It returns only when that fails.
func (a *Agent) handOver(b *agentproto.Bootstrap) error {
	conn, ok := a.Conn.(syscall.Conn)
	if !ok || !a.Init || a.frames.Buffered() {
		return errors.New("this guest cannot hand its PID 1 over")
	}
	path, err := findInit(b.HandoffInit.Cmd)
	if err != nil {
		return err
	}
	config, err := memoryFile(agentproto.Encode(b))
	if err != nil {
		return err
	}
	defer config.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the agent anew: %w", err)
	}
	defer r.Close()
	defer w.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("start the agent anew: %w", err)
	}
	pid := 0
	cerr := raw.Control(func(fd uintptr) {
		pid, err = syscall.ForkExec("/proc/self/exe", []string{os.Args[0], HandedOver}, &syscall.ProcAttr{Dir: "/", Env: os.Environ(),
			Files: []uintptr{0, 1, 2, fd, config.Fd(), r.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true}})
	})
	if err := errors.Join(cerr, err); err != nil {
		return fmt.Errorf("start the agent anew: %w", err)
	}
	var own []string
	for _, v := range b.HandoffInit.Env {
		own = append(own, v.Key+"="+v.Value)
	}
	env := mergeEnv(guestOf(b).env, own, func() string { return a.users.home(0) })
	err = syscall.Chdir(cmpOr(b.HandoffInit.Cwd, "/"))
	if err == nil {
		err = syscall.Exec(path, append([]string{path}, b.HandoffInit.Args...), env)
	}
	// The child has not begun: it waits for the end of the pipe, and must not see it.
	_ = syscall.Kill(pid, syscall.SIGKILL)
	_, _ = syscall.Wait4(pid, nil, 0, nil)
	return fmt.Errorf("hand PID 1 over to %s: %w", path, err)
}

// findInit is the program that is to be PID 1.
func findInit(cmd string) (string, error) {
	if cmd != "auto" {
		return cmd, executable(cmd)
	}
	for _, p := range initPaths {
		if executable(p) == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("there is no init in the image: none of %s", strings.Join(initPaths[:], ", "))
}

func executable(path string) error {
	var st syscall.Stat_t
	err := syscall.Stat(path, &st)
	switch {
	case !strings.HasPrefix(path, "/"):
		err = errors.New("it is not absolute")
	case err != nil:
	case st.Mode&syscall.S_IFMT != syscall.S_IFREG || st.Mode&0o111 == 0:
		err = syscall.EACCES
	}
	if err != nil {
		return fmt.Errorf("the init %q cannot be run: %w", path, err)
	}
	return nil
}

// memoryFile is a file with content that goes with whoever has it open.
func memoryFile(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("bootstrap", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("start the agent anew: %w", err)
	}
	f := os.NewFile(uintptr(fd), "bootstrap")
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, fmt.Errorf("start the agent anew: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		f.Close()
		return nil, fmt.Errorf("start the agent anew: %w", err)
	}
	return f, nil
}

// takeOver is the other side: it waits until PID 1 is the init, and says that the guest is ready.
func (a *Agent) takeOver() error {
	config, exec := os.NewFile(bootstrapFD, "bootstrap"), os.NewFile(execFD, "exec")
	var content bytes.Buffer
	_, err := content.ReadFrom(config)
	_ = config.Close()
	if err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	var b agentproto.Bootstrap
	if err := agentproto.Decode(content.Bytes(), &b); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	_, err = exec.Read(make([]byte, 1)) // its end is the news
	_ = exec.Close()
	if err != io.EOF {
		return fmt.Errorf("take over: %w", err)
	}
	a.guest.Store(guestOf(&b))
	id, err := a.users.lookup(b.User)
	if err != nil {
		return err
	}
	return a.ready(agentproto.Append(nil, 0, agentproto.TypeInitResolved, &agentproto.InitResolved{DefaultUser: agentproto.UserID{UID: id.uid, GID: id.gid}}))
}

// initGrace is how long an init may take to end the guest (contract msb-0.6 §4.4).
const initGrace = 5 * time.Second

// sigRTMin is the first real-time signal that programs may use; systemd powers off at the fourth after it.
const sigRTMin = 34

// endInit asks PID 1 to end the guest, and gives it time to. With PID 1 this process ends, too.
func endInit() {
	sig := syscall.SIGTERM
	if exe, err := os.Readlink("/proc/1/exe"); err == nil && filepath.Base(exe) == "systemd" {
		sig = syscall.Signal(sigRTMin + 4)
	}
	if syscall.Kill(1, sig) == nil {
		time.Sleep(initGrace)
	}
}
