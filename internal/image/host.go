package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// hostFormat changes whenever Host makes something else of the same machine.
const hostFormat = "host 1"

// programDirs are the directories with this machine's programs and libraries. On most machines all but usr are links into it.
var programDirs = []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32"}

// Host returns the built-in image "host": this machine's programs and libraries, read-only, and the harmless parts of its
// /etc (see etc.go), with an empty place for everything else. Nothing of /home, /root, /var, /opt, no keys and no sockets.
//
// The programs are binds, the rest is a small EROFS file that is made when one of its inputs changed. When none did, a call
// costs about a hundred stats. A change inside a directory below /etc shows when the directory itself changed.
func Host(ctx context.Context, home string) (*Root, error) { return hostOf(ctx, home, "/") }

// hostOf is Host of the machine whose root directory is top.
func hostOf(ctx context.Context, home, top string) (*Root, error) {
	h := &host{top: top, key: newKey(hostFormat)}
	if err := h.inspect(); err != nil {
		return nil, &sandbox.Error{Op: "inspect this machine", Kind: sandbox.IO, Message: "make the image host", Err: err}
	}
	binds, err := h.binds(home)
	if err != nil {
		return nil, err
	}
	digest := h.key.sum()
	dir := filepath.Join(home, "images", "host")
	root := &Root{
		Path:   filepath.Join(dir, digest+".erofs"),
		Binds:  binds,
		Config: Config{Env: []string{defaultPath}, Cmd: []string{"/bin/sh"}},
		Digest: digest,
	}
	if cached(root.Path) {
		return root, nil
	}
	if err := makeCacheDir(home, dir); err != nil {
		return nil, storeError("make the image host", home, err)
	}
	if err := erofs.Publish(root.Path, func(w *erofs.Writer) error { return h.write(ctx, w) }); err != nil {
		return nil, storeError("make the image host", home, err)
	}
	sweepHosts(dir, root.Path)
	return root, nil
}

// host is one machine, as far as its image needs it.
type host struct {
	top  string
	key  key               // of all that was inspected
	dirs []string          // the programDirs that are directories
	link map[string]string // the programDirs that are symbolic links, and where to
	etc  []string          // the entries of /etc to copy, as far as they are fit for it
}

// inspect finds the inputs of the image and takes them into the key.
func (h *host) inspect() error {
	h.link = map[string]string{}
	for _, name := range programDirs {
		path := filepath.Join(h.top, name)
		info, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		case info.IsDir():
			h.dirs = append(h.dirs, name)
			h.key.add("dir", name)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			h.link[name] = target
			h.key.add("link", name, target)
		}
	}
	return h.inspectEtc()
}

// binds returns the directories to bind. One that holds home is refused: it would show every sandbox to every other.
func (h *host) binds(home string) ([]Bind, error) {
	realHome, err := real(home)
	if err != nil {
		return nil, storeError("find MSB_HOME", home, err)
	}
	var binds []Bind
	for _, name := range h.dirs {
		source, err := real(filepath.Join(h.top, name))
		if err != nil {
			return nil, fmt.Errorf("make the image host: %w", err)
		}
		if realHome == source || strings.HasPrefix(realHome, source+"/") {
			return nil, &sandbox.Error{Op: "make the image host", Kind: sandbox.InvalidConfig,
				Message: fmt.Sprintf("MSB_HOME (%s) is inside %s, which the image host shows to every sandbox", home, source),
				Hint:    "set MSB_HOME to a directory outside of " + source}
		}
		binds = append(binds, Bind{Source: source, Target: "/" + name})
	}
	return binds, nil
}

// places are the directories of the image besides those of programs and /etc. What they hold on this machine stays outside.
var places = []struct {
	path string
	mode fs.FileMode
}{
	{".", 0o755},
	{".msb", 0o755},
	{"dev", 0o755},
	{"etc", 0o755},
	{"home", 0o755},
	{"media", 0o755},
	{"mnt", 0o755},
	{"opt", 0o755},
	{"proc", 0o555},
	{"root", 0o700},
	{"run", 0o755},
	{"run/lock", 0o777 | fs.ModeSticky},
	{"srv", 0o755},
	{"sys", 0o555},
	{"tmp", 0o777 | fs.ModeSticky},
	{"var", 0o755},
	{"var/cache", 0o755},
	{"var/lib", 0o755},
	{"var/local", 0o755},
	{"var/log", 0o755},
	{"var/opt", 0o755},
	{"var/spool", 0o755},
	{"var/tmp", 0o777 | fs.ModeSticky},
}

// write fills the image. All that it makes up has the time zero, so that it depends on the inputs only.
func (h *host) write(ctx context.Context, w *erofs.Writer) error {
	for _, p := range places {
		if err := w.Dir(p.path, erofs.Attr{Mode: p.mode}); err != nil {
			return err
		}
	}
	for _, name := range h.dirs {
		if err := w.Dir(name, erofs.Attr{Mode: 0o755}); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{"var/run": "/run", "var/lock": "/run/lock", "etc/mtab": "../proc/self/mounts"} {
		if err := w.Symlink(name, target, erofs.Attr{}); err != nil {
			return err
		}
	}
	for name, target := range h.link {
		if err := w.Symlink(name, target, erofs.Attr{}); err != nil {
			return err
		}
	}
	return h.writeEtc(ctx, w)
}

// sweepHosts removes the images of how this machine was before, and what killed processes left.
// One that was used lately stays: somebody may be about to open it. What cannot be removed now waits for the next time.
func sweepHosts(dir, keep string) {
	_ = atomicfile.Sweep(dir, grace)
	images, _ := filepath.Glob(filepath.Join(dir, "*.erofs"))
	for _, p := range images {
		if info, err := os.Stat(p); err == nil && p != keep && time.Since(info.ModTime()) > grace {
			_ = os.Remove(p)
		}
	}
}

// attrOf returns the attributes of a file of this machine.
func attrOf(info fs.FileInfo) erofs.Attr {
	st := info.Sys().(*syscall.Stat_t)
	return erofs.Attr{Mode: info.Mode(), UID: st.Uid, GID: st.Gid, ModTime: info.ModTime()}
}
