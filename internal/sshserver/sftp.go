package sshserver

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/pkg/sftp"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// files is the guest's file system for pkg/sftp.
type files struct {
	ctx    context.Context
	client *agentclient.Client
}

var (
	_ sftp.OpenFileWriter       = (*files)(nil)
	_ sftp.PosixRenameFileCmder = (*files)(nil)
	_ sftp.LstatFileLister      = (*files)(nil)
	_ sftp.RealPathFileLister   = (*files)(nil)
	_ sftp.ReadlinkFileLister   = (*files)(nil)
)

// start is the directory that relative paths are of: where commands start.
func (f *files) start(spec sandbox.Spec) string {
	if dir := spec.Runtime.Workdir; path.IsAbs(dir) {
		return dir
	}
	return "/"
}

// refused is an error in the words of SFTP.
func refused(err error) error {
	text := ""
	if err != nil {
		text = strings.ToLower(err.Error())
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sandbox.PathNotFound):
		return os.ErrNotExist
	case strings.Contains(text, "permission denied"), strings.Contains(text, "not permitted"):
		return os.ErrPermission
	}
	return err
}

// Fileread opens a file to be read.
func (f *files) Fileread(r *sftp.Request) (io.ReaderAt, error) { return f.open(r) }

// Filewrite opens a file to be written.
func (f *files) Filewrite(r *sftp.Request) (io.WriterAt, error) { return f.open(r) }

// OpenFile opens a file for both.
func (f *files) OpenFile(r *sftp.Request) (sftp.WriterAtReaderAt, error) { return f.open(r) }

func (f *files) open(r *sftp.Request) (*file, error) {
	p := r.Pflags()
	o := agentproto.OpenOptions{Read: p.Read, Write: p.Write || p.Append, Create: p.Creat, Truncate: p.Trunc, CreateNew: p.Creat && p.Excl}
	if r.Method == "Get" {
		o = agentproto.OpenOptions{Read: true}
	}
	if a := r.Attributes(); p.Creat && r.AttrFlags().Permissions && a != nil {
		mode := a.Mode & 0o7777
		o.Mode = &mode
	}
	opened, err := f.client.OpenFile(f.ctx, r.Filepath, o)
	if err != nil {
		return nil, refused(err)
	}
	return &file{ctx: f.ctx, f: opened, append: p.Append}, nil
}

// file is one that is open. Each read and write is a request of its own, several at a time.
type file struct {
	ctx    context.Context
	f      *agentclient.File
	append bool
}

func (f *file) ReadAt(p []byte, at int64) (int, error) {
	if at < 0 {
		return 0, fs.ErrInvalid
	}
	n := uint64(len(p))
	r, err := f.f.Reader(f.ctx, uint64(at), &n)
	if err != nil {
		return 0, refused(err)
	}
	defer r.Close()
	got, err := io.ReadFull(r, p)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = io.EOF
	case err == nil: // what ends the answer is waited for, too, so that it need not be called off
		if _, err = r.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			err = nil
		}
	}
	return got, refused(err)
}

func (f *file) WriteAt(p []byte, at int64) (int, error) {
	if at < 0 {
		return 0, fs.ErrInvalid
	}
	if f.append { // the client's offset is its guess
		info, err := f.f.Stat(f.ctx)
		if err != nil {
			return 0, refused(err)
		}
		at = int64(info.Size)
	}
	w, err := f.f.Writer(f.ctx, uint64(at))
	if err != nil {
		return 0, refused(err)
	}
	n, err := w.Write(p)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return 0, refused(err)
	}
	return n, nil
}

func (f *file) Close() error { return refused(f.f.Close(context.WithoutCancel(f.ctx))) }

