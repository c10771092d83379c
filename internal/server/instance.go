package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Files of the running server in the state root.
const (
	pidFile   = "server.pid" // its number; it holds a lock on it for as long as it lives
	stateFile = "server.json"
)

// State is what a running server says of itself.
type State struct {
	PID       int       `json:"pid"`
	URL       string    `json:"url"`
	Dev       bool      `json:"dev"`
	Path      string    `json:"path"` // of the namespaces
	Log       string    `json:"log,omitempty"`
	StartedAt time.Time `json:"started_at"`
}

// Instance is being the server of a state root: there is one at a time.
type Instance struct {
	home string
	file *os.File
}

// Running is the error of a state root that has a server.
type Running struct{ PID int }

func (r *Running) Error() string {
	return fmt.Sprintf("A sandbox server is already running (PID: %d) - Use msb server stop to stop it", r.PID)
}

// Become makes this process the server of home. What a dead one left is no hindrance. The error is a *Running if there is one.
func Become(home string) (*Instance, error) {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, &sandbox.Error{Op: "start server", Kind: sandbox.IO, Message: "make " + home, Err: err}
	}
	for {
		f, err := os.OpenFile(filepath.Join(home, pidFile), os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, &sandbox.Error{Op: "start server", Kind: sandbox.IO, Message: "open the PID file", Err: err}
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			pid := readPID(f)
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, &Running{pid}
			}
			return nil, &sandbox.Error{Op: "start server", Kind: sandbox.IO, Message: "lock the PID file", Err: err}
		}
		if !current(f) { // its last holder removed it just now
			f.Close()
			continue
		}
		i := &Instance{home, f}
		_ = os.Remove(filepath.Join(home, stateFile))
		if err := f.Truncate(0); err == nil {
			_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
		}
		if err != nil {
			i.Release()
			return nil, &sandbox.Error{Op: "start server", Kind: sandbox.IO, Message: "write the PID file", Err: err}
		}
		return i, nil
	}
}

// current reports whether f is what its name leads to.
func current(f *os.File) bool {
	here, err := f.Stat()
	there, serr := os.Stat(f.Name())
	return err == nil && serr == nil && os.SameFile(here, there)
}

func readPID(f *os.File) int {
	var b [32]byte
	n, _ := f.ReadAt(b[:], 0)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	return pid
}

// Publish says what the server is like.
func (i *Instance) Publish(s State) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(i.home, stateFile), append(data, '\n'), 0o600)
}

// Release ends being the server.
func (i *Instance) Release() {
	_ = os.Remove(filepath.Join(i.home, stateFile))
	_ = os.Remove(i.file.Name())
	_ = i.file.Close()
}

// Find returns the state of the server of home, if there is one. What a dead one left is removed.
func Find(home string) (State, bool, error) {
	f, err := os.OpenFile(filepath.Join(home, pidFile), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return State{}, false, nil
	}
	if err != nil {
		return State{}, false, &sandbox.Error{Op: "find server", Kind: sandbox.IO, Message: "open the PID file", Err: err}
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		if current(f) {
			_ = os.Remove(filepath.Join(home, stateFile))
			_ = os.Remove(f.Name())
			return State{}, false, errStale
		}
		return State{}, false, nil
	}
	s := State{PID: readPID(f)}
	if data, err := os.ReadFile(filepath.Join(home, stateFile)); err == nil {
		var said State
		if json.Unmarshal(data, &said) == nil && said.PID == s.PID {
			s = said
		}
	}
	return s, true, nil
}

// errStale is of a PID file whose server is dead.
var errStale = errors.New("stale PID file removed")

// Halt tells the server of home to end and waits until it has. Kind: NotRunning.
func Halt(ctx context.Context, home string) (State, error) {
	fail := func(format string, args ...any) (State, error) {
		return State{}, &sandbox.Error{Op: "stop server", Kind: sandbox.NotRunning, Message: fmt.Sprintf("Server failed to stop: "+format, args...)}
	}
	s, runs, err := Find(home)
	switch {
	case errors.Is(err, errStale):
		return fail("server process not found (stale PID file removed)")
	case err != nil:
		return State{}, err
	case !runs:
		return fail("server is not running (PID file not found)")
	case s.PID <= 0:
		return fail("invalid PID found in server.pid file")
	}
	fd, err := unix.PidfdOpen(s.PID, 0)
	if err != nil {
		return fail("server process not found")
	}
	defer unix.Close(fd)
	if again, runs, _ := Find(home); !runs || again.PID != s.PID { // it was still the server when its process was opened
		return fail("server process not found")
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil {
		return State{}, &sandbox.Error{Op: "stop server", Kind: sandbox.IO, Message: "signal the server", Err: err}
	}
	for deadline := time.Now().Add(ShutdownTimeout + 10*time.Second); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 200)
		switch {
		case n > 0:
			return s, nil
		case err != nil && err != unix.EINTR:
			return State{}, &sandbox.Error{Op: "stop server", Kind: sandbox.IO, Message: "wait for the server", Err: err}
		case ctx.Err() != nil:
			return State{}, &sandbox.Error{Op: "stop server", Kind: sandbox.Cancelled, Message: "the server was told to stop, and has not yet", Err: context.Cause(ctx)}
		case time.Now().After(deadline):
			return State{}, &sandbox.Error{Op: "stop server", Kind: sandbox.IO, Message: fmt.Sprintf("the server (PID %d) does not end", s.PID), Hint: "kill it"}
		}
	}
}
