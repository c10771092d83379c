package transfer

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// pageSize is how many entries of a directory are asked for at once.
const pageSize = 256

// tidyTime is how long the removal of a half file may take when the copy was broken off.
const tidyTime = 2 * time.Second

// guestSource reads a directory of a guest.
type guestSource struct {
	c    *agentclient.Client
	path string
}

func (d guestSource) where(name string) string { return path.Join(d.path, name) }
func (guestSource) close()                     {}

// locateGuest finds the source in a guest.
func locateGuest(ctx context.Context, c *agentclient.Client, p string) (sourceDir, node, error) {
	if !path.IsAbs(p) {
		return nil, node{}, &sandbox.Error{Op: "copy", Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("the guest's path %q is not absolute", p)}
	}
	if err := validUTF8(p); err != nil {
		return nil, node{}, err
	}
	info, err := c.Stat(ctx, p, throughLink(p))
	if err != nil {
		return nil, node{}, explain(p, err)
	}
	n := nodeOf(info)
	clean := path.Clean(p)
	if clean != "/" {
		n.name = path.Base(clean)
	}
	return guestSource{c, path.Dir(clean)}, n, nil
}

func nodeOf(info agentproto.FileInfo) node {
	return node{kind: info.Kind, mode: info.Mode & 0o777, size: int64(min(info.Size, 1<<62))}
}

// each reads the directory in pages, so that a large one takes no more memory than a small one.
func (d guestSource) each(ctx context.Context, visit func(node) error) error {
	h, err := d.c.OpenDir(ctx, d.path)
	if err != nil {
		return explain(d.path, err)
	}
	defer closeFile(ctx, h)
	for {
		page, err := h.ReadDir(ctx, pageSize)
		if err != nil {
			return explain(d.path, err)
		}
		if len(page) == 0 {
			return nil
		}
		if len(page) > pageSize {
			return d.broken("it has %d entries where %d were asked for", len(page), pageSize)
		}
		for _, info := range page {
			n := nodeOf(info)
			if n.name, err = nameIn(d.path, info.Path); err != nil {
				return d.broken("%v", err)
			}
			if err := visit(n); err != nil {
				return err
			}
		}
	}
}

// nameIn is the name in dir of what a guest says is at path: one component, whatever the guest says.
func nameIn(dir, path string) (string, error) {
	name, ok := strings.CutPrefix(path, strings.TrimSuffix(dir, "/")+"/")
	if !ok {
		return "", fmt.Errorf("%.300q is not below it", path)
	}
	return name, checkName(name)
}

// broken is the error of a listing that no file system makes.
func (d guestSource) broken(format string, args ...any) error {
	return &sandbox.Error{Op: "copy", Kind: sandbox.Protocol, Message: "the guest's list of " + d.path + " is not to be trusted: " + fmt.Sprintf(format, args...)}
}

func (d guestSource) enter(_ context.Context, name string) (sourceDir, error) {
	return guestSource{d.c, d.where(name)}, nil
}

func (d guestSource) readlink(ctx context.Context, name string) (string, error) {
	target, err := d.c.ReadLink(ctx, d.where(name))
	return target, explain(d.where(name), err)
}

func (d guestSource) open(ctx context.Context, name string) (content, error) {
	p := d.where(name)
	if d.c.HasSmall() {
		info, data, f, err := d.c.GetFile(ctx, p)
		if err != nil {
			return nil, explain(p, err)
		}
		g := &guestContent{ctx: ctx, f: f, path: p, n: nodeOf(info), data: data}
		if info.Kind != agentproto.KindFile {
			g.close()
			return nil, explain(p, &sandbox.Error{Kind: sandbox.Filesystem, Message: "it is no file any more"})
		}
		if int64(len(data)) > limitOf(g.n.size) {
			return nil, tooLong(p, g.n.size)
		}
		return g, nil
	}
	f, err := d.c.OpenFile(ctx, p, agentproto.OpenOptions{Read: true})
	if err != nil {
		return nil, explain(p, err)
	}
	info, err := f.Stat(ctx)
	if err == nil && info.Kind != agentproto.KindFile {
		err = &sandbox.Error{Kind: sandbox.Filesystem, Message: "it is no file any more"}
	}
	if err != nil {
		closeFile(ctx, f)
		return nil, explain(p, err)
	}
	return &guestContent{ctx: ctx, f: f, path: p, n: nodeOf(info)}, nil
}

