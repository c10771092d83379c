// Package transfer copies files and directories between this machine and guests, or from one guest into another, over the
// guests' agents (contract msb-0.6 §1.3, §4.6).
//
// A file has its final name when all of it is there, and not before, but for one that fits into a message and whose name is free: a guest
// writes that at once. Symbolic links are not followed; those in a directory
// are made again. What a guest says of its files is not trusted: a name is one component, and whatever it is called, nothing is
// made on this machine outside of the destination ([os.Root]).
package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Bounds of one copy. They are beyond every tree that is meant to be copied.
const (
	MaxDepth   = 128
	MaxEntries = 1 << 20
	maxName    = 255      // bytes of a name
	maxUnsized = 64 << 20 // bytes of a file that says it has none, as those of /proc do
)

// End is one end of a copy.
type End struct {
	Guest *agentclient.Client // nil is this machine
	Path  string              // absolute, in a guest
}

// Copier does one copy. The zero value works.
type Copier struct {
	// Warn is told what is left out, and why; nil is silence.
	Warn func(message string)

	files, bytes atomic.Int64
	entries      int
	slots        chan struct{} // of files that are copied at the same time
	streams      chan struct{} // of those of them that do not fit into one message
}

// How many files are copied at the same time. A small one is one question to a guest; a large one is a handful of them, one after the
// other, and may have a window's worth of data under way.
const (
	atOnce        = 32
	streamsAtOnce = 8
)

// Progress is how many files there are and how many bytes were written so far. It may be asked for at any time.
func (c *Copier) Progress() (files, bytes int64) { return c.files.Load(), c.bytes.Load() }

// node is what is known of one file of the source.
type node struct {
	name string
	kind string // one of agentproto's
	mode uint32 // permission bits
	size int64
}

// sourceDir is a directory that is read.
type sourceDir interface {
	each(ctx context.Context, visit func(node) error) error
	enter(ctx context.Context, name string) (sourceDir, error)
	open(ctx context.Context, name string) (content, error)
	readlink(ctx context.Context, name string) (string, error)
	where(name string) string
	close()
}

// content is a file that is read. size is what it had when it was opened: what is added later is not copied.
type content interface {
	// whole is all of it, if it is small and known already; ok is false for others.
	whole() (data []byte, ok bool)
	writeTo(w io.Writer) error
	node() node
	close()
}

// sinkDir is a directory that is written. After enter and whatever is done in it comes finish, or nothing, and close.
type sinkDir interface {
	enter(ctx context.Context, name string, mode uint32) (sinkDir, error)
	// put makes a file that is small in one step. done is false where that takes what create does.
	put(ctx context.Context, name string, mode uint32, data []byte) (done bool, err error)
	create(ctx context.Context, name string, mode uint32) (sinkFile, error)
	symlink(ctx context.Context, target, name string) error
	// takes reports whether a link with that target may be made at depth directories below the destination.
	takes(target string, depth int) bool
	finish(ctx context.Context) error
	close()
}

// sinkFile is a file that is written. One of commit and abort ends it.
type sinkFile interface {
	io.Writer
	commit(ctx context.Context) error
	abort()
}

// Copy copies the file or directory src. If dst is a directory, it gets a place in it; otherwise dst is what the copy is to be
// called, and takes a file's place. A src that ends in "/." stands for what is in the directory. Kinds: PathNotFound,
// InvalidArgument, Filesystem (the guest's refusal), IO (this machine's), Protocol, Cancelled.
func (c *Copier) Copy(ctx context.Context, src, dst End) error {
	from, top, err := src.source(ctx)
	if err != nil {
		return err
	}
	defer from.close()
	inside := top.kind == agentproto.KindDir && (contents(src.Path) || top.name == "")
	switch top.kind {
	case agentproto.KindDir, agentproto.KindFile:
	case agentproto.KindSymlink:
		target, err := from.readlink(ctx, top.name)
		if err != nil {
			return err
		}
		return &sandbox.Error{Op: "copy", Kind: sandbox.InvalidArgument, Message: src.Path + " is a symbolic link, and links are not followed",
			Hint: fmt.Sprintf("copy what it leads to: %q", target)}
	default:
		return &sandbox.Error{Op: "copy", Kind: sandbox.InvalidArgument, Message: src.Path + " is neither a file nor a directory"}
	}
	if err := apart(ctx, src, dst); err != nil {
		return err
	}
	to, name, err := dst.sink(ctx, top, inside)
	if err != nil {
		return err
	}
	defer to.close()
	if top.kind == agentproto.KindFile {
		return c.file(ctx, from, top.name, to, name)
	}
	c.slots, c.streams = make(chan struct{}, atOnce), make(chan struct{}, streamsAtOnce)
	tree, err := from.enter(ctx, top.name)
	if err != nil {
		return err
	}
	defer tree.close()
	if name == "" {
		return c.tree(ctx, tree, to, 0)
	}
	return c.dir(ctx, tree, to, name, top.mode, 0)
}

