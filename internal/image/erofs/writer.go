// Package erofs writes read-only file system images that gVisor's sentry maps and executes from and that Linux mounts.
//
// A [Writer] takes the entries of one tree in any order, streams the bytes of regular files to the image as they come,
// keeps only names and attributes in memory, and writes those when it is closed. [Publish] does all of it for a file.
//
// The images are a plain subset of the format (https://docs.kernel.org/filesystems/erofs.html), chosen by what gVisor reads:
//   - uncompressed, 4 KiB blocks, no incompatible feature, one device;
//   - no extended attributes: gVisor refuses an inode that has some;
//   - the data of a regular file begins on a block and is never inlined into its inode: gVisor cannot map inline data,
//     so it could not execute the file. Directories and symbolic links are inlined where they fit.
//
// Besides the file system an image has a list of its devices, which [Devices] reads.
//
// The same entries in the same order give the same bytes.
package erofs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"strings"
	"sync"
	"time"
)

// Attr is what every entry has besides its name and kind.
type Attr struct {
	Mode    fs.FileMode // permission, setuid, setgid and sticky bits; the kind comes from the method that adds the entry
	UID     uint32
	GID     uint32
	ModTime time.Time // the zero Time means the Unix epoch
}

// Unix returns the twelve bits of the mode that chmod sets, as it takes them.
func (a Attr) Unix() uint16 {
	u := uint16(a.Mode.Perm())
	if a.Mode&fs.ModeSetuid != 0 {
		u |= 0o4000
	}
	if a.Mode&fs.ModeSetgid != 0 {
		u |= 0o2000
	}
	if a.Mode&fs.ModeSticky != 0 {
		u |= 0o1000
	}
	return u
}

// Limits of the format and of Linux.
const (
	maxName   = 255
	maxTarget = 4095 // bytes of a symbolic link's target
)

// Errors that name what is wrong with an entry. They come wrapped in a *fs.PathError.
var (
	ErrName   = errors.New("not a name that a file can have")
	ErrParent = errors.New("a parent of the path is not a directory")
	ErrTarget = errors.New("not a target that a symbolic link can have")
	ErrIsDir  = errors.New("a directory cannot have a second name")
)

// Writer builds one image. It is for one goroutine. An entry that is added where there is one already replaces it, with all
// that was below it; a directory added over a directory changes its attributes and keeps its entries.
// Parents that were never added are directories of root with mode 0755 and the time zero.
type Writer struct {
	out       output
	root      *inode
	closed    bool
	reserving sync.Mutex // guards out while Streams reserve their places
}

// NewWriter returns a Writer whose image goes to out, which must be empty. Nothing is ever read back.
func NewWriter(out io.WriterAt) *Writer {
	return &Writer{
		// Block 0 is left for the superblock, which is known last.
		out:  output{w: out, off: blockSize, buf: make([]byte, 0, bufSize)},
		root: newDir(Attr{Mode: 0o755}),
	}
}

// Dir adds a directory. The path "." is the root.
func (w *Writer) Dir(path string, a Attr) error {
	if path == "." {
		w.root.setAttr(a)
		return nil
	}
	parent, name, err := w.parent(path)
	if err != nil {
		return pathErr("dir", path, err)
	}
	if old := parent.dir.entries[name]; old != nil && old.dir != nil {
		old.setAttr(a)
		return nil
	}
	parent.put(name, newDir(a))
	return nil
}

// File adds a regular file with the next size bytes of r. When r fails or ends early nothing is added.
func (w *Writer) File(path string, a Attr, size int64, r io.Reader) error {
	if size < 0 {
		return pathErr("file", path, fmt.Errorf("size %d", size))
	}
	parent, name, err := w.parent(path)
	if err != nil {
		return pathErr("file", path, err)
	}
	n := newInode(modeReg, a)
	n.size = uint64(size)
	if size > 0 {
		if n.addr, err = w.out.block(); err == nil {
			err = w.out.copy(r, size)
		}
		if err != nil {
			return pathErr("file", path, err)
		}
	}
	parent.put(name, n)
	return nil
}

// Symlink adds a symbolic link. Its mode is 0777 whatever a says.
func (w *Writer) Symlink(path, target string, a Attr) error {
	if target == "" || len(target) > maxTarget || strings.IndexByte(target, 0) >= 0 {
		return pathErr("symlink", path, ErrTarget)
	}
	parent, name, err := w.parent(path)
	if err != nil {
		return pathErr("symlink", path, err)
	}
	a.Mode = 0o777
	n := newInode(modeLink, a)
	n.target, n.size = target, uint64(len(target))
	parent.put(name, n)
	return nil
}

// Link gives the entry at old the second name path. A directory cannot have one.
func (w *Writer) Link(path, old string) error {
	n, err := w.lookup(old)
	if err != nil {
		return pathErr("link", old, err)
	}
	if n.dir != nil {
		return pathErr("link", old, ErrIsDir)
	}
	parent, name, err := w.parent(path)
	if err != nil {
		return pathErr("link", path, err)
	}
	if parent.dir.entries[name] == n {
		return nil
	}
	n.nlink++
	parent.put(name, n)
	return nil
}

