package erofs

import (
	"encoding/binary"
	"hash/crc32"
)

// The on-disk format, as far as it is used. All numbers are little endian.
const (
	blockBits = 12
	blockSize = 1 << blockBits
	slotBits  = 5 // inodes are numbered by 32-byte slots from the start of the table
	slotSize  = 1 << slotBits

	superOffset  = 1024
	superSize    = 128
	superMagic   = 0xe0f5e1e2
	featChecksum = 1 << 0 // compatible: the superblock carries a CRC-32C
	featMtime    = 1 << 1 // compatible: the time of an inode is its mtime

	inodeSize    = 64 // of an extended inode, the only kind written: a compact one has no mtime and short numbers
	layoutPlain  = 0<<1 | 1
	layoutInline = 2<<1 | 1 // whole blocks as in layoutPlain, then the rest right behind the inode
	maxInline    = blockSize - inodeSize
	direntSize   = 12
	rootNid      = 2 // not 0: some programs take the inode number 0 for a deleted entry
)

// superblock returns block 0. The table of inodes begins at block table, and the image is blocks long.
func superblock(table, blocks uint32, inodes int) []byte {
	b := make([]byte, blockSize)
	s := b[superOffset:]
	le := binary.LittleEndian
	le.PutUint32(s[0:], superMagic)
	le.PutUint32(s[8:], featChecksum|featMtime)
	s[12] = blockBits
	le.PutUint16(s[14:], rootNid)
	le.PutUint64(s[16:], uint64(inodes))
	le.PutUint32(s[36:], blocks)
	le.PutUint32(s[40:], table)
	// The checksum is of the block from the superblock on, with its own field zero and without the last inversion.
	le.PutUint32(s[4:], ^crc32.Checksum(s, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// appendInode appends the inode and what is inline behind it.
func appendInode(b []byte, n *inode) []byte {
	tail := inlineSize(n)
	layout := uint16(layoutPlain)
	if tail > 0 {
		layout = layoutInline
	}
	le := binary.LittleEndian
	b = le.AppendUint16(b, layout)
	b = le.AppendUint16(b, 0) // no extended attributes
	b = le.AppendUint16(b, n.mode)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, n.size)
	b = le.AppendUint32(b, n.addr)
	b = le.AppendUint32(b, n.number)
	b = le.AppendUint32(b, n.uid)
	b = le.AppendUint32(b, n.gid)
	b = le.AppendUint64(b, uint64(n.sec))
	b = le.AppendUint32(b, n.nsec)
	b = le.AppendUint32(b, n.nlink)
	b = append(b, zeros[:16]...)
	switch {
	case tail == 0:
	case n.dir != nil:
		b = appendDirents(b, n.dir.sorted)
	default:
		b = append(b, n.target...)
	}
	return b
}

// appendDirents appends one block of directory entries, or the part of it that is used: all heads, then all names.
func appendDirents(b []byte, entries []dirent) []byte {
	le := binary.LittleEndian
	nameOff := len(entries) * direntSize
	for _, e := range entries {
		b = le.AppendUint64(b, e.node.nid)
		b = le.AppendUint16(b, uint16(nameOff))
		b = append(b, fileType(e.node.mode), 0)
		nameOff += len(e.name)
	}
	for _, e := range entries {
		b = append(b, e.name...)
	}
	return b
}

// fitDirents returns how many of the entries go into one block, and how many bytes they take.
func fitDirents(entries []dirent) (n, bytes int) {
	for _, e := range entries {
		next := bytes + direntSize + len(e.name)
		if next > blockSize {
			break
		}
		n, bytes = n+1, next
	}
	return n, bytes
}

// inlineSize returns how many bytes of n stand right behind its inode. They must not cross the end of a block.
func inlineSize(n *inode) int {
	tail := 0
	switch {
	case n.dir != nil:
		tail = int(n.size % blockSize)
	case n.target != "":
		tail = len(n.target) // all of it or nothing
	}
	if tail > maxInline {
		return 0
	}
	return tail
}

// fileType is the kind as a directory entry has it.
func fileType(mode uint16) byte {
	switch mode & modeKind {
	case modeReg:
		return 1
	case modeDir:
		return 2
	case modeChar:
		return 3
	case modeBlock:
		return 4
	case modeFifo:
		return 5
	default:
		return 7 // a symbolic link
	}
}
