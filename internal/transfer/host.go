package transfer

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// chunk is how much of a file of this machine is read at once, in bytes.
const chunk = 256 << 10

// source finds what is to be copied: its directory, and what is known of it. Its name is "" for the root.
func (e End) source(ctx context.Context) (sourceDir, node, error) {
	if e.Guest != nil {
		return locateGuest(ctx, e.Guest, e.Path)
	}
	abs, err := filepath.Abs(e.Path)
	if err != nil {
		return nil, node{}, local(err)
	}
	if throughLink(e.Path) {
		if abs, err = filepath.EvalSymlinks(abs); err != nil {
			return nil, node{}, local(err)
		}
	}
	info, err := os.Lstat(abs)
	if err != nil {
		return nil, node{}, local(err)
	}
	if throughLink(e.Path) && !info.IsDir() {
		return nil, node{}, notDirectory(e.Path)
	}
	n := hostNode(info)
	if abs == "/" {
		n.name = ""
	}
	root, err := os.OpenRoot(filepath.Dir(abs))
	if err != nil {
		return nil, node{}, local(err)
	}
	return &hostSource{root, filepath.Dir(abs)}, n, nil
}

func hostNode(info fs.FileInfo) node {
	n := node{name: info.Name(), kind: agentproto.KindOther, mode: uint32(info.Mode().Perm()), size: info.Size()}
	switch {
	case info.Mode().IsRegular():
		n.kind = agentproto.KindFile
	case info.IsDir():
		n.kind = agentproto.KindDir
	case info.Mode()&fs.ModeSymlink != 0:
		n.kind = agentproto.KindSymlink
	}
	return n
}

// hostSource reads a directory of this machine.
type hostSource struct {
	root *os.Root
	path string
}

func (d *hostSource) where(name string) string { return filepath.Join(d.path, name) }
func (d *hostSource) close()                   { _ = d.root.Close() }

func (d *hostSource) each(_ context.Context, visit func(node) error) error {
	dir, err := d.root.Open(".")
	if err != nil {
		return local(err)
	}
	defer dir.Close()
	for {
		page, err := dir.Readdirnames(pageSize)
		for _, name := range page {
			info, err := d.root.Lstat(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // it went away meanwhile
			}
			if err != nil {
				return local(err)
			}
			if err := visit(hostNode(info)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return local(err)
		}
	}
}

func (d *hostSource) enter(_ context.Context, name string) (sourceDir, error) {
	if name == "" { // the root of all
		name = "."
	}
	root, err := d.root.OpenRoot(name)
	if err != nil {
		return nil, local(err)
	}
	return &hostSource{root, d.where(name)}, nil
}

func (d *hostSource) readlink(_ context.Context, name string) (string, error) {
	target, err := d.root.Readlink(name)
	return target, local(err)
}

func (d *hostSource) open(_ context.Context, name string) (content, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, local(err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = inTheWay(d.where(name))
	}
	if err != nil {
		f.Close()
		return nil, local(err)
	}
	return hostContent{f, hostNode(info)}, nil
}

// hostContent is an open file of this machine.
type hostContent struct {
	f *os.File
	n node
}

func (h hostContent) node() node { return h.n }
func (h hostContent) close()     { _ = h.f.Close() }

// whole reads a file whose size says that it is small. What is wrong with it shows again when it is read piece by piece, and so does
// what a file has that says it has nothing.
func (h hostContent) whole() ([]byte, bool) {
	if h.n.size > agentproto.MaxSmall {
		return nil, false
	}
	data := make([]byte, max(h.n.size, 1))
	n, err := h.f.ReadAt(data, 0)
	if err != nil && !errors.Is(err, io.EOF) || int64(n) > h.n.size {
		return nil, false
	}
	return data[:n], true
}

func (h hostContent) writeTo(w io.Writer) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(h.f, limitOf(h.n.size)), make([]byte, min(chunk, limitOf(h.n.size))))
	return local(err)
}