// contents reports whether a path stands for what is in a directory.
func contents(p string) bool { return p == "." || strings.HasSuffix(p, "/.") }

// throughLink reports whether a path, by how it ends, is that of a directory that a link leads to.
func throughLink(p string) bool { return strings.HasSuffix(p, "/") || contents(p) }

// apart refuses to copy a directory of a guest into itself, which would not end.
func apart(ctx context.Context, src, dst End) error {
	if src.Guest == nil && dst.Guest == nil {
		return &sandbox.Error{Op: "copy", Kind: sandbox.InvalidArgument, Message: "neither end of the copy is in a sandbox"}
	}
	if src.Guest != dst.Guest {
		return nil
	}
	from, err := src.Guest.RealPath(ctx, src.Path)
	if err != nil {
		return explain(src.Path, err)
	}
	to, err := dst.Guest.RealPath(ctx, dst.Path)
	if err != nil {
		return explain(dst.Path, err)
	}
	if to == from || strings.HasPrefix(to, strings.TrimSuffix(from, "/")+"/") {
		return &sandbox.Error{Op: "copy", Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("%s cannot be copied into itself", src.Path)}
	}
	return nil
}

// dir copies a directory as name. depth is how many directories of the copy it is in.
func (c *Copier) dir(ctx context.Context, from sourceDir, to sinkDir, name string, mode uint32, depth int) error {
	if depth == MaxDepth {
		return &sandbox.Error{Op: "copy", Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("%s is nested more than %d deep", from.where(""), MaxDepth)}
	}
	made, err := to.enter(ctx, name, mode)
	if err != nil {
		return err
	}
	defer made.close()
	if err := c.tree(ctx, from, made, depth); err != nil {
		return err
	}
	return made.finish(ctx)
}

// tree copies what is in a directory, which is depth directories below the copy's own. It returns when none of its files is
// being copied any more.
func (c *Copier) tree(ctx context.Context, from sourceDir, to sinkDir, depth int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		files  sync.WaitGroup
		once   sync.Once
		failed error
	)
	err := from.each(ctx, func(n node) error {
		if ctx.Err() != nil {
			return cancelled(ctx)
		}
		if c.entries++; c.entries > MaxEntries {
			return &sandbox.Error{Op: "copy", Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("there are more than %d files", MaxEntries)}
		}
		switch n.kind {
		case agentproto.KindFile:
			select {
			case c.slots <- struct{}{}:
			case <-ctx.Done():
				return cancelled(ctx)
			}
			files.Go(func() {
				defer func() { <-c.slots }()
				if err := c.file(ctx, from, n.name, to, n.name); err != nil {
					once.Do(func() { failed = err; cancel() })
				}
			})
			return nil
		case agentproto.KindDir:
			below, err := from.enter(ctx, n.name)
			if err != nil {
				return err
			}
			defer below.close()
			return c.dir(ctx, below, to, n.name, n.mode, depth+1)
		case agentproto.KindSymlink:
			target, err := from.readlink(ctx, n.name)
			if err != nil {
				return err
			}
			if !to.takes(target, depth) {
				c.warn("the symbolic link %s is left out: it leads out of what is copied, to %q", from.where(n.name), target)
				return nil
			}
			return to.symlink(ctx, target, n.name)
		}
		c.warn("%s is left out: it is neither a file, a directory nor a symbolic link", from.where(n.name))
		return nil
	})
	files.Wait()
	if failed != nil { // first
		return failed
	}
	return err
}