// guestContent is a file of a guest: an open one, or all that it has.
type guestContent struct {
	ctx  context.Context
	f    *agentclient.File // nil if it came whole
	path string
	n    node
	data []byte
}

func (g *guestContent) node() node            { return g.n }
func (g *guestContent) whole() ([]byte, bool) { return g.data, g.f == nil }

func (g *guestContent) close() {
	if g.f != nil {
		closeFile(g.ctx, g.f)
	}
}

func (g *guestContent) writeTo(w io.Writer) error {
	if g.f == nil {
		_, err := w.Write(g.data)
		return err
	}
	var length *uint64
	if g.n.size > 0 {
		n := uint64(g.n.size)
		length = &n
	}
	r, err := g.f.Reader(g.ctx, 0, length)
	if err != nil {
		return explain(g.path, err)
	}
	defer r.Close()
	_, err = io.Copy(w, r) // by the reader's WriteTo: frame by frame
	return explain(g.path, err)
}

// closeFile closes a file of the guest, whatever became of ctx.
func closeFile(ctx context.Context, f *agentclient.File) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTime)
	defer cancel()
	_ = f.Close(ctx)
}

// guestSink writes a directory of a guest.
type guestSink struct {
	c     *agentclient.Client
	path  string
	mode  uint32 // to be set by finish
	fresh bool   // made by this copy: nothing is in it
}

func (*guestSink) close() {}

// placeGuest finds where the copy goes in a guest: a directory, and the name in it, "" for the directory itself.
func placeGuest(ctx context.Context, c *agentclient.Client, p string, top node, inside bool) (sinkDir, string, error) {
	if !path.IsAbs(p) {
		return nil, "", &sandbox.Error{Op: "copy", Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("the guest's path %q is not absolute", p)}
	}
	if err := validUTF8(p); err != nil {
		return nil, "", err
	}
	clean := path.Clean(p)
	info, err := c.Stat(ctx, p, true)
	switch kind := sandbox.KindOf(err); {
	case err == nil && info.Kind == agentproto.KindDir && inside:
		return &guestSink{c: c, path: clean}, "", nil
	case err == nil && info.Kind == agentproto.KindDir:
		return &guestSink{c: c, path: clean}, top.name, nil
	case err == nil && (top.kind == agentproto.KindDir || throughLink(p)):
		return nil, "", notDirectory(p)
	case err != nil && kind != sandbox.PathNotFound:
		return nil, "", explain(p, err)
	case err != nil && throughLink(p) && top.kind != agentproto.KindDir:
		return nil, "", missing(p, sandbox.PathNotFound)
	}
	dir := path.Dir(clean)
	if info, err := c.Stat(ctx, dir, true); err != nil {
		if sandbox.KindOf(err) == sandbox.PathNotFound {
			return nil, "", missing(dir, sandbox.PathNotFound)
		}
		return nil, "", explain(dir, err)
	} else if info.Kind != agentproto.KindDir {
		return nil, "", notDirectory(dir)
	}
	return &guestSink{c: c, path: dir}, path.Base(clean), nil
}

func notDirectory(p string) error {
	return &sandbox.Error{Op: "copy", Kind: sandbox.InvalidArgument, Message: p + " is there, and is not a directory"}
}

func missing(dir string, kind sandbox.Kind) error {
	return &sandbox.Error{Op: "copy", Kind: kind, Message: "there is no directory " + dir, Hint: "make it first"}
}

func (d *guestSink) enter(ctx context.Context, name string, mode uint32) (sinkDir, error) {
	p := path.Join(d.path, name)
	if err := validUTF8(p); err != nil {
		return nil, err
	}
	below := &guestSink{c: d.c, path: p, mode: mode, fresh: true}
	if !d.fresh {
		info, err := d.c.Stat(ctx, p, false)
		switch {
		case err == nil && info.Kind != agentproto.KindDir:
			return nil, notDirectory(p)
		case err == nil:
			below.fresh, below.mode = false, info.Mode&0o777 // its own mode stays
			return below, nil
		case sandbox.KindOf(err) != sandbox.PathNotFound:
			return nil, explain(p, err)
		}
	}
	wide := mode | 0o700 // until all is in it
	if err := d.c.Mkdir(ctx, p, &wide); err != nil {
		return nil, explain(p, err)
	}
	return below, nil
}

