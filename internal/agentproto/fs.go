package agentproto

import "io/fs"

// FSRequest is core.fs.request.
type FSRequest struct {
	Op     FSOp
	Window uint32 // of ours; see ExecRequest.Window
}

func (m *FSRequest) fields(c *codec) {
	c.object("op", &m.Op, must)
	num(c, "x_msb_window", &m.Window, skip)
}

// The operations of FSOp.
const (
	OpRealPath    = "RealPath"
	OpStat        = "Stat"
	OpSetStat     = "SetStat"
	OpList        = "List"
	OpReadLink    = "ReadLink"
	OpSymlink     = "Symlink"
	OpMkdir       = "Mkdir"
	OpRemove      = "Remove"
	OpRemoveDir   = "RemoveDir"
	OpCopy        = "Copy"
	OpRename      = "Rename"
	OpOpenFile    = "OpenFile"
	OpOpenDir     = "OpenDir"
	OpCloseHandle = "CloseHandle"
	OpRead        = "Read"
	OpWrite       = "Write"
	OpReadDir     = "ReadDir"
	OpFStat       = "FStat"
	OpFSetStat    = "FSetStat"
)

// ReadDirLimit is how many entries ReadDir returns when it is not told.
const ReadDirLimit = 128

// FSOp is one operation on the guest's file system. Which fields count depends on Op: fsArgs.fields lists them.
type FSOp struct {
	Op string
	FSArgs
}

// FSArgs are the arguments of all operations together.
type FSArgs struct {
	Path          string
	Target        string // of Symlink; what the link says
	LinkPath      string // of Symlink; where the link is
	Src, Dst      string
	FollowSymlink bool
	Recursive     bool
	Mode          *uint32 // of Mkdir
	Attrs         FileAttrs
	Options       OpenOptions
	Handle        uint64
	Offset        uint64
	Len           *uint64 // of Read: nil is up to the end of the file; of Write: what is to come, if known
	Limit         uint32  // of ReadDir; 0 is ReadDirLimit
}

func (m *FSOp) fields(c *codec) {
	args := fsArgs{m.Op, &m.FSArgs}
	if !c.dec {
		c.object(m.Op, args, must)
		return
	}
	if len(c.in) != 1 {
		c.fail(malformed("want one operation, have %d", len(c.in)))
		return
	}
	m.Op = string(c.in[0].key)
	args.op = m.Op
	c.object(m.Op, args, must)
}

type fsArgs struct {
	op string
	*FSArgs
}

func (m fsArgs) fields(c *codec) {
	switch m.op {
	case OpRealPath, OpList, OpReadLink, OpRemove, OpOpenDir:
		c.text("path", &m.Path, must)
	case OpStat:
		c.text("path", &m.Path, must)
		c.boolean("follow_symlink", &m.FollowSymlink, dflt)
	case OpSetStat:
		c.text("path", &m.Path, must)
		c.boolean("follow_symlink", &m.FollowSymlink, dflt)
		c.object("attrs", &m.Attrs, must)
	case OpSymlink:
		c.text("target", &m.Target, must)
		c.text("link_path", &m.LinkPath, must)
	case OpMkdir:
		c.text("path", &m.Path, must)
		optNum(c, "mode", &m.Mode, skip)
	case OpRemoveDir:
		c.text("path", &m.Path, must)
		c.boolean("recursive", &m.Recursive, dflt)
	case OpCopy, OpRename:
		c.text("src", &m.Src, must)
		c.text("dst", &m.Dst, must)
	case OpOpenFile:
		c.text("path", &m.Path, must)
		c.object("options", &m.Options, must)
	case OpCloseHandle, OpFStat:
		num(c, "handle", &m.Handle, must)
	case OpRead, OpWrite:
		num(c, "handle", &m.Handle, must)
		num(c, "offset", &m.Offset, dflt)
		optNum(c, "len", &m.Len, null)
	case OpReadDir:
		if m.Limit == 0 {
			m.Limit = ReadDirLimit
		}
		num(c, "handle", &m.Handle, must)
		num(c, "limit", &m.Limit, dflt)
	case OpFSetStat:
		num(c, "handle", &m.Handle, must)
		c.object("attrs", &m.Attrs, must)
	default:
		c.fail(malformed("unknown file operation %q", m.op))
	}
}

