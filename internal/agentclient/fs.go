package agentclient

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The guest's file system. Paths are the guest's and absolute. What the guest refuses is a sandbox.Filesystem error, or
// sandbox.PathNotFound, with the agent's words.

// FS does one operation that is a question and an answer; OpRead and OpWrite are streams and have methods of File.
func (c *Client) FS(ctx context.Context, op agentproto.FSOp) (*agentproto.FSResult, error) {
	s, err := c.Stream(agentproto.TypeFSRequest, &agentproto.FSRequest{Op: op}, 0)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	m, err := s.Recv(ctx)
	if err != nil {
		return nil, err
	}
	return fsResponse(m)
}

// fsResponse takes the answer to a request.
func fsResponse(m Message) (*agentproto.FSResult, error) {
	defer m.Release()
	var r agentproto.FSResponse
	if err := m.expect(agentproto.TypeFSResponse, &r); err != nil {
		return nil, err
	}
	if r.OK {
		return r.Data, nil
	}
	kind := sandbox.Filesystem
	if strings.Contains(strings.ToLower(r.Error), "no such file or directory") {
		kind = sandbox.PathNotFound
	}
	return nil, &sandbox.Error{Kind: kind, Message: r.Error}
}

// do does an operation and returns its result, which is not nil.
func (c *Client) do(ctx context.Context, op string, args agentproto.FSArgs) (*agentproto.FSResult, error) {
	r, err := c.FS(ctx, agentproto.FSOp{Op: op, FSArgs: args})
	if r == nil {
		r = &agentproto.FSResult{}
	}
	return r, err
}

// need is what an answer is missing.
func need[T any](v *T, err error) (T, error) {
	var zero T
	if err != nil {
		return zero, err
	}
	if v == nil {
		return zero, &sandbox.Error{Kind: sandbox.Protocol, Message: fmt.Sprintf("the answer has no %T", zero)}
	}
	return *v, nil
}

// Stat returns what is known of a file; follow looks through a symbolic link.
func (c *Client) Stat(ctx context.Context, path string, follow bool) (agentproto.FileInfo, error) {
	r, err := c.do(ctx, agentproto.OpStat, agentproto.FSArgs{Path: path, FollowSymlink: follow})
	return need(r.Stat, err)
}

// SetStat changes attributes.
func (c *Client) SetStat(ctx context.Context, path string, follow bool, attrs agentproto.FileAttrs) error {
	_, err := c.do(ctx, agentproto.OpSetStat, agentproto.FSArgs{Path: path, FollowSymlink: follow, Attrs: attrs})
	return err
}

// List returns a directory's entries with their whole paths, in no order.
func (c *Client) List(ctx context.Context, path string) ([]agentproto.FileInfo, error) {
	r, err := c.do(ctx, agentproto.OpList, agentproto.FSArgs{Path: path})
	return r.List, err
}

// RealPath resolves every link on the way; the last component need not exist.
func (c *Client) RealPath(ctx context.Context, path string) (string, error) {
	r, err := c.do(ctx, agentproto.OpRealPath, agentproto.FSArgs{Path: path})
	return need(r.Path, err)
}

// ReadLink returns what a symbolic link says.
func (c *Client) ReadLink(ctx context.Context, path string) (string, error) {
	r, err := c.do(ctx, agentproto.OpReadLink, agentproto.FSArgs{Path: path})
	return need(r.Path, err)
}

// Symlink makes a symbolic link that says target.
func (c *Client) Symlink(ctx context.Context, target, link string) error {
	_, err := c.do(ctx, agentproto.OpSymlink, agentproto.FSArgs{Target: target, LinkPath: link})
	return err
}

// Mkdir makes a directory and those above it; one that exists is fine. A nil mode is 0o755.
func (c *Client) Mkdir(ctx context.Context, path string, mode *uint32) error {
	_, err := c.do(ctx, agentproto.OpMkdir, agentproto.FSArgs{Path: path, Mode: mode})
	return err
}

// Remove removes what is not a directory.
func (c *Client) Remove(ctx context.Context, path string) error {
	_, err := c.do(ctx, agentproto.OpRemove, agentproto.FSArgs{Path: path})
	return err
}

// RemoveDir removes a directory, with all that is in it if recursive.
func (c *Client) RemoveDir(ctx context.Context, path string, recursive bool) error {
	_, err := c.do(ctx, agentproto.OpRemoveDir, agentproto.FSArgs{Path: path, Recursive: recursive})
	return err
}

