package microsandbox

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// IO is a directory of the sandbox as an fs.FS for the packages of Go that read one: names are relative to root, and slashed.
// It also is an fs.ReadDirFS, fs.StatFS, fs.ReadFileFS and fs.SubFS. Symbolic links are followed by the guest, wherever they
// lead. ctx bounds everything that is done with it.
func (f *SandboxFSOps) IO(ctx context.Context, root string) fs.FS {
	return ioFS{f, ctx, path.Clean(root)}
}

type ioFS struct {
	f    *SandboxFSOps
	ctx  context.Context
	root string
}

var (
	_ fs.ReadDirFS  = ioFS{}
	_ fs.StatFS     = ioFS{}
	_ fs.ReadFileFS = ioFS{}
	_ fs.SubFS      = ioFS{}
)

// at is the guest's path of a name.
func (s ioFS) at(op, name string) (string, error) {
	switch {
	case !fs.ValidPath(name):
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	case !path.IsAbs(s.root):
		return "", &fs.PathError{Op: op, Path: name, Err: errNotAbsolute}
	}
	return path.Join(s.root, name), nil
}

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: wrap(err)}
}

// Open opens a file or a directory.
func (s ioFS) Open(name string) (fs.File, error) {
	info, err := s.stat("open", name)
	if err != nil {
		return nil, err
	}
	f := &ioFile{s: s, name: name, info: info}
	if info.IsDir() {
		return &ioDir{ioFile: f}, nil
	}
	at, _ := s.at("open", name)
	if f.r, err = s.f.ReadStream(s.ctx, at); err != nil {
		return nil, pathError("open", name, err)
	}
	return f, nil
}

// Stat returns what is known of a file.
func (s ioFS) Stat(name string) (fs.FileInfo, error) { return s.stat("stat", name) }

func (s ioFS) stat(op, name string) (fs.FileInfo, error) {
	at, err := s.at(op, name)
	if err != nil {
		return nil, err
	}
	client, err := s.f.s.client(s.ctx)
	if err != nil {
		return nil, pathError(op, name, err)
	}
	info, err := client.Stat(s.ctx, at, true)
	if err != nil {
		return nil, pathError(op, name, err)
	}
	return fileInfo{path.Base(name), info}, nil
}

// ReadFile returns a file, as SandboxFSOps.Read does.
func (s ioFS) ReadFile(name string) ([]byte, error) {
	at, err := s.at("read", name)
	if err != nil {
		return nil, err
	}
	b, err := s.f.Read(s.ctx, at)
	if err != nil {
		return nil, pathError("read", name, err)
	}
	return b, nil
}

// ReadDir returns what is in a directory, by name.
func (s ioFS) ReadDir(name string) ([]fs.DirEntry, error) {
	at, err := s.at("readdir", name)
	if err != nil {
		return nil, err
	}
	client, err := s.f.s.client(s.ctx)
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	infos, err := client.List(s.ctx, at)
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	entries := make([]fs.DirEntry, 0, len(infos))
	for _, info := range infos {
		base := path.Base(info.Path)
		if base == "." || base == ".." || base == "/" { // a guest could say anything
			continue
		}
		entries = append(entries, fs.FileInfoToDirEntry(fileInfo{base, info}))
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// Sub is a directory below.
func (s ioFS) Sub(dir string) (fs.FS, error) {
	at, err := s.at("sub", dir)
	if err != nil {
		return nil, err
	}
	s.root = at
	return s, nil
}

type fileInfo struct {
	name string
	info agentproto.FileInfo
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return int64(i.info.Size) }
func (i fileInfo) Mode() fs.FileMode  { return i.info.FileMode() }
func (i fileInfo) ModTime() time.Time { return modTime(i.info) }
func (i fileInfo) IsDir() bool        { return i.Mode().IsDir() }
func (i fileInfo) Sys() any           { return nil }

type ioFile struct {
	s      ioFS
	name   string
	info   fs.FileInfo
	r      *FsReadStream // nil of a directory
	closed bool
}

func (f *ioFile) Stat() (fs.FileInfo, error) {
	if f.closed {
		return nil, &fs.PathError{Op: "stat", Path: f.name, Err: fs.ErrClosed}
	}
	return f.info, nil
}

func (f *ioFile) Read(p []byte) (int, error) {
	switch {
	case f.closed:
		return 0, &fs.PathError{Op: "read", Path: f.name, Err: fs.ErrClosed}
	case f.r == nil:
		return 0, &fs.PathError{Op: "read", Path: f.name, Err: errors.New("is a directory")}
	}
	n, err := f.r.Read(p)
	if err != nil && err != io.EOF {
		err = pathError("read", f.name, err)
	}
	return n, err
}

func (f *ioFile) Close() error {
	if f.closed {
		return &fs.PathError{Op: "close", Path: f.name, Err: fs.ErrClosed}
	}
	f.closed = true
	if f.r == nil {
		return nil
	}
	return f.r.Close()
}

// ioDir is a directory that is being read.
type ioDir struct {
	*ioFile
	entries []fs.DirEntry // that are left
	read    bool
}

var _ fs.ReadDirFile = (*ioDir)(nil)

func (d *ioDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if d.closed {
		return nil, &fs.PathError{Op: "readdir", Path: d.name, Err: fs.ErrClosed}
	}
	if !d.read {
		var err error
		if d.entries, err = d.s.ReadDir(d.name); err != nil {
			return nil, err
		}
		d.read = true
	}
	if n <= 0 {
		n = len(d.entries)
	} else if len(d.entries) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.entries))
	out := d.entries[:n:n]
	d.entries = d.entries[n:]
	return out, nil
}