// file copies one file.
func (c *Copier) file(ctx context.Context, from sourceDir, name string, to sinkDir, as string) error {
	data, err := from.open(ctx, name)
	if err != nil {
		return err
	}
	defer data.close()
	n := data.node()
	if all, ok := data.whole(); ok {
		if done, err := to.put(ctx, as, n.mode, all); done || err != nil {
			if err == nil {
				c.bytes.Add(int64(len(all)))
				c.files.Add(1)
			}
			return err
		}
	} else if c.streams != nil {
		select {
		case c.streams <- struct{}{}:
			defer func() { <-c.streams }()
		case <-ctx.Done():
			return cancelled(ctx)
		}
	}
	out, err := to.create(ctx, as, n.mode)
	if err != nil {
		return err
	}
	err = data.writeTo(&bounded{ctx: ctx, to: out, left: limitOf(n.size), bytes: &c.bytes})
	if err == nil {
		err = out.commit(ctx)
	}
	if err != nil {
		out.abort()
		if errors.Is(err, errTooLong) {
			return tooLong(from.where(name), n.size)
		}
		return err
	}
	c.files.Add(1)
	return nil
}

func limitOf(size int64) int64 {
	if size == 0 {
		return maxUnsized
	}
	return size
}

var errTooLong = errors.New("too long")

func tooLong(path string, size int64) error {
	return &sandbox.Error{Op: "copy", Kind: sandbox.Protocol, Message: fmt.Sprintf("%s has more than the %d bytes that it said it has", path, size)}
}

// bounded counts what is written, and takes no more than there should be.
type bounded struct {
	ctx   context.Context
	to    io.Writer
	left  int64
	bytes *atomic.Int64
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		return 0, cancelled(b.ctx)
	}
	if int64(len(p)) > b.left {
		return 0, errTooLong
	}
	n, err := b.to.Write(p)
	b.left -= int64(n)
	b.bytes.Add(int64(n))
	return n, err
}

func (c *Copier) warn(format string, args ...any) {
	if c.Warn != nil {
		c.Warn(fmt.Sprintf(format, args...))
	}
}

func cancelled(ctx context.Context) error {
	return &sandbox.Error{Op: "copy", Kind: sandbox.Cancelled, Message: "the copy was broken off", Err: context.Cause(ctx)}
}

// checkName refuses a name that is not one component of a path.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxName || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%.300q is not a file's name", name)
	}
	return nil
}

// inside reports whether a link at depth directories below a destination stays there. After a name there must be no "..": the
// name may be a link, too, and then lead elsewhere than it seems.
func inside(target string, depth int) bool {
	if path.IsAbs(target) || target == "" || strings.ContainsRune(target, 0) {
		return false
	}
	named := false
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 || named {
				return false
			}
		default:
			named = true
		}
	}
	return true
}

// explain names the path of a guest's refusal.
func explain(path string, err error) error {
	var e *sandbox.Error
	if !errors.As(err, &e) || e.Kind != sandbox.Filesystem && e.Kind != sandbox.PathNotFound {
		return err
	}
	return &sandbox.Error{Op: "copy", Kind: e.Kind, Message: path + ": " + e.Detail()}
}

// local is an error of this machine.
func local(err error) error {
	if err == nil {
		return nil
	}
	var known *sandbox.Error
	if errors.As(err, &known) {
		return err
	}
	return &sandbox.Error{Op: "copy", Kind: sandbox.IO, Err: err}
}

// tempName is what a file is called until it is all there.
func tempName(name string) string {
	if len(name) > maxName-32 {
		name = strings.ToValidUTF8(name[:maxName-32], "")
	}
	return "." + name + ".msb-" + randomHex()
}

func validUTF8(p string) error {
	if utf8.ValidString(p) {
		return nil
	}
	return &sandbox.Error{Op: "copy", Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("the name %q is not UTF-8, which guests are spoken to in", filepath.Base(p)),
		Hint: "pipe an archive of it through: msb exec NAME -- tar x"}
}