// Copy copies a file within the guest.
func (c *Client) Copy(ctx context.Context, src, dst string) error {
	_, err := c.do(ctx, agentproto.OpCopy, agentproto.FSArgs{Src: src, Dst: dst})
	return err
}

// Rename moves a file within the guest.
func (c *Client) Rename(ctx context.Context, src, dst string) error {
	_, err := c.do(ctx, agentproto.OpRename, agentproto.FSArgs{Src: src, Dst: dst})
	return err
}

// File is an open file or directory in the guest. It is closed when the connection ends, too.
type File struct {
	c      *Client
	handle uint64
}

// OpenFile opens a file.
func (c *Client) OpenFile(ctx context.Context, path string, options agentproto.OpenOptions) (*File, error) {
	r, err := c.do(ctx, agentproto.OpOpenFile, agentproto.FSArgs{Path: path, Options: options})
	n, err := need(r.Handle, err)
	if err != nil {
		return nil, err
	}
	return &File{c, n}, nil
}

// OpenDir opens a directory for ReadDir.
func (c *Client) OpenDir(ctx context.Context, path string) (*File, error) {
	r, err := c.do(ctx, agentproto.OpOpenDir, agentproto.FSArgs{Path: path})
	n, err := need(r.Handle, err)
	if err != nil {
		return nil, err
	}
	return &File{c, n}, nil
}

// ReadDir returns up to limit entries that it has not returned before; none are left when it returns none.
func (f *File) ReadDir(ctx context.Context, limit uint32) ([]agentproto.FileInfo, error) {
	r, err := f.c.do(ctx, agentproto.OpReadDir, agentproto.FSArgs{Handle: f.handle, Limit: limit})
	return r.List, err
}

// Stat returns what is known of the file.
func (f *File) Stat(ctx context.Context) (agentproto.FileInfo, error) {
	r, err := f.c.do(ctx, agentproto.OpFStat, agentproto.FSArgs{Handle: f.handle})
	return need(r.Stat, err)
}

// SetStat changes attributes.
func (f *File) SetStat(ctx context.Context, attrs agentproto.FileAttrs) error {
	_, err := f.c.do(ctx, agentproto.OpFSetStat, agentproto.FSArgs{Handle: f.handle, Attrs: attrs})
	return err
}

// Close closes the file.
func (f *File) Close(ctx context.Context) error {
	_, err := f.c.do(ctx, agentproto.OpCloseHandle, agentproto.FSArgs{Handle: f.handle})
	return err
}

// Reader reads from an offset: length bytes, or to the end if length is nil. It is to be closed; the file stays open.
func (f *File) Reader(ctx context.Context, offset uint64, length *uint64) (io.ReadCloser, error) {
	r, err := f.reader(ctx, offset, length)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (f *File) reader(ctx context.Context, offset uint64, length *uint64) (*fileReader, error) {
	op := agentproto.FSOp{Op: agentproto.OpRead, FSArgs: agentproto.FSArgs{Handle: f.handle, Offset: offset, Len: length}}
	s, err := f.c.Stream(agentproto.TypeFSRequest, &agentproto.FSRequest{Op: op, Window: f.c.offered()}, f.c.offered())
	if err != nil {
		return nil, err
	}
	return &fileReader{ctx: ctx, s: s}, nil
}

// fileReader is one OpRead.
type fileReader struct {
	ctx  context.Context
	s    *Stream
	m    Message
	data []byte // of m, not yet read
	err  error
	file *File // to be closed with the reader, or nil
}

func (r *fileReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.data) == 0 {
		if r.err == nil {
			r.err = r.next()
		}
		if r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.data)
	r.data = r.data[n:]
	return n, nil
}

// WriteTo spares io.Copy a copy of its own.
func (r *fileReader) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if len(r.data) > 0 {
			n, err := w.Write(r.data)
			total += int64(n)
			r.data = r.data[n:]
			if err != nil {
				return total, err
			}
		}
		if r.err == nil {
			r.err = r.next()
		}
		if r.err == io.EOF {
			return total, nil
		}
		if r.err != nil {
			return total, r.err
		}
	}
}

