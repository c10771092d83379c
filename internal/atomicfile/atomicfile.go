// Package atomicfile publishes files whole or not at all.
// A file is created under a temporary name beside its place, written, and then committed by rename or aborted.
// A process that is killed in between leaves only a name for which IsTemp holds, to be swept later.
package atomicfile

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const tempPrefix = ".tmp-"

// File is a file under construction. Nobody sees it at its path before Commit.
type File struct {
	*os.File
	path string
	done bool
}

// Create begins the file that will be at path, with exactly this mode whatever the umask.
// The directory must exist. The caller ends it by Commit or Abort; a deferred Abort after Commit does nothing.
func Create(path string, mode fs.FileMode) (*File, error) {
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix+"*")
	if err != nil {
		return nil, err
	}
	af := &File{File: f, path: path}
	if err := f.Chmod(mode); err != nil {
		af.Abort()
		return nil, err
	}
	return af, nil
}

// Commit closes the file and moves it to its path, in place of what was there.
// The change survives the death of any process. It survives a power failure whole or not at all
// only when Sync was called before: that costs a write to the disk, so it is the caller's choice.
func (f *File) Commit() error {
	if f.done {
		return fs.ErrClosed
	}
	f.done = true
	err := f.Close()
	if err == nil {
		err = os.Rename(f.Name(), f.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// Abort removes the file. It does nothing when the file was committed or aborted before.
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	// Nothing can be done about a failure here, and Sweep mends it.
	_ = f.Close()
	_ = os.Remove(f.Name())
}

// Write puts a file with these bytes and exactly this mode at path, in one step, in place of what was there.
// See Commit for what it survives.
func Write(path string, data []byte, mode fs.FileMode) error { return write(path, data, mode, false) }

// WriteSync is Write that returns when the bytes are on the disk.
func WriteSync(path string, data []byte, mode fs.FileMode) error {
	return write(path, data, mode, true)
}

func write(path string, data []byte, mode fs.FileMode, sync bool) error {
	f, err := Create(path, mode)
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if sync {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return f.Commit()
}

// Discard takes a directory from its place in one step, and then removes it with all that is in it. Who looks meanwhile
// finds all of it or nothing. What a crash leaves has a name that IsTemp knows.
func Discard(dir string) error {
	dir = filepath.Clean(dir)
	gone := filepath.Join(filepath.Dir(dir), tempPrefix+rand.Text())
	if err := os.Rename(dir, gone); err != nil {
		return err
	}
	return RemoveAll(gone)
}

// IsTemp reports whether name is that of a file that was begun and neither committed nor aborted.
func IsTemp(name string) bool { return strings.HasPrefix(filepath.Base(name), tempPrefix) }

// Sweep removes from dir the files that a killed process left, when they were last written longer than age ago.
func Sweep(dir string, age time.Duration) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sweep %s: %w", dir, err)
	}
	var errs []error
	for _, e := range entries {
		if !IsTemp(e.Name()) || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < age {
			continue // gone by itself, or somebody may still be writing it
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