// finish sets the mode of a directory that was made.
func (d *guestSink) finish(ctx context.Context) error {
	if !d.fresh {
		return nil
	}
	return explain(d.path, d.c.SetStat(ctx, d.path, false, agentproto.FileAttrs{Mode: &d.mode}))
}

func (*guestSink) takes(string, int) bool { return true } // where a link leads is the guest's own affair

func (d *guestSink) put(ctx context.Context, name string, mode uint32, data []byte) (bool, error) {
	if len(data) > agentproto.MaxSmall || !d.c.HasSmall() {
		return false, nil
	}
	p := path.Join(d.path, name)
	if err := validUTF8(p); err != nil {
		return false, err
	}
	err := d.c.PutFile(ctx, &agentproto.FSPut{Path: p, Temp: path.Join(d.path, tempName(name)), Mode: mode, Data: data})
	if sandbox.KindOf(err) == sandbox.Filesystem {
		if known := d.replaceable(ctx, p); known != nil {
			return false, known
		}
	}
	return err == nil, explain(p, err)
}

func (d *guestSink) symlink(ctx context.Context, target, name string) error {
	p := path.Join(d.path, name)
	if err := validUTF8(p + target); err != nil {
		return err
	}
	if d.fresh && d.c.Symlink(ctx, target, p) == nil {
		return nil
	}
	if err := d.replaceable(ctx, p); err != nil {
		return err
	}
	temp := path.Join(d.path, tempName(name))
	if err := d.c.Symlink(ctx, target, temp); err != nil {
		return explain(p, err)
	}
	if err := d.c.Rename(ctx, temp, p); err != nil {
		d.tidy(ctx, temp)
		return explain(p, err)
	}
	return nil
}

// replaceable refuses to put a file where there is a directory or a device.
func (d *guestSink) replaceable(ctx context.Context, p string) error {
	if d.fresh {
		return nil
	}
	info, err := d.c.Stat(ctx, p, false)
	switch {
	case sandbox.KindOf(err) == sandbox.PathNotFound:
		return nil
	case err != nil:
		return explain(p, err)
	case info.Kind == agentproto.KindDir || info.Kind == agentproto.KindOther:
		return inTheWay(p)
	}
	return nil
}

func inTheWay(p string) error {
	return &sandbox.Error{Op: "copy", Kind: sandbox.InvalidArgument, Message: p + " is there, and is not a file"}
}

func (d *guestSink) create(ctx context.Context, name string, mode uint32) (sinkFile, error) {
	p := path.Join(d.path, name)
	if err := validUTF8(p); err != nil {
		return nil, err
	}
	if err := d.replaceable(ctx, p); err != nil {
		return nil, err
	}
	f := &guestFile{d: d, ctx: ctx, path: p, temp: path.Join(d.path, tempName(name)), mode: mode}
	private := uint32(0o600)
	var err error
	if f.f, err = d.c.OpenFile(ctx, f.temp, agentproto.OpenOptions{Write: true, CreateNew: true, Mode: &private}); err != nil {
		return nil, explain(p, err)
	}
	if f.w, err = f.f.Writer(ctx, 0); err != nil {
		f.abort()
		return nil, explain(p, err)
	}
	return f, nil
}

func (d *guestSink) tidy(ctx context.Context, temp string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTime)
	defer cancel()
	_ = d.c.Remove(ctx, temp)
}

// guestFile is a file of a guest that is being written, under another name.
type guestFile struct {
	d          *guestSink
	ctx        context.Context
	f          *agentclient.File // nil when closed
	w          io.WriteCloser    // nil when closed
	path, temp string
	mode       uint32
}

func (f *guestFile) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	return n, explain(f.path, err)
}

func (f *guestFile) commit(ctx context.Context) error {
	w := f.w
	f.w = nil
	if err := w.Close(); err != nil {
		return explain(f.path, err)
	}
	if err := f.f.SetStat(ctx, agentproto.FileAttrs{Mode: &f.mode}); err != nil {
		return explain(f.path, err)
	}
	h := f.f
	f.f = nil
	if err := h.Close(ctx); err != nil {
		return explain(f.path, err)
	}
	return explain(f.path, f.d.c.Rename(ctx, f.temp, f.path))
}

func (f *guestFile) abort() {
	if f.w != nil {
		_ = f.w.Close()
		f.w = nil
	}
	if f.f != nil {
		closeFile(f.ctx, f.f)
		f.f = nil
	}
	f.d.tidy(f.ctx, f.temp)
}

func randomHex() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}
