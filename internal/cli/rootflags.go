package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// rootFlags are the flags that say what is in the root beyond the image: mounts of the host, and patches in the order in
// which they are given.
type rootFlags struct {
	mounts  []sandbox.Mount
	patches []sandbox.Patch
}

func (r *rootFlags) declare(f *flags) {
	const opts = "; OPTIONS of ro, noexec, nosuid, nodev, quota=SIZE, uid=N,gid=N, …; repeatable"
	f.value("v", "volume", "SOURCE:DEST[:OPTIONS]", "Mount a directory or a file (./SOURCE) of this machine, or a volume (NAME)"+opts, r.mount("volume", nil))
	f.value("", "mount-named", "NAME:DEST[:OPTIONS]", "Mount a volume, which is made if it is not there", r.mountNamed)
	f.value("", "mount-dir", "SOURCE:DEST[:OPTIONS]", "The same, only a directory", r.mount("mount-dir", os.FileMode.IsDir))
	f.value("", "mount-file", "SOURCE:DEST[:OPTIONS]", "The same, only a file", r.mount("mount-file", os.FileMode.IsRegular))
	f.value("", "copy", "SRC:DST", "Copy a file or directory in before the start; repeatable", r.copy("copy", nil))
	f.value("", "copy-file", "SRC:DST", "The same, only a file", r.copy("copy-file", os.FileMode.IsRegular))
	f.value("", "copy-dir", "SRC:DST", "The same, only a directory", r.copy("copy-dir", os.FileMode.IsDir))
	f.value("", "mkdir", "PATH", "Make a directory before the start; repeatable", func(v string) error {
		r.patches = append(r.patches, sandbox.Patch{Type: sandbox.PatchMkdir, Path: v})
		return nil
	})
	f.value("", "rm", "PATH", "Remove a path before the start; repeatable", func(v string) error {
		r.patches = append(r.patches, sandbox.Patch{Type: sandbox.PatchRemove, Path: v})
		return nil
	})
}

// mount reads a mount whose source, if it is a path, is there and of the kind that the flag is for.
func (r *rootFlags) mount(flag string, kind func(os.FileMode) bool) func(string) error {
	return func(v string) error {
		m, err := sandbox.ParseVolume(v)
		if err != nil {
			return err
		}
		if m.Type == sandbox.MountNamed && kind == nil {
			r.mounts = append(r.mounts, m)
			return nil
		}
		m.Type, m.Create = sandbox.MountBind, "" // --mount-dir and --mount-file take paths only
		if m.Host, err = source(flag, m.Host, kind); err != nil {
			return err
		}
		r.mounts = append(r.mounts, m)
		return nil
	}
}

func (r *rootFlags) mountNamed(v string) error {
	m, err := sandbox.ParseVolume(v)
	if err != nil {
		return err
	}
	if m.Type != sandbox.MountNamed {
		return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("%q names no volume", m.Host), Hint: "mount a path with -v"}
	}
	r.mounts = append(r.mounts, m)
	return nil
}

func (r *rootFlags) copy(flag string, kind func(os.FileMode) bool) func(string) error {
	return func(v string) error {
		src, dst, err := sandbox.ParseCopy(v)
		if err != nil {
			return err
		}
		if src, err = source(flag, src, kind); err != nil {
			return err
		}
		p := sandbox.Patch{Type: sandbox.PatchCopyFile, Src: src, Dst: dst, Replace: true}
		if info, err := os.Stat(src); err == nil && info.IsDir() {
			p.Type = sandbox.PatchCopyDir
		}
		r.patches = append(r.patches, p)
		return nil
	}
}

// source makes a path of this machine absolute and checks what is there.
func source(flag, path string, kind func(os.FileMode) bool) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", &sandbox.Error{Kind: sandbox.IO, Message: err.Error()}
	}
	info, err := os.Stat(abs)
	if err != nil {
		return "", &sandbox.Error{Kind: sandbox.InvalidConfig, Message: err.Error(), Hint: "the source is a path of this machine"}
	}
	if kind != nil && !kind(info.Mode()) {
		return "", &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("%s is not what --%s takes", path, flag),
			Hint: "-v and --copy take both files and directories"}
	}
	return abs, nil
}
