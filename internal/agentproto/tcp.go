package agentproto

// TCPConnect is core.tcp.connect: a connection from within the guest.
type TCPConnect struct {
	Host   string
	Port   uint16
	Window uint32 // of ours; see ExecRequest.Window
}

func (m *TCPConnect) fields(c *codec) {
	c.text("host", &m.Host, must)
	num(c, "port", &m.Port, must)
	num(c, "x_msb_window", &m.Window, skip)
}

// TCPFailed is core.tcp.failed: the connection was not made, or broke.
type TCPFailed struct{ Message string }

func (m *TCPFailed) fields(c *codec) { c.text("error", &m.Message, must) }
