package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"strings"
	"sync/atomic"

	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh." // of the file system that whiteouts come from; nothing to us, but for
	whiteoutOpaque = ".wh..wh..opq"
	xattrPrefix    = "SCHILY.xattr."
)

// layer is the tree of one layer. It has what the layer says and nothing of the layers below.
type layer struct {
	index int32
	root  *node
	links []*node // those of kindLink, as they came
	plain bool    // a tar that is not a layer: the names of whiteouts mean nothing
	used  *usage
	data  *erofs.Stream
}

// usage is what the layers of one image have taken of the limits together.
type usage struct {
	limits   Limits
	bytes    atomic.Int64 // unpacked, of tars
	files    atomic.Int64 // bytes in files: sparse ones have more than their tars
	entries  atomic.Int64
	metadata atomic.Int64
	walked   atomic.Int64 // directories and links that paths led through
}

// stepsPerEntry bounds, for all entries together, the directories and links that their paths lead through.
const stepsPerEntry = 64

// nodeSize is what a file counts for beside its names, in bytes of metadata.
const nodeSize = 128

// step charges n steps of a path.
func (u *usage) step(n int) error {
	if most := stepsPerEntry * max(int64(u.limits.Entries), 1<<14); u.walked.Add(int64(n)) > most {
		return fmt.Errorf("%w of %d directories and links that paths lead through", ErrTooLarge, most)
	}
	return nil
}

// name charges bytes of names and attributes.
func (u *usage) name(size int) error {
	if n := u.metadata.Add(int64(size)); n > u.limits.Metadata {
		return fmt.Errorf("%w of %d bytes of names and attributes", ErrTooLarge, u.limits.Metadata)
	}
	return nil
}

func (u *usage) entry(h *tar.Header) error {
	if n := u.entries.Add(1); n > int64(u.limits.Entries) {
		return fmt.Errorf("%w of %d entries", ErrTooLarge, u.limits.Entries)
	}
	size := len(h.Name) + len(h.Linkname) + nodeSize
	for k, v := range h.PAXRecords {
		if strings.HasPrefix(k, xattrPrefix) {
			size += len(k) + len(v)
		}
	}
	if err := u.name(size); err != nil {
		return err
	}
	if h.Size < 0 {
		return fmt.Errorf("%w: a file of %d bytes", ErrUnsafe, h.Size)
	}
	if h.Typeflag == tar.TypeLink {
		return nil // some tars say the size of the file that it links to
	}
	if n := u.files.Add(h.Size); n > u.limits.Bytes || n < 0 {
		return fmt.Errorf("%w of %d bytes in files", ErrTooLarge, u.limits.Bytes)
	}
	return nil
}

// read takes all entries of the tar. Its errors are the tar's, the layer's or the disk's.
func (l *layer) read(r io.Reader) error {
	l.root = newDirNode(l.index)
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return tarError(err)
		}
		if err := l.used.entry(h); err != nil {
			return err
		}
		if err := l.add(h, tr); err != nil {
			return err
		}
	}
}

// tarError tells a bad tar from what it is read from.
func tarError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrFieldTooLong) {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return err
}

func (l *layer) add(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	elements, err := splitPath(h.Name)
	if err != nil {
		return err
	}
	n, err := l.node(h)
	if err != nil {
		return fmt.Errorf("entry %.200q: %w", h.Name, err)
	}
	if len(elements) == 0 {
		if n.kind != kindDir {
			return fmt.Errorf("%w: the root is no directory", ErrUnsafe)
		}
		l.root.describe(n)
		return nil
	}
	name := elements[len(elements)-1]
	if err := checkName(name); err != nil {
		return err
	}
	parent, size, err := l.root.walk(elements[:len(elements)-1], true, l.index, l.used)
	if err != nil {
		return err
	}
	// The path that it is written at is longer than its name if that leads through links.
	if err := l.used.name(max(0, size+len(name)-len(h.Name))); err != nil {
		return err
	}
	if hidden, ok := strings.CutPrefix(name, whiteoutPrefix); ok && !l.plain {
		return parent.hide(name, hidden)
	}
	switch n.kind {
	case kindFile:
		if n.data, err = l.data.Data(h.Size, r); err != nil {
			return tarError(err)
		}
	case kindLink:
		if n, err = l.link(n, parent, name); n == nil || err != nil {
			return err
		}
	}
	parent.put(name, n)
	return nil
}

