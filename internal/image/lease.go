package image

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// Lease returns the root's EROFS file, open for reading and locked against removal by [Store.Remove] and [Store.Prune].
//
// The lock is a shared flock, which belongs to the open file and not to a process: whoever inherits the descriptor holds the
// lease, too, and it ends when the last copy is closed, by whatever death. So a runner holds it by doing nothing: the backend
// passes the file to it as an extra file and closes its own copy once the runner is started; the runner keeps its copy open,
// and must neither unlock it nor hand it to the sandbox.
//
// An image that was removed in the meantime gives an ImageNotFound error.
func (r *Root) Lease() (*os.File, error) {
	for {
		f, err := os.Open(r.Path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, notFound(r.Digest)
		}
		if err != nil {
			return nil, err
		}
		// Removers hold their lock for the time of an unlink.
		if err := flock(f, syscall.LOCK_SH); err != nil {
			f.Close()
			return nil, err
		}
		if isAt(f, r.Path) {
			return f, nil
		}
		f.Close()
	}
}

// removeUnleased removes the file at path unless somebody has a lease on it, or always when force is set.
// It fails with EWOULDBLOCK when it must not.
func removeUnleased(path string, force bool) error {
	f, err := os.Open(path)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); err != nil && !force {
		return err
	}
	return os.Remove(path)
}

// leased reports whether somebody has a lease on the file at path.
func leased(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(flock(f, syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}
