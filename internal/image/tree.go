package image

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
)

// node is one file of a tree, however many names it has.
type node struct {
	kind    kind
	layer   int32 // the place of the layer that it comes from
	attr    erofs.Attr
	data    erofs.Data // of a regular file
	target  string     // of a symbolic link; of a link to a file that is not in the layer, that file's path
	major   uint32     // of a device
	minor   uint32
	xattrs  map[string]string
	dir     *dir   // of a directory
	written string // the first path that it was written at
}

type dir struct {
	entries map[string]*node

	// What follows is about the layers below, and empty in a finished tree.
	implied   bool     // no entry of the layer describes the directory: the one below does, if there is one
	opaque    bool     // nothing of the directory below shows
	whiteouts []string // entries of the directory below that do not show
}

type kind uint8

const (
	kindFile kind = iota
	kindDir
	kindSymlink
	kindChar
	kindBlock
	kindFifo
	kindLink // to a file that the layer does not have; gone from a finished tree
)

func newDirNode(layer int32) *node {
	return &node{kind: kindDir, layer: layer, attr: erofs.Attr{Mode: 0o755}, dir: &dir{entries: map[string]*node{}, implied: true}}
}

const (
	maxPath     = 4096
	maxName     = 255
	maxSymlinks = 40 // followed for one path, as in Linux
)

// place is a directory in a tree, and how to get back out of it.
type place struct {
	up   []*node // from the root to here
	size []int   // length of the path to each
}

func (t *node) place() place { return place{[]*node{t}, []int{0}} }

func (p *place) here() *node { return p.up[len(p.up)-1] }

func (p *place) enter(n *node, name string) error {
	size := p.size[len(p.size)-1] + len(name) + 1
	if size > maxPath {
		return fmt.Errorf("%w: a path is longer than %d bytes", ErrUnsafe, maxPath)
	}
	p.up, p.size = append(p.up, n), append(p.size, size)
	return nil
}

func (p *place) leave() {
	if len(p.up) > 1 {
		p.up, p.size = p.up[:len(p.up)-1], p.size[:len(p.size)-1]
	}
}

// walk goes down from the root, following symbolic links as a process would whose root directory the tree is: nothing leads
// out of it. With create it makes the directories that are missing; otherwise it returns nil when one is. It also returns the length
// of the path to the directory without links, in bytes.
func (t *node) walk(elements []string, create bool, layer int32, used *usage) (dir *node, size int, err error) {
	at := t.place()
	rest := elements
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if err := used.step(1); err != nil {
			return nil, 0, err
		}
		switch name {
		case "", ".":
			continue
		case "..": // of a link's target; those of entries were refused
			at.leave()
			continue
		}
		if err := checkName(name); err != nil {
			return nil, 0, err
		}
		next := at.here().dir.entries[name]
		switch {
		case next == nil && !create:
			return nil, 0, nil
		case next == nil:
			if err := used.name(nodeSize + at.size[len(at.size)-1] + len(name)); err != nil {
				return nil, 0, err
			}
			next = newDirNode(layer)
			at.here().dir.entries[name] = next
		case next.kind == kindSymlink:
			if links++; links > maxSymlinks {
				return nil, 0, fmt.Errorf("%w: more than %d symbolic links in the path %.200q", ErrUnsafe, maxSymlinks, path.Join(elements...))
			}
			if strings.HasPrefix(next.target, "/") {
				at = t.place()
			}
			if err := used.step(len(rest)); err != nil {
				return nil, 0, err
			}
			rest = append(strings.Split(next.target, "/"), rest...)
			continue
		case next.kind != kindDir && !create:
			return nil, 0, nil
		case next.kind != kindDir:
			return nil, 0, fmt.Errorf("%w: %.200q is in %q, which is no directory", ErrFormat, path.Join(elements...), name)
		}
		if err := at.enter(next, name); err != nil {
			return nil, 0, err
		}
	}
	return at.here(), at.size[len(at.size)-1], nil
}

