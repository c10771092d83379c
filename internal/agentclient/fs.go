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
