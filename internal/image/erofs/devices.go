package erofs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
)

// An image lists its devices, because gVisor's EROFS gives no device numbers, and a sentry's overlay takes a character device
// without numbers for a whiteout: a guest sees the devices that are made for it from the list. Devices at or below dev are not in
// it, for a guest has file systems of its own there; nor is the character device 0:0, which is a whiteout in every overlay.
//
// The list is in blocks of its own: for each name of a device the nid and the length of the path, as varints, and the path.
// Where it is stands in the first bytes of block 0, which the format leaves to boot loaders. An image that has no devices has
// zeros there, as had all images before there were lists.
const (
	listMagic = "msbdevs1"
	listHead  = len(listMagic) + 4 + 4 // magic, first block, bytes
)

// Bounds of the list.
const (
	maxDevices = 4096
	maxList    = maxDevices * (4096 + 2*binary.MaxVarintLen64) // bytes
)

// ErrDevices says that a tree has more devices than any system needs.
var ErrDevices = fmt.Errorf("more than %d devices outside of /dev", maxDevices)

// deviceList returns the list of a tree whose inodes are numbered and whose directories are sorted. It is nil when it is empty.
func (w *Writer) deviceList(inodes []*inode) ([]byte, error) {
	if !slices.ContainsFunc(inodes, (*inode).isListed) {
		return nil, nil
	}
	var list []byte
	count := 0
	var down func(p string, d *inode) error
	down = func(p string, d *inode) error {
		for _, e := range d.dir.sorted {
			switch {
			case e.name == "." || e.name == ".." || d == w.root && e.name == "dev":
			case e.node.dir != nil:
				if err := down(path.Join(p, e.name), e.node); err != nil {
					return err
				}
			case e.node.isListed():
				if count++; count > maxDevices {
					return ErrDevices
				}
				name := path.Join(p, e.name)
				list = binary.AppendUvarint(list, e.node.nid)
				list = binary.AppendUvarint(list, uint64(len(name)))
				list = append(list, name...)
			}
		}
		return nil
	}
	if err := down("", w.root); err != nil {
		return nil, err
	}
	if len(list) > maxList {
		return nil, ErrDevices
	}
	return list, nil
}

func (n *inode) isListed() bool {
	kind := n.mode & modeKind
	return kind == modeBlock || kind == modeChar && n.addr != 0
}

// writeList writes the list and returns what stands in block 0 of it.
func (w *Writer) writeList(list []byte) ([]byte, error) {
	if len(list) == 0 {
		return nil, nil
	}
	block, err := w.out.block()
	if err != nil {
		return nil, err
	}
	head := binary.LittleEndian.AppendUint32([]byte(listMagic), block)
	return binary.LittleEndian.AppendUint32(head, uint32(len(list))), w.out.write(list)
}

// Devices returns the devices that a guest does not see by itself, in the order of their names: all but those at and below dev. When
// there are none it reads a few bytes.
func Devices(r io.ReaderAt) ([]*Entry, error) {
	head := make([]byte, listHead)
	if _, err := r.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if !bytes.HasPrefix(head, []byte(listMagic)) {
		return nil, nil
	}
	img, err := open(r)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	at, size := int64(le.Uint32(head[len(listMagic):]))*blockSize, le.Uint32(head[len(listMagic)+4:])
	if size > maxList {
		return nil, fmt.Errorf("%w: a list of %d bytes", ErrFormat, size)
	}
	list := make([]byte, size)
	if _, err := r.ReadAt(list, at); err != nil {
		return nil, fmt.Errorf("%w: the list of devices: %w", ErrFormat, err)
	}
	var devices []*Entry
	for in := bytes.NewReader(list); in.Len() > 0; {
		e, err := img.listed(in)
		if err != nil {
			return nil, fmt.Errorf("%w: the list of devices: %w", ErrFormat, err)
		}
		if devices = append(devices, e); len(devices) > maxDevices {
			return nil, fmt.Errorf("%w: the list of devices is longer than %d", ErrFormat, maxDevices)
		}
	}
	return devices, nil
}

// listed reads one entry of the list.
func (w *image) listed(in *bytes.Reader) (*Entry, error) {
	nid, err := binary.ReadUvarint(in)
	if err != nil {
		return nil, err
	}
	size, err := binary.ReadUvarint(in)
	if err != nil || size > uint64(in.Len()) {
		return nil, errors.Join(err, io.ErrUnexpectedEOF)
	}
	name := make([]byte, size)
	if _, err := io.ReadFull(in, name); err != nil {
		return nil, err
	}
	p := string(name)
	if p == "." || checkPath(p) != nil {
		return nil, fmt.Errorf("no path: %q", p)
	}
	e, _, err := w.entry(p, nid)
	if err == nil && e.Mode&fs.ModeDevice == 0 {
		err = fmt.Errorf("%q is no device", p)
	}
	return e, err
}
