package agentproto

// MaxSmall is how large a file is at most that FSPut and FSGet carry whole, in bytes.
const MaxSmall = 64 << 10

// FSPut is x.msb.fs.put: make a file of these bytes, with exactly that mode. What is no directory and no device at Path is replaced at
// once, by a rename of Temp; otherwise no more than one file of that name is ever seen. The answer is core.fs.response.
type FSPut struct {
	Path string
	Temp string // in the same directory; used where Path is taken
	Mode uint32 // permission bits
	Data []byte // at most MaxSmall
}

func (m *FSPut) fields(c *codec) {
	c.text("path", &m.Path, must)
	c.text("temp", &m.Temp, must)
	num(c, "mode", &m.Mode, must)
	c.bytes("data", &m.Data, must)
}

// FSGet is x.msb.fs.get: read a regular file, which is not gone to through a link. The answer is x.msb.fs.got, or core.fs.response with
// an error.
type FSGet struct{ Path string }

func (m *FSGet) fields(c *codec) { c.text("path", &m.Path, must) }

// FSGot is x.msb.fs.got: the whole file, or a handle to read one from that has more than MaxSmall.
type FSGot struct {
	Stat   FileInfo
	Data   []byte
	Handle *uint64 // to be closed by the client
}

func (m *FSGot) fields(c *codec) {
	c.object("stat", &m.Stat, must)
	c.bytes("data", &m.Data, skip)
	optNum(c, "handle", &m.Handle, skip)
}
