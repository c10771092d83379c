package local

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// checkBinds looks at the sources of the mounts on this machine, and rewrites those that may be links to where they lead.
func (b *Backend) checkBinds(mounts []sandbox.Mount) error {
	for i := range mounts {
		m := &mounts[i]
		switch m.Type {
		case sandbox.MountNamed:
			return &sandbox.Error{Kind: sandbox.Unsupported, Message: "named volumes are not supported yet: " + m.Host,
				Hint: "a path of this machine starts with / or ./, for example: -v ./" + m.Host + ":" + m.Guest}
		case sandbox.MountBind:
			if err := b.checkBind(m); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *Backend) checkBind(m *sandbox.Mount) error {
	bad := func(hint, format string, args ...any) error {
		return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf(format, args...), Hint: hint}
	}
	if !filepath.IsAbs(m.Host) {
		return bad("", "the mount source %q is not an absolute path", m.Host)
	}
	info, err := os.Lstat(m.Host)
	if err != nil {
		return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "mount " + m.Host, Err: err}
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		if !m.FollowRootSymlinks {
			return bad("name what it leads to, or add the option follow-root-symlinks", "the mount source %s is a symbolic link", m.Host)
		}
		if m.Host, err = filepath.EvalSymlinks(m.Host); err == nil {
			info, err = os.Lstat(m.Host)
		}
		if err != nil {
			return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "mount " + m.Host, Err: err}
		}
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return bad("sockets, devices and pipes of this machine stay on this machine", "the mount source %s is neither a directory nor a file", m.Host)
	}
	// A guest that can write to our own files could be anyone's.
	home, err := filepath.EvalSymlinks(b.cfg.Home)
	if err != nil {
		return &sandbox.Error{Kind: sandbox.IO, Message: "look at MSB_HOME", Err: err}
	}
	real, err := filepath.EvalSymlinks(m.Host)
	if err != nil {
		return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "mount " + m.Host, Err: err}
	}
	if within(home, real) || within(real, home) {
		return bad("mount a directory that has nothing to do with it", "the mount source %s and MSB_HOME (%s) are within each other", m.Host, b.cfg.Home)
	}
	return nil
}

// within reports whether path is dir or below it.
func within(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