func (r *fileReader) next() error {
	r.m.Release()
	m, err := r.s.Recv(r.ctx)
	if err != nil {
		return err
	}
	if m.Type != agentproto.TypeFSData {
		if _, err := fsResponse(m); err != nil {
			return err
		}
		return io.EOF
	}
	r.m = m
	if r.data, err = agentproto.DecodeData(m.Payload); err != nil {
		return &sandbox.Error{Kind: sandbox.Protocol, Err: err}
	}
	return nil
}

// Close ends the reading.
func (r *fileReader) Close() error {
	if r.err == nil {
		r.err = io.ErrClosedPipe
	}
	r.data = nil
	r.m.Release()
	r.s.Close()
	if r.file == nil {
		return nil
	}
	return r.file.Close(context.WithoutCancel(r.ctx))
}

// Writer writes from an offset. Its Close says whether everything arrived; the file stays open.
func (f *File) Writer(ctx context.Context, offset uint64) (io.WriteCloser, error) {
	w, err := f.writer(ctx, offset)
	if err != nil {
		return nil, err
	}
	return w, nil
}

func (f *File) writer(ctx context.Context, offset uint64) (*fileWriter, error) {
	op := agentproto.FSOp{Op: agentproto.OpWrite, FSArgs: agentproto.FSArgs{Handle: f.handle, Offset: offset}}
	s, err := f.c.Stream(agentproto.TypeFSRequest, &agentproto.FSRequest{Op: op, Window: f.c.offered()}, f.c.offered())
	if err != nil {
		return nil, err
	}
	return &fileWriter{ctx: ctx, s: s}, nil
}

// fileWriter is one OpWrite.
type fileWriter struct {
	ctx  context.Context
	s    *Stream
	file *File // to be closed with the writer, or nil
	over bool
}

func (w *fileWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := w.s.SendData(w.ctx, agentproto.TypeFSData, p); err != nil {
		if err == errEnded { // the agent gave up, and said why
			err = w.response()
		}
		return 0, err
	}
	return len(p), nil
}

// response receives the agent's answer. There is none but a refusal before the end of the data.
func (w *fileWriter) response() error {
	w.over = true
	m, err := w.s.Recv(w.ctx)
	if err == nil {
		_, err = fsResponse(m)
	}
	if err == nil || err == io.EOF {
		err = errEnded
	}
	return err
}

// Close says that this was all, and waits for the agent to have written it.
func (w *fileWriter) Close() error {
	var err error
	if !w.over {
		w.over = true
		if err = w.s.SendData(w.ctx, agentproto.TypeFSData, nil); err == nil || err == errEnded {
			var m Message
			if m, err = w.s.Recv(w.ctx); err == nil {
				_, err = fsResponse(m)
			}
		}
	}
	w.s.Close()
	if w.file != nil {
		if cerr := w.file.Close(context.WithoutCancel(w.ctx)); err == nil {
			err = cerr
		}
		w.file = nil
	}
	return err
}

// OpenRead opens a file and reads it from its start; closing the reader closes the file.
func (c *Client) OpenRead(ctx context.Context, path string) (io.ReadCloser, error) {
	f, err := c.OpenFile(ctx, path, agentproto.OpenOptions{Read: true})
	if err != nil {
		return nil, err
	}
	r, err := f.reader(ctx, 0, nil)
	if err != nil {
		return nil, err
	}
	r.file = f
	return r, nil
}

// OpenWrite opens a file, empty or new, and writes it from its start. Closing the writer closes the file and says
// whether everything arrived. A nil mode is 0o666 less the umask.
func (c *Client) OpenWrite(ctx context.Context, path string, mode *uint32) (io.WriteCloser, error) {
	f, err := c.OpenFile(ctx, path, agentproto.OpenOptions{Write: true, Create: true, Truncate: true, Mode: mode})
	if err != nil {
		return nil, err
	}
	w, err := f.writer(ctx, 0)
	if err != nil {
		return nil, err
	}
	w.file = f
	return w, nil
}

// ReadFile copies a file of the guest to w.
func (c *Client) ReadFile(ctx context.Context, path string, w io.Writer) (int64, error) {
	r, err := c.OpenRead(ctx, path)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(w, r)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	return n, err
}

// WriteFile makes a file of the guest hold what r has.
func (c *Client) WriteFile(ctx context.Context, path string, r io.Reader, mode *uint32) (int64, error) {
	w, err := c.OpenWrite(ctx, path, mode)
	if err != nil {
		return 0, err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, maxChunk))
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	return n, err
}
