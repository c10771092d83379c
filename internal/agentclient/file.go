package agentclient

import (
	"context"
	"io"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

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
