package agent

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// tree is a directory into which an archive is extracted. Successive entries of one directory share its opening, because
// every system call delays the sandbox's start.
type tree struct {
	root *os.Root
	name string   // of dir, as the archive says it
	path string   // of dir below the root
	dir  *os.Root // the last entry's directory, or nil
}

// enter opens the directory of the next entry, and makes it if it is not there.
func (t *tree) enter(name string) error {
	if t.dir != nil && t.name == name {
		return nil
	}
	t.close()
	path, err := resolve(t.root, name)
	if err != nil {
		return err
	}
	dir, err := t.root.OpenRoot(path)
	if errors.Is(err, os.ErrNotExist) {
		if err := t.root.MkdirAll(path, 0o755); err != nil {
			return err
		}
		dir, err = t.root.OpenRoot(path)
	}
	if err != nil {
		return err
	}
	t.name, t.path, t.dir = name, path, dir
	return nil
}

func (t *tree) close() {
	if t.dir != nil {
		_ = t.dir.Close()
		t.dir = nil
	}
}

// extract makes one entry, in the place of whatever has its name. Its parents may be links; they lead to where they lead
// in the guest. The umask is 0.
func (t *tree) extract(h *tar.Header, content io.Reader) error {
	clean := filepath.Clean("/" + h.Name)
	if clean == "/" {
		return nil
	}
	if err := t.enter(filepath.Dir(clean)); err != nil {
		return err
	}
	name := filepath.Base(clean)
	switch op := agentproto.FilesOp(h.PAXRecords[agentproto.FilesOpRecord]); op {
	case "":
	case agentproto.FilesRemove:
		return t.remove(name)
	case agentproto.FilesAppend:
		return t.appendFile(h, name, content)
	case agentproto.FilesNew:
		if _, err := t.dir.Lstat(name); err == nil {
			return fmt.Errorf("patch failed: %s is there already", clean)
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	default:
		return fmt.Errorf("%s: operation %q is unknown", clean, op)
	}
	if h.Typeflag == tar.TypeDir {
		return t.makeDir(h, name)
	}
	err := t.create(h, name, content)
	if errors.Is(err, os.ErrExist) {
		if err := t.dir.Remove(name); err != nil {
			return err
		}
		err = t.create(h, name, content)
	}
	return err
}

// remove removes what has the name, with all below it.
func (t *tree) remove(name string) error {
	if _, err := t.dir.Lstat(name); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return t.dir.RemoveAll(name)
}

// appendFile adds to the end of a file, through a link if the name is one, or makes it.
func (t *tree) appendFile(h *tar.Header, name string, content io.Reader) error {
	path, err := resolve(t.root, filepath.Join("/", t.path, name))
	if err != nil {
		return err
	}
	f, err := t.root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NONBLOCK, entryMode(h).Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

func (t *tree) makeDir(h *tar.Header, name string) error {
	if err := t.dir.Mkdir(name, entryMode(h)); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if foreign(h) {
		if err := t.dir.Lchown(name, h.Uid, h.Gid); err != nil {
			return err
		}
	}
	return t.dir.Chmod(name, entryMode(h))
}

// create makes what is not a directory. It fails with os.ErrExist before it has read any of the content.
func (t *tree) create(h *tar.Header, name string, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeReg:
		return t.createFile(h, name, content)
	case tar.TypeSymlink:
		if err := t.dir.Symlink(h.Linkname, name); err != nil || !foreign(h) {
			return err
		}
		return t.dir.Lchown(name, h.Uid, h.Gid)
	case tar.TypeLink:
		old, err := resolve(t.root, h.Linkname)
		if err != nil {
			return err
		}
		return t.root.Link(old, filepath.Join(t.path, name))
	}
	return fmt.Errorf("%s: a file of type %q cannot be made", h.Name, h.Typeflag)
}

func (t *tree) createFile(h *tar.Header, name string, content io.Reader) error {
	mode := entryMode(h)
	f, err := t.dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode.Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err == nil && foreign(h) {
		err = f.Chown(h.Uid, h.Gid)
	}
	if err == nil && mode != mode.Perm() { // after chown, which clears them
		err = f.Chmod(mode)
	}
	if sec := h.ModTime.Unix(); err == nil && sec > 0 {
		err = setStatFile(f, &agentproto.FileAttrs{MTime: &sec})
	}
	return errors.Join(err, f.Close())
}

func entryMode(h *tar.Header) os.FileMode { return fileMode(uint32(h.Mode)) }

// foreign reports whether an entry has an owner that it does not get by itself and that the agent may give it.
func foreign(h *tar.Header) bool {
	self := ownIdentity()
	return self.uid == 0 && (h.Uid != 0 || h.Gid != int(self.gid))
}

// resolve follows the links in a path of the guest as the guest would, where "/" is its root, and returns the path below
// the root that it leads to. What does not exist is not a link. An os.Root by itself would refuse absolute links, such
// as the /var/run of many images.
func resolve(root *os.Root, path string) (string, error) {
	todo := strings.Split(path, "/")
	done := "."
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done = filepath.Dir(done)
			continue
		}
		next := filepath.Join(done, part)
		target, err := root.Readlink(next)
		if err != nil { // no link
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", &os.PathError{Op: "resolve", Path: path, Err: syscall.ELOOP}
		}
		if strings.HasPrefix(target, "/") {
			done = "."
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return done, nil
}

// maxLinks is how many symbolic links one path may go through, as in Linux.
const maxLinks = 40
