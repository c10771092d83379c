package erofs

// inode is one file, however many names it has. Many are in memory at once, so it holds what is written and no more.
type inode struct {
	mode   uint16 // with the kind
	uid    uint32
	gid    uint32
	nlink  uint32
	nsec   uint32
	sec    int64
	size   uint64
	addr   uint32 // first block of the data that is not inline, or the device number
	number uint32 // 1, 2, … in the order written; 0 before
	nid    uint64 // place in the inode table, in slots
	target string // of a symbolic link
	dir    *dir   // of a directory
}

// dir is what only a directory has.
type dir struct {
	entries map[string]*inode
	parent  *inode
	sorted  []dirent // set when the tree is complete, in the order of the bytes of the names, with "." and ".."
}

type dirent struct {
	name string
	node *inode
}

// Kinds of inodes, as in stat(2).
const (
	modeKind  = 0o170000
	modeFifo  = 0o010000
	modeChar  = 0o020000
	modeDir   = 0o040000
	modeBlock = 0o060000
	modeReg   = 0o100000
	modeLink  = 0o120000
)

func newInode(kind uint16, a Attr) *inode {
	n := &inode{mode: kind, nlink: 1}
	n.setAttr(a)
	return n
}

func newDir(a Attr) *inode {
	n := newInode(modeDir, a)
	n.nlink = 2 // its name and its "."
	n.dir = &dir{entries: map[string]*inode{}}
	n.dir.parent = n
	return n
}

func (n *inode) setAttr(a Attr) {
	n.mode = n.mode&modeKind | a.Unix()
	n.uid, n.gid = a.UID, a.GID
	n.sec, n.nsec = 0, 0
	if !a.ModTime.IsZero() {
		n.sec, n.nsec = a.ModTime.Unix(), uint32(a.ModTime.Nanosecond())
	}
}

// put sets the entry name of directory d, or removes it when n is nil, and keeps the link counts right.
func (d *inode) put(name string, n *inode) {
	if old := d.dir.entries[name]; old != nil {
		d.unlink(old)
	}
	if n == nil {
		delete(d.dir.entries, name)
		return
	}
	d.dir.entries[name] = n
	if n.dir != nil {
		n.dir.parent = d
		d.nlink++ // the ".." of n
	}
}

// unlink accounts for one name less of child, an entry of d.
func (d *inode) unlink(child *inode) {
	child.nlink--
	if child.dir == nil {
		return
	}
	d.nlink--
	// Files below may have names elsewhere. The stack is ours, not the goroutine's: the depth is the archive's to choose.
	for stack := []*inode{child}; len(stack) > 0; {
		top := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for _, c := range top.dir.entries {
			if c.dir != nil {
				stack = append(stack, c)
			} else {
				c.nlink--
			}
		}
	}
}
