package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// work is the right to make the image with one digest, in a directory of its own:
//
//	images/tmp/<digest>.lock   locked by its owner, with flock, for as long as it lives
//	images/tmp/<digest>/       what it makes
//
// When the lock is free, what is in the directory was left by a killed process. The directory images/tmp itself is locked
// shared by all who make images, and exclusively by who removes what belongs to none.
type work struct {
	lock  *os.File
	store *os.File // keeps collectors away
	dir   string
}

// begin waits until nobody else makes the image and then locks it. It calls waiting, once, when it has to wait.
func (s *Store) begin(ctx context.Context, id string, waiting func()) (*work, error) {
	dir := filepath.Join(s.dir, "tmp", id)
	lock, err := lockFile(dir+".lock", true)
	for errors.Is(err, syscall.EWOULDBLOCK) {
		if waiting != nil {
			waiting()
			waiting = nil
		}
		// A goroutine that is blocked in flock cannot be called off, so this asks. What is waited for takes seconds.
		select {
		case <-ctx.Done():
			return nil, cancelled(ctx, "wait for the other process that makes the image")
		case <-time.After(50 * time.Millisecond):
		}
		lock, err = lockFile(dir+".lock", true)
	}
	if err != nil {
		return nil, err
	}
	w := &work{lock: lock, dir: dir}
	if w.store, err = os.Open(filepath.Dir(dir)); err == nil {
		err = flock(w.store, syscall.LOCK_SH)
	}
	if err := errors.Join(err, os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		w.end()
		return nil, err
	}
	return w, nil
}

// end removes what was not published, and then the lock.
func (w *work) end() {
	_ = os.RemoveAll(w.dir)
	_ = os.Remove(w.lock.Name())
	_ = w.lock.Close()
	if w.store != nil {
		_ = w.store.Close()
	}
}

// alone locks the store against everybody who makes an image, or returns nil when somebody does.
func (s *Store) alone() *os.File {
	f, err := os.Open(filepath.Join(s.dir, "tmp"))
	if err != nil {
		return nil
	}
	if err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil
	}
	return f
}

func (w *work) path(name string) string { return filepath.Join(w.dir, name) }

// write publishes a small file.
func (w *work) write(path string, data []byte) error {
	temp := w.path(filepath.Base(path))
	if err := os.WriteFile(temp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// lockFile locks the file at path against others, or fails with EWOULDBLOCK. The file may be removed by its owner, so
// what was locked must still be what is at path.
func lockFile(path string, create bool) (*os.File, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	for {
		f, err := os.OpenFile(path, flags, 0o600)
		if err != nil {
			return nil, err
		}
		if err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			return nil, err
		}
		if isAt(f, path) {
			return f, nil
		}
		f.Close()
	}
}

func flock(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// isAt reports whether the open file is the one at path.
func isAt(f *os.File, path string) bool {
	a, errA := f.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// sweep removes what killed processes left in tmp. What cannot be removed now waits for the next time.
func (s *Store) sweep() {
	dir := filepath.Join(s.dir, "tmp")
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		id := strings.TrimSuffix(e.Name(), ".lock")
		lock, err := lockFile(filepath.Join(dir, id+".lock"), true)
		if err != nil {
			continue // somebody is at it
		}
		(&work{lock: lock, dir: filepath.Join(dir, id)}).end()
	}
	for _, d := range []string{"refs", "manifests", "configs", "erofs", "blobs/sha256", "roots"} {
		d := filepath.Join(s.dir, d)
		entries, _ := os.ReadDir(d)
		for _, e := range entries {
			if info, err := e.Info(); err == nil && strings.HasPrefix(e.Name(), ".tmp-") && time.Since(info.ModTime()) > grace {
				_ = os.Remove(filepath.Join(d, e.Name()))
			}
		}
	}
}

// publish moves a finished file out of the work's directory. Its bytes are on the disk when its name is.
func publish(f *os.File, path string) error {
	err := errors.Join(f.Chmod(0o644), f.Sync())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return errors.Join(err, f.Close())
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