func checkName(name string) error {
	if len(name) > maxName || strings.IndexByte(name, 0) >= 0 {
		return fmt.Errorf("%w: no file can have the name %.300q", ErrUnsafe, name)
	}
	return nil
}

// put sets an entry of directory n. A directory over a directory changes its attributes and keeps its entries.
func (n *node) put(name string, child *node) {
	old := n.dir.entries[name]
	if old != nil && old.kind == kindDir && child.kind == kindDir {
		old.describe(child)
		return
	}
	n.dir.entries[name] = child
}

// describe gives directory n the attributes of directory m.
func (n *node) describe(m *node) {
	n.attr, n.xattrs, n.layer = m.attr, m.xattrs, m.layer
	n.dir.implied = false
}

// overlay puts the directory upper of a layer over the directory n of the finished tree of all layers below it.
// What it does is what a Linux overlay of the layers shows.
func (n *node) overlay(upper *node) {
	if !upper.dir.implied {
		n.describe(upper)
	}
	if upper.dir.opaque {
		clear(n.dir.entries)
	}
	for _, name := range upper.dir.whiteouts {
		delete(n.dir.entries, name)
	}
	for name, u := range upper.dir.entries {
		below := n.dir.entries[name]
		if u.kind == kindDir && (below == nil || below.kind != kindDir) {
			below = newDirNode(u.layer)
			n.dir.entries[name] = below
		}
		if u.kind == kindDir {
			below.overlay(u)
			continue
		}
		n.dir.entries[name] = u
	}
	upper.dir = nil
}

// settle replaces the links of the layer that was put over the tree last by the files that they name.
// They are in the order in which the layer has them.
func (t *node) settle(links []*node, used *usage) error {
	if len(links) == 0 {
		return nil
	}
	to := map[*node]*node{}
	for _, l := range links {
		dir, base := path.Split(l.target)
		parent, _, err := t.walk(strings.Split(dir, "/"), false, 0, used)
		if err != nil {
			return err
		}
		var file *node
		if parent != nil {
			file = parent.dir.entries[base]
		}
		for range len(links) { // a link to a link
			if file == nil || file.kind != kindLink {
				break
			}
			file = to[file]
		}
		if file == nil || file.kind == kindDir || file.kind == kindLink {
			return fmt.Errorf("%w: a hard link to %.200q, which is no file", ErrFormat, l.target)
		}
		to[l] = file
	}
	var replace func(n *node)
	replace = func(n *node) {
		for name, c := range n.dir.entries {
			switch c.kind {
			case kindLink:
				n.dir.entries[name] = to[c]
			case kindDir:
				replace(c)
			}
		}
	}
	replace(t)
	return nil
}

// emitter writes a finished tree to an image.
type emitter struct {
	w      *erofs.Writer
	xattrs map[string]map[string]string // by path
	data   []int64                      // bytes in the image, by layer
	live   [][2]int64                   // where they are
	files  int
}

func (e *emitter) emit(p string, n *node) error {
	e.files++
	if n.written != "" {
		return e.w.Link(p, n.written)
	}
	n.written = p
	if len(n.xattrs) > 0 {
		e.xattrs[p] = n.xattrs
	}
	switch n.kind {
	case kindFile:
		if from, to := n.data.Extent(); to > from {
			e.live = append(e.live, [2]int64{from, to})
			e.data[n.layer] += to - from
		}
		return e.w.FileAt(p, n.attr, n.data)
	case kindSymlink:
		return e.w.Symlink(p, n.target, n.attr)
	case kindChar, kindBlock:
		return e.w.Device(p, n.attr, n.kind == kindChar, n.major, n.minor)
	case kindFifo:
		return e.w.Fifo(p, n.attr)
	case kindDir:
	default:
		return errors.New("a link was left in the tree")
	}
	if err := e.w.Dir(p, n.attr); err != nil {
		return err
	}
	names := make([]string, 0, len(n.dir.entries))
	for name := range n.dir.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := e.emit(path.Join(p, name), n.dir.entries[name]); err != nil {
			return err
		}
	}
	n.dir.entries = nil // the Writer has it all now
	return nil
}