// sink finds where the copy goes: a directory, and the name in it, "" for the directory itself.
func (e End) sink(ctx context.Context, top node, inside bool) (sinkDir, string, error) {
	if e.Guest != nil {
		return placeGuest(ctx, e.Guest, e.Path, top, inside)
	}
	dir, name := e.Path, top.name
	info, err := os.Stat(e.Path)
	switch {
	case err == nil && info.IsDir() && inside:
		name = ""
	case err == nil && info.IsDir():
	case err == nil && (top.kind == agentproto.KindDir || throughLink(e.Path)):
		return nil, "", notDirectory(e.Path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, "", local(err)
	case err != nil && throughLink(e.Path) && top.kind != agentproto.KindDir:
		return nil, "", missing(e.Path, sandbox.IO)
	default:
		clean := filepath.Clean(e.Path)
		dir, name = filepath.Dir(clean), filepath.Base(clean)
	}
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", missing(dir, sandbox.IO)
	}
	if err != nil {
		return nil, "", local(err)
	}
	return &hostSink{root: root, path: dir}, name, nil
}

// hostSink writes a directory of this machine, and nothing outside of it.
type hostSink struct {
	root  *os.Root
	path  string
	mode  fs.FileMode // to be set by finish
	fresh bool
}

func (d *hostSink) where(name string) string { return filepath.Join(d.path, name) }
func (d *hostSink) close()                   { _ = d.root.Close() }

// takes refuses links that would lead out of what is copied: whoever writes to one later would write where a guest chose.
func (*hostSink) takes(target string, depth int) bool { return inside(target, depth) }

func (d *hostSink) enter(_ context.Context, name string, mode uint32) (sinkDir, error) {
	below := &hostSink{path: d.where(name), fresh: true}
	err := d.root.Mkdir(name, fs.FileMode(mode|0o700))
	if errors.Is(err, fs.ErrExist) {
		below.fresh, err = false, nil
	}
	if err != nil {
		return nil, local(err)
	}
	info, err := d.root.Lstat(name)
	if err != nil {
		return nil, local(err)
	}
	if !info.IsDir() {
		return nil, notDirectory(below.path)
	}
	below.mode = info.Mode().Perm() & fs.FileMode(mode) // less the umask
	below.root, err = d.root.OpenRoot(name)
	if err != nil {
		return nil, local(err)
	}
	if there, err := below.root.Stat("."); err != nil || !os.SameFile(there, info) { // a link has taken its place
		below.close()
		return nil, notDirectory(below.path)
	}
	return below, nil
}

func (d *hostSink) finish(context.Context) error {
	if !d.fresh {
		return nil
	}
	if info, err := d.root.Stat("."); err != nil || info.Mode().Perm() == d.mode {
		return local(err)
	}
	return local(d.root.Chmod(".", d.mode))
}

// replaceable refuses to put a file where there is a directory or a device.
func (d *hostSink) replaceable(name string) error {
	if d.fresh {
		return nil
	}
	info, err := d.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return local(err)
	case !info.Mode().IsRegular() && info.Mode()&fs.ModeSymlink == 0:
		return inTheWay(d.where(name))
	}
	return nil
}

func (d *hostSink) symlink(_ context.Context, target, name string) error {
	if err := d.replaceable(name); err != nil {
		return err
	}
	temp := tempName(name)
	if err := d.root.Symlink(target, temp); err != nil {
		return local(err)
	}
	if err := d.root.Rename(temp, name); err != nil {
		_ = d.root.Remove(temp)
		return local(err)
	}
	return nil
}

// put leaves it to create: here a rename costs nothing that counts.
func (*hostSink) put(context.Context, string, uint32, []byte) (bool, error) { return false, nil }

func (d *hostSink) create(_ context.Context, name string, mode uint32) (sinkFile, error) {
	if err := d.replaceable(name); err != nil {
		return nil, err
	}
	temp := tempName(name)
	f, err := d.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(mode)) // less the umask
	if err != nil {
		return nil, local(err)
	}
	return &hostFile{d, f, temp, name}, nil
}

// hostFile is a file of this machine that is being written, under another name.
type hostFile struct {
	d          *hostSink
	f          *os.File
	temp, name string
}

func (f *hostFile) Write(p []byte) (int, error) {
	n, err := f.f.Write(p)
	return n, local(err)
}

func (f *hostFile) commit(context.Context) error {
	if err := f.f.Close(); err != nil {
		return local(err)
	}
	return local(f.d.root.Rename(f.temp, f.name))
}

func (f *hostFile) abort() {
	_ = f.f.Close()
	_ = f.d.root.Remove(f.temp)
}
