package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"
)

// ErrFormat says that an image is not one that a [Writer] wrote.
var ErrFormat = errors.New("not an EROFS image of ours")

// Entry is one name of a file in an image.
type Entry struct {
	Path         string // "." is the root
	Mode         fs.FileMode
	Attr         Attr
	Size         int64  // of a regular file; of a directory, bytes of its entries
	Target       string // of a symbolic link
	Major, Minor uint32 // of a device
	Inode        uint64 // the same for all names of a file
	Links        uint32 // how many there are

	data io.Reader
}

// Open returns the bytes of a regular file.
func (e *Entry) Open() io.Reader { return e.data }

// Walk calls visit for every name in an image, a directory before what is in it, in the order of the names.
// It reads what a [Writer] writes, and refuses other images rather than to follow them wherever they lead.
func Walk(r io.ReaderAt, visit func(*Entry) error) error {
	img, err := open(r)
	if err != nil {
		return err
	}
	w := walker{image: img, left: uint64(img.blocks)*(blockSize/direntSize) + 1, visit: visit}
	return w.walk(".", img.root, 0)
}

// image is an image that is read.
type image struct {
	r      io.ReaderAt
	root   uint64 // nid
	blocks uint32
	table  int64 // where the inodes begin
}

func open(r io.ReaderAt) (image, error) {
	s := make([]byte, superSize)
	if _, err := r.ReadAt(s, superOffset); err != nil {
		return image{}, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	le := binary.LittleEndian
	if le.Uint32(s) != superMagic || s[12] != blockBits || le.Uint32(s[80:]) != 0 {
		return image{}, ErrFormat
	}
	return image{r: r, root: uint64(le.Uint16(s[14:])), blocks: le.Uint32(s[36:]), table: int64(le.Uint32(s[40:])) * blockSize}, nil
}

type walker struct {
	image
	left  uint64 // names that may still come: more than that must be a circle
	visit func(*Entry) error
}

const maxDepth = 4096

func (w *walker) walk(p string, nid uint64, depth int) error {
	if w.left--; w.left == 0 || depth > maxDepth {
		return fmt.Errorf("%w: it goes round in circles", ErrFormat)
	}
	e, dirents, err := w.entry(p, nid)
	if err == nil {
		err = w.visit(e)
	}
	if err != nil || dirents == nil {
		return err
	}
	return w.names(p, dirents, e.Size, func(name string, nid uint64) error { return w.walk(path.Join(p, name), nid, depth+1) })
}

// errFound ends a walk.
var errFound = errors.New("found")

// Lookup returns what is at a path of an image, whose links are not followed. The error is fs.ErrNotExist where there is nothing.
func Lookup(r io.ReaderAt, p string) (*Entry, error) {
	img, err := open(r)
	if err != nil {
		return nil, err
	}
	e, dirents, err := img.entry(".", img.root)
	for name := range strings.SplitSeq(strings.Trim(path.Clean("/"+p), "/"), "/") {
		if err != nil || name == "" {
			break
		}
		at, found := uint64(0), false
		if dirents != nil {
			err = img.names(e.Path, dirents, e.Size, func(have string, nid uint64) error {
				if have != name {
					return nil
				}
				at, found = nid, true
				return errFound
			})
		}
		switch {
		case err != nil && err != errFound:
		case !found:
			err = fs.ErrNotExist
		default:
			e, dirents, err = img.entry(path.Join(e.Path, name), at)
		}
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

// Names returns what is in a directory of an image, by a path whose links are not followed. The error is fs.ErrNotExist where there is no
// directory.
func Names(r io.ReaderAt, dir string) (map[string]bool, error) {
	e, err := Lookup(r, dir)
	if err != nil {
		return nil, err
	}
	if !e.Mode.IsDir() {
		return nil, fs.ErrNotExist
	}
	img, err := open(r)
	if err != nil {
		return nil, err
	}
	e, dirents, err := img.entry(e.Path, e.Inode)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	err = img.names(e.Path, dirents, e.Size, func(name string, _ uint64) error { names[name] = true; return nil })
	return names, err
}

// entry reads an inode. The reader is of the entries of a directory, of which there are Size bytes, or nil.
func (w *image) entry(p string, nid uint64) (*Entry, io.Reader, error) {
	at := w.table + int64(nid)<<slotBits
	b := make([]byte, inodeSize)
	if _, err := w.r.ReadAt(b, at); err != nil {
		return nil, nil, fmt.Errorf("%w: inode of %q: %w", ErrFormat, p, err)
	}
	le := binary.LittleEndian
	layout, mode, size, addr := le.Uint16(b), le.Uint16(b[4:]), int64(le.Uint64(b[8:])), le.Uint32(b[16:])
	if layout != layoutPlain && layout != layoutInline || le.Uint16(b[2:]) != 0 || size < 0 {
		return nil, nil, fmt.Errorf("%w: inode of %q", ErrFormat, p)
	}
	e := &Entry{Path: p, Inode: nid, Links: le.Uint32(b[44:]),
		Attr: Attr{UID: le.Uint32(b[24:]), GID: le.Uint32(b[28:]), ModTime: time.Unix(int64(le.Uint64(b[32:])), int64(le.Uint32(b[40:])))}}
	e.Attr.Mode = goMode(mode)
	e.Mode = e.Attr.Mode
	contents := func() io.Reader {
		whole := size
		if layout == layoutInline {
			whole = size &^ (blockSize - 1)
		}
		start := io.NewSectionReader(w.r, int64(addr)*blockSize, whole)
		if whole == size {
			return start
		}
		return io.MultiReader(start, io.NewSectionReader(w.r, at+inodeSize, size-whole))
	}
	switch mode & modeKind {
	case modeReg:
		e.Size, e.data = size, contents()
	case modeLink:
		e.Mode |= fs.ModeSymlink
		if size > maxTarget {
			return nil, nil, fmt.Errorf("%w: link %q", ErrFormat, p)
		}
		target, err := io.ReadAll(contents())
		if err != nil {
			return nil, nil, err
		}
		e.Target = string(target)
	case modeChar, modeBlock:
		if e.Mode |= fs.ModeDevice; mode&modeKind == modeChar {
			e.Mode |= fs.ModeCharDevice
		}
		e.Major, e.Minor = addr>>8&0xfff, addr&0xff|addr>>12&0xfff00
	case modeFifo:
		e.Mode |= fs.ModeNamedPipe
	case modeDir:
		e.Mode |= fs.ModeDir
		e.Size = size
		return e, contents(), nil
	default:
		return nil, nil, fmt.Errorf("%w: %q is of no kind", ErrFormat, p)
	}
	return e, nil, nil
}

// names calls each with what is in a directory, block by block.
func (w *image) names(p string, r io.Reader, size int64, each func(name string, nid uint64) error) error {
	le := binary.LittleEndian
	for ; size > 0; size -= blockSize {
		b := make([]byte, min(size, blockSize))
		if _, err := io.ReadFull(r, b); err != nil {
			return fmt.Errorf("%w: directory %q: %w", ErrFormat, p, err)
		}
		if len(b) < direntSize {
			return fmt.Errorf("%w: directory %q", ErrFormat, p)
		}
		n := int(le.Uint16(b[8:])) / direntSize
		if n == 0 || n*direntSize > len(b) {
			return fmt.Errorf("%w: directory %q", ErrFormat, p)
		}
		for i := range n {
			d := b[i*direntSize:]
			from, to := int(le.Uint16(d[8:])), len(b)
			if i+1 < n {
				to = int(le.Uint16(d[direntSize+8:]))
			}
			if from > to || to > len(b) {
				return fmt.Errorf("%w: directory %q", ErrFormat, p)
			}
			name := b[from:to]
			for i, c := range name {
				if c == 0 { // padding of a full block
					name = name[:i]
					break
				}
			}
			if s := string(name); s == "." || s == ".." {
				continue
			} else if checkPath(s) != nil {
				return fmt.Errorf("%w: a name in directory %q", ErrFormat, p)
			}
			if err := each(string(name), le.Uint64(d)); err != nil {
				return err
			}
		}
	}
	return nil
}

// goMode returns the twelve bits that chmod sets as an Attr has them.
func goMode(mode uint16) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	for bit, b := range map[uint16]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= b
		}
	}
	return m
}
