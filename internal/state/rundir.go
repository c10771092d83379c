// Package state is what a machine remembers of its sandboxes. What runs is in run directories: one per sandbox, claimed by a
// lock that its runner holds for its life, so that whoever reads it knows the truth whatever was killed ([Store]). What is
// kept is in one SQLite file ([DB]), which ephemeral sandboxes are never written to.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Dir is a claimed run directory. Who holds it, or has handed its lock to a child, owns the sandbox's name.
type Dir struct {
	Path string
	Lock *os.File
	gone bool
}

// Store is the run directories below one MSB_HOME.
type Store struct{ Home string }

func (s Store) run() string { return filepath.Join(s.Home, "run") }

// Path is the run directory of ref.
func (s Store) Path(ref sandbox.Ref) string { return filepath.Join(s.run(), ref.ShortID()) }

// errHeld says that a live process has the directory.
var errHeld = errors.New("held by a live process")

// Claim takes the run directory of ref and writes info into it. What a dead sandbox of that name left is removed. Kind:
// AlreadyExists.
func (s Store) Claim(ref sandbox.Ref, info sandbox.Info) (*Dir, error) {
	if err := os.MkdirAll(s.run(), 0o700); err != nil {
		return nil, ioError("make the run directory", err)
	}
	d, err := s.claim(s.Path(ref))
	if errors.Is(err, errHeld) {
		return nil, &sandbox.Error{Op: "create", Ref: ref, Kind: sandbox.AlreadyExists, Message: string(ref.Name),
			Hint: fmt.Sprintf("stop it with: msb stop %s", ref.Name)}
	}
	if err != nil {
		return nil, ioError("claim the run directory", err)
	}
	b, err := json.Marshal(info)
	if err == nil {
		err = atomicfile.Write(filepath.Join(d.Path, launch.InfoFile), b, 0o600)
	}
	if err != nil {
		d.Remove()
		return nil, ioError("record the sandbox", err)
	}
	return d, nil
}