// Device adds a character device, or a block device.
func (w *Writer) Device(path string, a Attr, char bool, major, minor uint32) error {
	mode := uint16(modeBlock)
	if char {
		mode = modeChar
	}
	if major > 0xfff || minor > 0xfffff {
		return pathErr("device", path, fmt.Errorf("no such device number: %d:%d", major, minor))
	}
	return w.special("device", path, mode, a, minor&0xff|major<<8|(minor&^0xff)<<12)
}

// Fifo adds a named pipe.
func (w *Writer) Fifo(path string, a Attr) error { return w.special("fifo", path, modeFifo, a, 0) }

func (w *Writer) special(op, path string, mode uint16, a Attr, dev uint32) error {
	parent, name, err := w.parent(path)
	if err != nil {
		return pathErr(op, path, err)
	}
	n := newInode(mode, a)
	n.addr = dev
	parent.put(name, n)
	return nil
}

// Remove takes away the entry at path and all below it. It is no error when there is none.
// The bytes of its files stay in the image, unreachable.
func (w *Writer) Remove(path string) error {
	n, err := w.lookup(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return pathErr("remove", path, err)
	}
	if n == w.root {
		n.dir.entries = map[string]*inode{}
		return nil
	}
	parent, name, err := w.parent(path)
	if err != nil {
		return pathErr("remove", path, err)
	}
	parent.put(name, nil)
	return nil
}

// Close writes what is left: directories, inodes and, last, the superblock. It does not close the output.
func (w *Writer) Close() error {
	if w.closed {
		return fs.ErrClosed
	}
	w.closed = true
	if err := w.finish(); err != nil {
		return fmt.Errorf("write erofs image: %w", err)
	}
	return nil
}

// parent returns the directory that holds path, made if need be, and path's last element.
func (w *Writer) parent(path string) (*inode, string, error) {
	if w.closed {
		return nil, "", fs.ErrClosed
	}
	if err := checkPath(path); err != nil || path == "." {
		return nil, "", ErrName
	}
	dir := w.root
	for {
		name, rest, more := strings.Cut(path, "/")
		if !more {
			return dir, name, nil
		}
		next := dir.dir.entries[name]
		if next == nil {
			next = newDir(Attr{Mode: 0o755})
			dir.put(name, next)
		}
		if next.dir == nil {
			return nil, "", ErrParent
		}
		dir, path = next, rest
	}
}

// lookup returns the entry at path, or an error that is fs.ErrNotExist.
func (w *Writer) lookup(path string) (*inode, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	n := w.root
	if path == "." {
		return n, nil
	}
	for name := range strings.SplitSeq(path, "/") {
		if n.dir == nil {
			return nil, fs.ErrNotExist
		}
		if n = n.dir.entries[name]; n == nil {
			return nil, fs.ErrNotExist
		}
	}
	return n, nil
}

// checkPath accepts "." and slash-separated names without a leading slash, an empty element, "." or "..".
func checkPath(path string) error {
	if path == "." {
		return nil
	}
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." || name == ".." || len(name) > maxName || strings.IndexByte(name, 0) >= 0 {
			return ErrName
		}
	}
	return nil
}

func pathErr(op, path string, err error) error {
	return &fs.PathError{Op: "erofs " + op, Path: path, Err: err}
}

// output appends to the image. The first error sticks.
type output struct {
	w   io.WriterAt
	off int64  // where buf goes
	buf []byte // what is not written yet
	err error
}

const (
	bufSize  = 1 << 20
	maxImage = math.MaxUint32 * blockSize
)

var errTooLarge = errors.New("an image cannot be larger than 16 TiB")

// pos returns where the next byte goes.
func (o *output) pos() int64 { return o.off + int64(len(o.buf)) }

// block pads to the next block and returns its address.
func (o *output) block() (uint32, error) {
	if err := o.zero(int(-o.pos() & (blockSize - 1))); err != nil {
		return 0, err
	}
	addr := o.pos() / blockSize
	if o.pos() >= maxImage {
		return 0, errTooLarge
	}
	return uint32(addr), nil
}

// copy appends size bytes of r. After an error of r the output is where it can go on: at some block.
func (o *output) copy(r io.Reader, size int64) error {
	for size > 0 {
		n := len(o.buf)
		if n == cap(o.buf) {
			if err := o.flush(); err != nil {
				return err
			}
			n = 0
		}
		chunk := o.buf[n:min(int64(cap(o.buf)), int64(n)+size)]
		got, err := io.ReadFull(r, chunk)
		o.buf = o.buf[:n+got]
		size -= int64(got)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return o.err
}

// write appends b.
func (o *output) write(b []byte) error {
	for len(b) > 0 && o.err == nil {
		if len(o.buf) == cap(o.buf) {
			_ = o.flush() // sticks
		}
		n := copy(o.buf[len(o.buf):cap(o.buf)], b)
		o.buf = o.buf[:len(o.buf)+n]
		b = b[n:]
	}
	return o.err
}

// zero appends n zero bytes, less than a block.
func (o *output) zero(n int) error { return o.write(zeros[:n]) }

var zeros [blockSize]byte

func (o *output) flush() error {
	if o.err == nil && len(o.buf) > 0 {
		_, o.err = o.w.WriteAt(o.buf, o.off)
		o.off += int64(len(o.buf))
		o.buf = o.buf[:0]
	}
	return o.err
}