// hide notes in a directory of a layer what of the layers below does not show.
func (n *node) hide(name, hidden string) error {
	switch {
	case name == whiteoutOpaque:
		n.dir.opaque = true
	case strings.HasPrefix(name, whiteoutMeta):
	case hidden == "" || hidden == "." || hidden == "..":
		return fmt.Errorf("%w: the whiteout %q", ErrUnsafe, name)
	default:
		n.dir.whiteouts = append(n.dir.whiteouts, hidden)
	}
	return nil
}

// link finds the file that the hard link n names. When the layer does not have it the result is n, to be found later;
// when the link is its own target it is nil.
func (l *layer) link(n, parent *node, name string) (*node, error) {
	elements, err := splitPath(n.target)
	if err != nil {
		return nil, err
	}
	if len(elements) == 0 {
		return nil, fmt.Errorf("%w: a hard link to the root", ErrFormat)
	}
	base := elements[len(elements)-1]
	dir, _, err := l.root.walk(elements[:len(elements)-1], false, l.index, l.used)
	if err != nil {
		return nil, err
	}
	n.target = strings.Join(elements, "/")
	if dir == nil || dir.dir.entries[base] == nil {
		l.links = append(l.links, n)
		return n, nil
	}
	if dir == parent && base == name {
		return nil, nil
	}
	file := dir.dir.entries[base]
	if file.kind == kindDir {
		return nil, fmt.Errorf("%w: a hard link to the directory %.200q", ErrFormat, n.target)
	}
	return file, nil
}

// splitPath splits the name of an entry. A leading slash means nothing, as in every tar.
func splitPath(name string) ([]string, error) {
	if len(name) > maxPath {
		return nil, fmt.Errorf("%w: a path is longer than %d bytes", ErrUnsafe, maxPath)
	}
	elements := make([]string, 0, strings.Count(name, "/")+1)
	for e := range strings.SplitSeq(name, "/") {
		switch e {
		case "", ".":
		case "..":
			return nil, fmt.Errorf("%w: the path %.200q leads upwards", ErrUnsafe, name)
		default:
			elements = append(elements, e)
		}
	}
	return elements, nil
}

// node makes a node of a header. The data of a file, and what a link leads to, come later.
func (l *layer) node(h *tar.Header) (*node, error) {
	n := &node{layer: l.index}
	switch h.Typeflag {
	case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse:
		n.kind = kindFile
	case tar.TypeDir:
		n = newDirNode(l.index)
		n.dir.implied = false
	case tar.TypeSymlink:
		if n.kind = kindSymlink; h.Linkname == "" || len(h.Linkname) >= maxPath || strings.IndexByte(h.Linkname, 0) >= 0 {
			return nil, fmt.Errorf("%w: a symbolic link to %.200q", ErrUnsafe, h.Linkname)
		}
		n.target = h.Linkname
	case tar.TypeLink:
		n.kind, n.target = kindLink, h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		if n.kind = kindBlock; h.Typeflag == tar.TypeChar {
			n.kind = kindChar
		}
		if h.Devmajor < 0 || h.Devmajor > 0xfff || h.Devminor < 0 || h.Devminor > 0xfffff {
			return nil, fmt.Errorf("%w: device %d:%d", ErrUnsafe, h.Devmajor, h.Devminor)
		}
		n.major, n.minor = uint32(h.Devmajor), uint32(h.Devminor)
	case tar.TypeFifo:
		n.kind = kindFifo
	default:
		return nil, fmt.Errorf("%w: an entry of type %q", ErrFormat, h.Typeflag)
	}
	if h.Uid < 0 || h.Uid > math.MaxUint32 || h.Gid < 0 || h.Gid > math.MaxUint32 {
		return nil, fmt.Errorf("%w: owner %d:%d", ErrUnsafe, h.Uid, h.Gid)
	}
	n.attr = erofs.Attr{Mode: fileMode(h.Mode), UID: uint32(h.Uid), GID: uint32(h.Gid), ModTime: h.ModTime}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, xattrPrefix); ok {
			if n.xattrs == nil {
				n.xattrs = map[string]string{}
			}
			n.xattrs[name] = v
		}
	}
	return n, nil
}

// fileMode returns the twelve bits that chmod sets.
func fileMode(mode int64) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	for bit, b := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= b
		}
	}
	return m
}