// Filecmd does what changes names and attributes.
func (f *files) Filecmd(r *sftp.Request) error {
	switch r.Method {
	case "Setstat":
		return f.setstat(r)
	case "Rename": // which must not replace anything (draft-ietf-secsh-filexfer-02 §6.5)
		if _, err := f.client.Stat(f.ctx, r.Target, false); err == nil {
			return os.ErrExist
		}
		return refused(f.client.Rename(f.ctx, r.Filepath, r.Target))
	case "Rmdir":
		return refused(f.client.RemoveDir(f.ctx, r.Filepath, false))
	case "Mkdir":
		if _, err := f.client.Stat(f.ctx, r.Filepath, false); err == nil {
			return os.ErrExist
		}
		var mode *uint32
		if a := r.Attributes(); r.AttrFlags().Permissions && a != nil {
			m := a.Mode & 0o7777
			mode = &m
		}
		return refused(f.client.Mkdir(f.ctx, r.Filepath, mode))
	case "Symlink":
		return refused(f.client.Symlink(f.ctx, r.Filepath, r.Target))
	case "Remove":
		return refused(f.client.Remove(f.ctx, r.Filepath))
	}
	return sftp.ErrSSHFxOpUnsupported // hard links, which the agent does not make
}

// PosixRename replaces what has the name.
func (f *files) PosixRename(r *sftp.Request) error {
	return refused(f.client.Rename(f.ctx, r.Filepath, r.Target))
}

func (f *files) setstat(r *sftp.Request) error {
	a, flags := r.Attributes(), r.AttrFlags()
	if a == nil {
		return sftp.ErrSSHFxBadMessage
	}
	var set agentproto.FileAttrs
	if flags.Size {
		set.Size = &a.Size
	}
	if flags.UidGid {
		set.UID, set.GID = &a.UID, &a.GID
	}
	if flags.Permissions {
		mode := a.Mode & 0o7777
		set.Mode = &mode
	}
	if flags.Acmodtime {
		atime, mtime := int64(a.Atime), int64(a.Mtime)
		set.ATime, set.MTime = &atime, &mtime
	}
	return refused(f.client.SetStat(f.ctx, r.Filepath, true, set))
}

// Filelist lists a directory, or says what is known of one file.
func (f *files) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	switch r.Method {
	case "List":
		infos, err := f.client.List(f.ctx, r.Filepath)
		if err != nil {
			return nil, refused(err)
		}
		all := make(listing, 0, len(infos))
		for _, info := range infos {
			if base := path.Base(info.Path); base != "." && base != ".." && base != "/" { // a guest could say anything
				all = append(all, fileInfo{base, info})
			}
		}
		return all, nil
	case "Stat":
		return f.stat(r.Filepath, true)
	}
	return nil, sftp.ErrSSHFxOpUnsupported
}

// Lstat says what is known of a file itself.
func (f *files) Lstat(r *sftp.Request) (sftp.ListerAt, error) { return f.stat(r.Filepath, false) }

func (f *files) stat(name string, follow bool) (sftp.ListerAt, error) {
	info, err := f.client.Stat(f.ctx, name, follow)
	if err != nil {
		return nil, refused(err)
	}
	return listing{fileInfo{path.Base(name), info}}, nil
}

// RealPath resolves every link on the way.
func (f *files) RealPath(name string) (string, error) {
	real, err := f.client.RealPath(f.ctx, name)
	return cmp.Or(real, name), refused(err)
}

// Readlink returns what a symbolic link says.
func (f *files) Readlink(name string) (string, error) {
	target, err := f.client.ReadLink(f.ctx, name)
	return target, refused(err)
}

type listing []os.FileInfo

func (l listing) ListAt(to []os.FileInfo, at int64) (int, error) {
	if at < 0 || at >= int64(len(l)) {
		return 0, io.EOF
	}
	n := copy(to, l[at:])
	if n < len(to) {
		return n, io.EOF
	}
	return n, nil
}

// fileInfo is what the guest says of a file, which pkg/sftp asks for owners, too.
type fileInfo struct {
	name string
	info agentproto.FileInfo
}

func (i fileInfo) Name() string { return i.name }
func (i fileInfo) Size() int64  { return int64(i.info.Size) }
func (i fileInfo) IsDir() bool  { return i.Mode().IsDir() }
func (i fileInfo) Sys() any     { return nil }
func (i fileInfo) Uid() uint32  { return i.info.UID }
func (i fileInfo) Gid() uint32  { return i.info.GID }

func (i fileInfo) ModTime() time.Time {
	if i.info.Modified == nil {
		return time.Unix(0, 0)
	}
	return time.Unix(*i.info.Modified, 0)
}

func (i fileInfo) Mode() os.FileMode { return i.info.FileMode() }
