package erofs

import (
	"slices"
	"strings"
)

// finish lays out and writes everything but the data of regular files, which is there already:
// the list of devices, the blocks of directories, the table of inodes with what is inline in it, the superblock.
func (w *Writer) finish() error {
	inodes := w.order()
	end := number(inodes)
	list, err := w.deviceList(inodes)
	if err != nil {
		return err
	}
	head, err := w.writeList(list)
	if err != nil {
		return err
	}
	for _, n := range inodes {
		if err := w.writeBlocks(n); err != nil {
			return err
		}
	}
	table, err := w.out.block()
	if err != nil {
		return err
	}
	start := w.out.pos()
	var buf []byte
	for _, n := range inodes {
		if err := w.out.zero(int(start + int64(n.nid)<<slotBits - w.out.pos())); err != nil {
			return err
		}
		buf = appendInode(buf[:0], n)
		if err := w.out.write(buf); err != nil {
			return err
		}
	}
	if err := w.out.zero(int(start + end - w.out.pos())); err != nil {
		return err
	}
	blocks, err := w.out.block()
	if err != nil {
		return err
	}
	if err := w.out.flush(); err != nil {
		return err
	}
	first := superblock(table, blocks, len(inodes))
	copy(first, head)
	_, err = w.out.w.WriteAt(first, 0)
	return err
}

// order returns every inode once, directory by directory, so that those that are looked up and listed together share pages.
// It sorts the entries of the directories and sets their sizes.
func (w *Writer) order() []*inode {
	inodes := []*inode{w.root}
	w.root.number = 1
	for i := 0; i < len(inodes); i++ {
		d := inodes[i]
		if d.dir == nil {
			continue
		}
		list := make([]dirent, 0, len(d.dir.entries)+2)
		list = append(list, dirent{".", d}, dirent{"..", d.dir.parent})
		for name, n := range d.dir.entries {
			list = append(list, dirent{name, n})
		}
		d.dir.entries = nil
		slices.SortFunc(list, func(a, b dirent) int { return strings.Compare(a.name, b.name) })
		d.dir.sorted = list
		for rest := list; len(rest) > 0; {
			n, bytes := fitDirents(rest)
			if rest = rest[n:]; len(rest) > 0 {
				bytes = blockSize
			}
			d.size += uint64(bytes)
		}
		for _, e := range list {
			if e.node.number == 0 {
				inodes = append(inodes, e.node)
				e.node.number = uint32(len(inodes))
			}
		}
	}
	return inodes
}

// number gives every inode its place in the table, and returns the length of the table.
// Neither an inode nor what is inline behind it crosses the end of a block.
func number(inodes []*inode) int64 {
	var off int64 = rootNid << slotBits
	for _, n := range inodes {
		size := int64(inodeSize + inlineSize(n))
		if room := blockSize - off%blockSize; size > room {
			off += room
		}
		n.nid = uint64(off >> slotBits)
		off = (off + size + slotSize - 1) &^ (slotSize - 1)
	}
	return off
}

// writeBlocks writes the part of a directory or a link that is not inline, and gives the inode its address.
// Of a directory it keeps in sorted the entries that are inline.
func (w *Writer) writeBlocks(n *inode) error {
	plain := int64(n.size) - int64(inlineSize(n))
	if n.dir == nil && n.target == "" || plain == 0 {
		return nil
	}
	addr, err := w.out.block()
	if err != nil {
		return err
	}
	n.addr = addr
	if n.dir == nil {
		return w.out.write([]byte(n.target))
	}
	var buf []byte
	for ; plain > 0; plain -= blockSize {
		if _, err := w.out.block(); err != nil {
			return err
		}
		take, _ := fitDirents(n.dir.sorted)
		buf = appendDirents(buf[:0], n.dir.sorted[:take])
		n.dir.sorted = n.dir.sorted[take:]
		if err := w.out.write(buf); err != nil {
			return err
		}
	}
	return nil
}
