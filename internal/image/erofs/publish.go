package erofs

import (
	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
)

// Publish makes the image that fill describes and puts it at path, readable by all, in one step and on the disk.
// When anything fails there is nothing at path that was not there before.
func Publish(path string, fill func(*Writer) error) error {
	f, err := atomicfile.Create(path, 0o644)
	if err != nil {
		return err
	}
	defer f.Abort()
	w := NewWriter(f)
	if err := fill(w); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	// The name promises the contents for ever, so they must be there before the name, even after a power failure.
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Commit()
}
