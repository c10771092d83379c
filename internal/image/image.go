// Package image turns what the user names as an image into the read-only root of a sandbox: one EROFS file, a few read-only
// binds beside it, and the defaults of its processes.
//
// [Host] is this machine's own programs. A [Store] keeps all other images: it pulls them from registries, loads and saves
// archives, makes them of directories, and removes what nobody needs. What it gives is a [Root], and a [Root.Lease] keeps that.
//
// Files are made once, under a name that stands for their contents, and are never changed: they are published whole by
// rename, shared by all sandboxes, and may be removed while they are in use, for an open file outlives its name.
package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Root is the read-only root of a sandbox.
type Root struct {
	Path   string // the EROFS file
	Binds  []Bind // directories of this machine to be mounted over it, read-only, in this order
	Config Config
	Digest string // stands for the contents of Path and for the list of Binds; not for what is in the Binds
}

// Bind shows the directory Source of this machine at Target in the sandbox. The directory Target is in the EROFS file.
type Bind struct{ Source, Target string }

// Config is what an image says about the processes that run in it, in the words of OCI. Each field may be empty.
type Config struct {
	Env, Cmd, Entrypoint []string
	WorkingDir, User     string
	Labels               map[string]string
}

// defaultPath is the PATH of an image that does not say one.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Files in the cache say by their mtime when they were last used, give or take freshness.
// A file that was used within grace is not removed: somebody may be about to open it.
const (
	freshness = 10 * time.Minute
	grace     = time.Hour
)

// cached reports whether the file is there, and marks it as used.
func cached(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	if now := time.Now(); now.Sub(info.ModTime()) > freshness {
		_ = os.Chtimes(path, now, now) // at worst it is made again
	}
	return true
}

// makeCacheDir makes dir, which is below home. Only the owner looks into a home made here.
func makeCacheDir(home, dir string) error {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o755)
}

// storeError tells the user what a failure to write below home means.
func storeError(op, home string, err error) error {
	e := &sandbox.Error{Op: op, Kind: sandbox.IO, Message: op, Err: err}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e.Kind = sandbox.Cancelled
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Hint = fmt.Sprintf("free space on the file system of MSB_HOME (%s) or set MSB_HOME elsewhere", home)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		e.Hint = fmt.Sprintf("MSB_HOME (%s) must be writable by you: mend its owner or set MSB_HOME elsewhere", home)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrExist):
		e.Hint = fmt.Sprintf("MSB_HOME (%s) must be a directory: set MSB_HOME elsewhere", home)
	}
	return e
}

// real returns path with every symbolic link resolved, as far as it exists.
func real(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	for rest := ""; ; {
		r, err := filepath.EvalSymlinks(path)
		if err == nil {
			return filepath.Join(r, rest), nil
		}
		if !errors.Is(err, fs.ErrNotExist) || path == "/" {
			return "", err
		}
		rest = filepath.Join(filepath.Base(path), rest)
		path = filepath.Dir(path)
	}
}