// FileAttrs are the attributes to change; nil ones stay. Times are seconds since 1970.
type FileAttrs struct {
	Mode  *uint32
	UID   *uint32
	GID   *uint32
	Size  *uint64
	ATime *int64
	MTime *int64
}

func (m *FileAttrs) fields(c *codec) {
	optNum(c, "mode", &m.Mode, skip)
	optNum(c, "uid", &m.UID, skip)
	optNum(c, "gid", &m.GID, skip)
	optNum(c, "size", &m.Size, skip)
	optNum(c, "atime", &m.ATime, skip)
	optNum(c, "mtime", &m.MTime, skip)
}

// OpenOptions say how a file is opened.
type OpenOptions struct {
	Read, Write, Append, Create, Truncate, CreateNew bool
	Mode                                             *uint32 // of a new file; nil is 0o666 less the umask
}

func (m *OpenOptions) fields(c *codec) {
	c.boolean("read", &m.Read, dflt)
	c.boolean("write", &m.Write, dflt)
	c.boolean("append", &m.Append, dflt)
	c.boolean("create", &m.Create, dflt)
	c.boolean("truncate", &m.Truncate, dflt)
	c.boolean("create_new", &m.CreateNew, dflt)
	optNum(c, "mode", &m.Mode, skip)
}

// The kinds of files.
const (
	KindFile    = "file"
	KindDir     = "dir"
	KindSymlink = "symlink"
	KindOther   = "other"
)

// FileInfo is what is known of a file. Mode is st_mode, type included; times are seconds since 1970.
type FileInfo struct {
	Path     string
	Kind     string
	Size     uint64
	Mode     uint32
	Modified *int64
	UID      uint32
	GID      uint32
	ATime    *int64
	MTime    *int64
}

func (m *FileInfo) fields(c *codec) {
	c.text("path", &m.Path, must)
	c.text("kind", &m.Kind, must)
	num(c, "size", &m.Size, must)
	num(c, "mode", &m.Mode, must)
	optNum(c, "modified", &m.Modified, skip)
	num(c, "uid", &m.UID, dflt)
	num(c, "gid", &m.GID, dflt)
	optNum(c, "atime", &m.ATime, skip)
	optNum(c, "mtime", &m.MTime, skip)
}

// FileMode is Mode as Go has it.
func (m *FileInfo) FileMode() fs.FileMode {
	mode := fs.FileMode(m.Mode & 0o777)
	for _, b := range [...]struct {
		bit uint32
		to  fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if m.Mode&b.bit != 0 {
			mode |= b.to
		}
	}
	switch m.Mode & 0o170000 {
	case 0o040000:
		mode |= fs.ModeDir
	case 0o120000:
		mode |= fs.ModeSymlink
	case 0o020000:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case 0o060000:
		mode |= fs.ModeDevice
	case 0o010000:
		mode |= fs.ModeNamedPipe
	case 0o140000:
		mode |= fs.ModeSocket
	}
	return mode
}

// FSResponse is core.fs.response.
type FSResponse struct {
	OK    bool
	Error string
	Data  *FSResult
}

func (m *FSResponse) fields(c *codec) {
	c.boolean("ok", &m.OK, must)
	c.text("error", &m.Error, null)
	optObject(c, "data", &m.Data, null)
}

// FSResult is what an operation returned: exactly one of its fields. An empty List is not nil.
type FSResult struct {
	Stat   *FileInfo
	List   []FileInfo
	Handle *uint64
	Path   *string
}

func (m *FSResult) fields(c *codec) {
	optObject(c, "Stat", &m.Stat, skip)
	objects(c, "List", &m.List, skip)
	optNum(c, "Handle", &m.Handle, skip)
	c.optText("Path", &m.Path, skip)
	if c.dec && (len(c.in) != 1 || m.Stat == nil && m.List == nil && m.Handle == nil && m.Path == nil) {
		c.fail(malformed("want one result that is known"))
	}
}