// claim makes the directory and takes its lock. One that a dead sandbox left is not used again but discarded, so that
// nobody ever sees what is in it as the new sandbox's.
func (s Store) claim(dir string) (*Dir, error) {
	unlock, err := s.exclude()
	if err != nil {
		return nil, err
	}
	defer unlock()
	for {
		err := os.Mkdir(dir, 0o700)
		if err == nil {
			return take(dir, os.O_CREATE|os.O_EXCL)
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		old, err := take(dir, os.O_CREATE)
		switch {
		case err == nil:
			err = atomicfile.Discard(dir)
			old.Lock.Close()
			if err != nil {
				return nil, err
			}
		case !errors.Is(err, fs.ErrNotExist): // its runner has just removed it
			return nil, err
		}
	}
}

// exclude keeps others from claiming and sweeping until unlock is called. Both are short.
func (s Store) exclude() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.run(), ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// take takes the lock of a run directory, under exclude. The lock belongs to the open file description, so a child that
// inherits the file holds it, too, and readers can ask about it without taking it (fcntl(2), F_OFD_SETLK). It returns
// fs.ErrNotExist if the directory is not there, or no more when the lock was had.
func take(dir string, flags int) (*Dir, error) {
	f, err := os.OpenFile(filepath.Join(dir, launch.LockFile), os.O_RDWR|flags, 0o600)
	if err != nil {
		return nil, err
	}
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
		f.Close()
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return nil, errHeld
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	ours, err := f.Stat()
	if err == nil {
		var now fs.FileInfo
		if now, err = os.Stat(f.Name()); err == nil && !os.SameFile(ours, now) {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Dir{Path: dir, Lock: f}, nil
}

// held reports whether a live process has the lock of a run directory. Every command asks about every one, so this does
// without an os.File, which is five system calls more.
func held(dir string) (bool, error) {
	path := filepath.Join(dir, launch.LockFile)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	for err == unix.EINTR {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return false, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &lk); err != nil {
		return false, fmt.Errorf("ask about the lock of %s: %w", dir, err)
	}
	return lk.Type != unix.F_UNLCK, nil
}

// Remove removes the directory and lets go of it. It may be called again: by then it can be another's.
func (d *Dir) Remove() error {
	if d.gone {
		return nil
	}
	d.gone = true
	return errors.Join(atomicfile.Discard(d.Path), d.Lock.Close())
}

// Record is what the store knows of one sandbox.
type Record struct {
	sandbox.Info
	Live    bool           // a runner holds it
	Ended   bool           // its runner has recorded how it ended
	Claimed sandbox.Status // what it was when the directory was claimed: Created while it was being made
}

// Get reads the record of ref. Kind: NotFound.
func (s Store) Get(ref sandbox.Ref) (Record, error) {
	r, err := s.read(s.Path(ref))
	if errors.Is(err, fs.ErrPermission) {
		return r, &sandbox.Error{Ref: ref, Kind: sandbox.IO, Message: "read the sandbox's record", Err: err, Hint: "it belongs to another user"}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return r, &sandbox.Error{Ref: ref, Kind: sandbox.NotFound, Message: string(ref.Name), Hint: "see what there is with: msb ls"}
	}
	return r, err
}

// List reads the records of a namespace, of all of them when it is "", in no order.
func (s Store) List(namespace string) ([]Record, error) {
	entries, err := os.ReadDir(s.run())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, ioError("list sandboxes", err)
	}
	var all []Record
	for _, e := range entries {
		if !e.IsDir() || atomicfile.IsTemp(e.Name()) {
			continue
		}
		r, err := s.read(filepath.Join(s.run(), e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // half made, or just removed
		}
		if errors.Is(err, fs.ErrPermission) {
			continue // another user's
		}
		if err != nil {
			return nil, err
		}
		if namespace == "" || r.Ref.Namespace == namespace {
			all = append(all, r)
		}
	}
	return all, nil
}

// read derives the truth from the lock first, then from the files.
func (s Store) read(dir string) (Record, error) {
	var r Record
	live, err := held(dir)
	if err != nil {
		return r, err
	}
	if err := readJSON(filepath.Join(dir, launch.InfoFile), &r.Info); err != nil {
		return r, err
	}
	r.Live, r.Claimed = live, r.Status
	var run launch.Running
	var end sandbox.End
	if readJSON(filepath.Join(dir, launch.EndFile), &end) == nil { // the runner's last act, or nearly
		r.Status, r.End, r.UpdatedAt = sandbox.Stopped, &end, end.At
		return r, nil
	}
	switch err := readJSON(filepath.Join(dir, launch.RunningFile), &run); {
	case live && err == nil:
		r.Status, r.RunnerPID, r.Confinement, r.UpdatedAt = sandbox.Running, run.PID, &run.Confinement, run.StartedAt
		if run.Draining {
			r.Status = sandbox.Draining
		}
		r.Ports = run.Ports
	case live:
		r.Status = sandbox.Starting
	default:
		r.Status = sandbox.Crashed
		r.End = &sandbox.End{Reason: sandbox.ReasonLost, Message: "its runner was killed"}
	}
	return r, nil
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return &sandbox.Error{Kind: sandbox.IO, Message: "decode " + path, Err: err}
	}
	return nil
}

// Live reports whether a runner, or a creator, holds the run directory of that short id.
func (s Store) Live(id string) bool {
	live, err := held(filepath.Join(s.run(), id))
	return live && err == nil
}

// Sweep removes what dead ephemeral sandboxes left, and returns the dead kept ones, whose last run is still to be recorded. It
// is cheap where there is nothing to do.
func (s Store) Sweep() ([]sandbox.Ref, error) {
	entries, err := os.ReadDir(s.run())
	if err != nil {
		return nil, nil // nothing has run here
	}
	var (
		dead []sandbox.Ref
		errs []error
	)
	for _, e := range entries {
		dir := filepath.Join(s.run(), e.Name())
		if !e.IsDir() {
			continue
		}
		if atomicfile.IsTemp(e.Name()) { // somebody was killed while he removed it
			errs = append(errs, atomicfile.RemoveAll(dir))
			continue
		}
		if live, err := held(dir); live && err == nil {
			continue
		}
		var info sandbox.Info
		if err := readJSON(filepath.Join(dir, launch.InfoFile), &info); err == nil && !info.Spec.Lifecycle.Ephemeral {
			dead = append(dead, info.Ref)
			continue
		}
		errs = append(errs, s.sweepOne(dir))
	}
	return dead, errors.Join(errs...)
}

// Dead are the run directories that Sweep would remove.
func (s Store) Dead() ([]string, error) {
	entries, err := os.ReadDir(s.run())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, ioError("list sandboxes", err)
	}
	var dead []string
	for _, e := range entries {
		dir := filepath.Join(s.run(), e.Name())
		if !e.IsDir() {
			continue
		}
		if live, err := held(dir); live && err == nil {
			continue
		}
		var info sandbox.Info
		if err := readJSON(filepath.Join(dir, launch.InfoFile), &info); atomicfile.IsTemp(dir) || err != nil || info.Spec.Lifecycle.Ephemeral {
			dead = append(dead, dir)
		}
	}
	return dead, nil
}

func (s Store) sweepOne(dir string) error {
	unlock, err := s.exclude()
	if err != nil {
		return err
	}
	defer unlock()
	d, err := take(dir, os.O_CREATE)
	if err != nil {
		return nil // alive after all, or not ours
	}
	var info sandbox.Info
	if err := readJSON(filepath.Join(dir, launch.InfoFile), &info); err == nil && !info.Spec.Lifecycle.Ephemeral {
		return d.Lock.Close() // another one of that name, meanwhile
	}
	return d.Remove()
}

// Hold takes the run directory of a sandbox that does not run, so that nobody starts it meanwhile, and reads what its last
// run left there; the record is empty if that is nothing. Kind: StillRunning.
func (s Store) Hold(ref sandbox.Ref) (*Dir, Record, error) {
	if err := os.MkdirAll(s.run(), 0o700); err != nil {
		return nil, Record{}, ioError("make the run directory", err)
	}
	d, err := s.hold(s.Path(ref))
	if errors.Is(err, errHeld) {
		return nil, Record{}, &sandbox.Error{Ref: ref, Kind: sandbox.StillRunning}
	}
	if err != nil {
		return nil, Record{}, ioError("hold the run directory", err)
	}
	r, err := s.read(d.Path)
	if err != nil {
		r = Record{}
	} else if _, err := os.Stat(filepath.Join(d.Path, launch.EndFile)); err == nil {
		r.Ended = true
	}
	return d, r, nil
}

func (s Store) hold(dir string) (*Dir, error) {
	unlock, err := s.exclude()
	if err != nil {
		return nil, err
	}
	defer unlock()
	for {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		d, err := take(dir, os.O_CREATE)
		if !errors.Is(err, fs.ErrNotExist) { // its runner has just removed it
			return d, err
		}
	}
}

// ioError tells the user what a failure on MSB_HOME means.
func ioError(doing string, err error) error {
	e := &sandbox.Error{Kind: sandbox.IO, Message: doing, Err: err}
	switch {
	case errors.Is(err, syscall.ENOSPC):
		e.Hint = "free some disk space, or set MSB_HOME to a directory on another disk"
	case errors.Is(err, fs.ErrPermission):
		e.Hint = "set MSB_HOME to a directory that you may write to"
	case errors.Is(err, syscall.EROFS):
		e.Hint = "set MSB_HOME to a directory on a writable file system"
	}
	return e
}
