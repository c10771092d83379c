package microsandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/transfer"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// FsEntry is a name in a directory. Path is the whole path.
type FsEntry struct {
	Path string
	Kind FsEntryKind
	Size int64
	Mode uint32 // st_mode
}

// FsStat is what is known of a file.
type FsStat struct {
	Path    string
	Size    int64
	Mode    uint32 // st_mode
	ModTime time.Time
	IsDir   bool
}

// SandboxFSOps is the file system of a sandbox. Paths are the guest's and absolute. What the guest refuses is ErrFilesystem;
// of that, what is not there matches fs.ErrNotExist, too. [SandboxFSOps.IO] is the same as an fs.FS.
type SandboxFSOps struct{ s *Sandbox }

// FS is the sandbox's file system.
func (s *Sandbox) FS() *SandboxFSOps { return &SandboxFSOps{s} }

// with calls do with the connection, and wraps errors.
func (f *SandboxFSOps) with(ctx context.Context, do func(*agentclient.Client) error) error {
	client, err := f.s.client(ctx)
	if err == nil {
		err = do(client)
	}
	return wrap(err)
}

// maxRead bounds what Read returns, in bytes.
const maxRead = 1 << 30

// Read returns a file, of at most 1 GiB: more is ErrBufferTooSmall, and for ReadStream.
func (f *SandboxFSOps) Read(ctx context.Context, path string) ([]byte, error) {
	var b bytes.Buffer
	err := f.with(ctx, func(c *agentclient.Client) error {
		r, err := c.OpenRead(ctx, path)
		if err != nil {
			return err
		}
		n, err := io.Copy(&b, io.LimitReader(r, maxRead+1))
		if cerr := r.Close(); err == nil && n <= maxRead {
			err = cerr
		}
		if n > maxRead {
			return fail(ErrBufferTooSmall, fmt.Sprintf("%s is larger than %d MiB: read it with ReadStream", path, maxRead>>20))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// ReadString returns a file, as Read does.
func (f *SandboxFSOps) ReadString(ctx context.Context, path string) (string, error) {
	b, err := f.Read(ctx, path)
	return string(b), err
}

// Write makes a file hold data. A new one has the mode 0666 less the guest's umask.
func (f *SandboxFSOps) Write(ctx context.Context, path string, data []byte) error {
	return f.with(ctx, func(c *agentclient.Client) error {
		_, err := c.WriteFile(ctx, path, bytes.NewReader(data), nil)
		return err
	})
}

// WriteString makes a file hold content, as Write does.
func (f *SandboxFSOps) WriteString(ctx context.Context, path string, content string) error {
	return f.Write(ctx, path, []byte(content))
}

// List returns what is in a directory, in no order.
func (f *SandboxFSOps) List(ctx context.Context, path string) (entries []FsEntry, err error) {
	err = f.with(ctx, func(c *agentclient.Client) error {
		infos, err := c.List(ctx, path)
		entries = make([]FsEntry, len(infos))
		for i, info := range infos {
			entries[i] = FsEntry{Path: info.Path, Kind: kindOfFile(info), Size: int64(info.Size), Mode: info.Mode}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

func kindOfFile(info agentproto.FileInfo) FsEntryKind {
	if info.Kind == agentproto.KindDir {
		return FsEntryKindDirectory
	}
	return FsEntryKind(info.Kind)
}

// Stat returns what is known of a file, of a symbolic link what is known of where it leads.
func (f *SandboxFSOps) Stat(ctx context.Context, path string) (stat *FsStat, err error) {
	err = f.with(ctx, func(c *agentclient.Client) error {
		info, err := c.Stat(ctx, path, true)
		if err != nil {
			return err
		}
		stat = &FsStat{Path: info.Path, Size: int64(info.Size), Mode: info.Mode, ModTime: modTime(info), IsDir: info.Kind == agentproto.KindDir}
		return nil
	})
	return stat, err
}

// Mkdir makes a directory and those above it; one that is there is fine.
func (f *SandboxFSOps) Mkdir(ctx context.Context, path string) error {
	return f.with(ctx, func(c *agentclient.Client) error { return c.Mkdir(ctx, path, nil) })
}

// Remove removes what is not a directory.
func (f *SandboxFSOps) Remove(ctx context.Context, path string) error {
	return f.with(ctx, func(c *agentclient.Client) error { return c.Remove(ctx, path) })
}

// RemoveDir removes a directory with all that is in it.
func (f *SandboxFSOps) RemoveDir(ctx context.Context, path string) error {
	return f.with(ctx, func(c *agentclient.Client) error { return c.RemoveDir(ctx, path, true) })
}

// Copy copies a file within the guest.
func (f *SandboxFSOps) Copy(ctx context.Context, src, dst string) error {
	return f.with(ctx, func(c *agentclient.Client) error { return c.Copy(ctx, src, dst) })
}

// Rename moves a file within the guest.
func (f *SandboxFSOps) Rename(ctx context.Context, src, dst string) error {
	return f.with(ctx, func(c *agentclient.Client) error { return c.Rename(ctx, src, dst) })
}

// Exists reports whether something is there.
func (f *SandboxFSOps) Exists(ctx context.Context, path string) (bool, error) {
	err := f.with(ctx, func(c *agentclient.Client) error {
		_, err := c.Stat(ctx, path, true)
		return err
	})
	if IsKind(err, ErrPathNotFound) {
		return false, nil
	}
	return err == nil, err
}

// CopyFromHost copies a file or a directory of this machine into the guest, with all that is in it. Symbolic links are made
// again, not followed.
func (f *SandboxFSOps) CopyFromHost(ctx context.Context, hostPath, guestPath string) error {
	return f.with(ctx, func(c *agentclient.Client) error {
		copier := transfer.Copier{}
		return copier.Copy(ctx, transfer.End{Path: hostPath}, transfer.End{Guest: c, Path: guestPath})
	})
}

// CopyToHost copies a file or a directory of the guest to this machine. Nothing that the guest names leads out of hostPath.
func (f *SandboxFSOps) CopyToHost(ctx context.Context, guestPath, hostPath string) error {
	return f.with(ctx, func(c *agentclient.Client) error {
		copier := transfer.Copier{}
		return copier.Copy(ctx, transfer.End{Guest: c, Path: guestPath}, transfer.End{Path: hostPath})
	})
}

// ReadStream reads a file piece by piece; at most 1 MiB of it is under way. ctx bounds only the call.
func (f *SandboxFSOps) ReadStream(ctx context.Context, path string) (*FsReadStream, error) {
	client, err := f.s.client(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	life, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	r, err := client.OpenRead(life, path)
	if !stop() && err == nil {
		_ = r.Close()
		err = ctx.Err()
	}
	if err != nil {
		cancel(nil)
		return nil, wrap(err)
	}
	return &FsReadStream{r: r, cancel: cancel}, nil
}

// FsReadStream is a file of the guest that is being read. One goroutine reads. Close gives it back.
type FsReadStream struct {
	r      io.ReadCloser
	cancel context.CancelCauseFunc
	buf    []byte
	once   sync.Once
}

// maxPiece is the most that Recv returns, in bytes.
const maxPiece = 1 << 20

// during lets the end of ctx end a read, and with it the stream.
func (s *FsReadStream) during(ctx context.Context, read func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { s.cancel(context.Cause(ctx)) })
	defer stop()
	return read()
}

// Recv returns the next piece, which is valid until the next call, and nil after the last. When ctx ends first, so does the
// stream.
func (s *FsReadStream) Recv(ctx context.Context) (piece []byte, err error) {
	if s.buf == nil {
		s.buf = make([]byte, maxPiece)
	}
	err = s.during(ctx, func() error {
		n, err := s.r.Read(s.buf)
		piece = s.buf[:n]
		return err
	})
	switch {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, wrap(err)
	}
	return piece, nil
}

// Read is for io.Reader.
func (s *FsReadStream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		err = wrap(err)
	}
	return n, err
}

// WriteTo writes what is left to w. It does not close the stream.
func (s *FsReadStream) WriteTo(w io.Writer) (int64, error) { return s.CopyTo(context.Background(), w) }

// CopyTo is WriteTo until ctx ends, and the stream with it.
func (s *FsReadStream) CopyTo(ctx context.Context, w io.Writer) (n int64, err error) {
	err = s.during(ctx, func() (err error) {
		n, err = io.Copy(w, s.r)
		return err
	})
	return n, wrap(err)
}

// Close gives the stream back. It may be called twice.
func (s *FsReadStream) Close() (err error) {
	s.once.Do(func() {
		err = s.r.Close()
		s.cancel(nil)
	})
	return wrap(err)
}

// WriteStream makes a file hold what is written to the stream; at most 1 MiB of it is under way. ctx bounds only the call.
func (f *SandboxFSOps) WriteStream(ctx context.Context, path string) (*FsWriteStream, error) {
	client, err := f.s.client(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	life, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	w, err := client.OpenWrite(life, path, nil)
	if !stop() && err == nil {
		_ = w.Close()
		err = ctx.Err()
	}
	if err != nil {
		cancel(nil)
		return nil, wrap(err)
	}
	return &FsWriteStream{w: w, cancel: cancel}, nil
}

// FsWriteStream is a file of the guest that is being written. One goroutine writes. Close says whether all of it is there.
type FsWriteStream struct {
	w      io.WriteCloser
	cancel context.CancelCauseFunc
	closed bool
}

// Write sends data. It waits while the guest does not take it.
func (s *FsWriteStream) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	return n, wrap(err)
}

// WriteCtx is Write until ctx ends, and the stream with it.
func (s *FsWriteStream) WriteCtx(ctx context.Context, data []byte) error {
	return s.during(ctx, func() error {
		_, err := s.w.Write(data)
		return err
	})
}

func (s *FsWriteStream) during(ctx context.Context, write func() error) error {
	if err := ctx.Err(); err != nil {
		return wrap(err)
	}
	stop := context.AfterFunc(ctx, func() { s.cancel(context.Cause(ctx)) })
	defer stop()
	return wrap(write())
}

// Close says that this was all, and waits for the guest to have written it. Kind: ErrInvalidHandle, at the second call.
func (s *FsWriteStream) Close(ctx context.Context) error {
	if s.closed {
		return fail(ErrInvalidHandle, "the stream was closed")
	}
	s.closed = true
	defer s.cancel(nil)
	return s.during(ctx, s.w.Close)
}

// modTime is when a file was last changed; zero if the guest does not say.
func modTime(info agentproto.FileInfo) time.Time {
	if info.Modified == nil {
		return time.Time{}
	}
	return time.Unix(int64(*info.Modified), 0)
}

var errNotAbsolute = &sandbox.Error{Op: "open", Kind: sandbox.InvalidArgument, Message: "the root of a file system is an absolute path"}
