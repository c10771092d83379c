package agentproto

// None is the payload without keys: core.ping, core.shutdown, core.init.ack, core.tcp.eof and others.
type None struct{}

func (*None) fields(*codec) {}

// Ready is core.ready, sent once by an agent that takes requests. Times are nanoseconds: Boot from the start of the
// kernel to the start of the agent, Init from there until the bootstrap was applied, Ready the whole.
type Ready struct {
	BootTimeNS   uint64
	InitTimeNS   uint64
	ReadyTimeNS  uint64
	AgentVersion string
	Types        []Type // of ours (x.msb.…) that the agent knows
}

func (m *Ready) fields(c *codec) {
	num(c, "boot_time_ns", &m.BootTimeNS, dflt)
	num(c, "init_time_ns", &m.InitTimeNS, dflt)
	num(c, "ready_time_ns", &m.ReadyTimeNS, dflt)
	c.text("agent_version", &m.AgentVersion, skip)
	var x *extensions
	if m.Types != nil {
		x = &extensions{m.Types}
	}
	optObject(c, "x_msb", &x, skip)
	if x != nil {
		m.Types = x.types
	}
}

// Has reports whether the agent knows one of our own types.
func (m *Ready) Has(t Type) bool {
	for _, have := range m.Types {
		if have == t {
			return true
		}
	}
	return false
}

type extensions struct{ types []Type }

func (x *extensions) fields(c *codec) {
	all := make([]string, len(x.types))
	for i, t := range x.types {
		all[i] = string(t)
	}
	c.texts("types", &all, dflt)
	if c.dec {
		x.types = make([]Type, len(all))
		for i, t := range all {
			x.types[i] = Type(t)
		}
	}
}

// InitResolved is core.init.resolved: the user that commands run as by default.
type InitResolved struct{ DefaultUser UserID }

func (m *InitResolved) fields(c *codec) { c.object("default_user", &m.DefaultUser, must) }

// UserID is a user by numbers.
type UserID struct{ UID, GID uint32 }

func (m *UserID) fields(c *codec) {
	num(c, "uid", &m.UID, must)
	num(c, "gid", &m.GID, must)
}

// ClientDisconnected is core.relay.client.disconnected: the client with this range of ids is gone.
type ClientDisconnected struct{ IDStart, IDEnd uint32 }

func (m *ClientDisconnected) fields(c *codec) {
	num(c, "id_start", &m.IDStart, must)
	num(c, "id_end_exclusive", &m.IDEnd, must)
}

// ClockSync is core.clock.sync.
type ClockSync struct{ UnixTimeNanos uint64 }

func (m *ClockSync) fields(c *codec) { num(c, "unix_time_nanos", &m.UnixTimeNanos, must) }

// Touched is core.touched: how many messages counted as activity so far.
type Touched struct{ ActivitySeq uint64 }

func (m *Touched) fields(c *codec) { num(c, "activity_seq", &m.ActivitySeq, must) }

// Ack is x.msb.ack: bytes of the session's data that were consumed since the last one.
type Ack struct{ Bytes uint64 }

func (m *Ack) fields(c *codec) { num(c, "bytes", &m.Bytes, must) }

// ErrorKind says what was wrong with a frame.
type ErrorKind string

// The kinds of core.error.
const (
	MalformedMessage      ErrorKind = "malformed_message"
	UnsupportedType       ErrorKind = "unsupported_message_type"
	UnsupportedGeneration ErrorKind = "unsupported_protocol_generation"
	InvalidFlags          ErrorKind = "invalid_flags"
	InvalidPayload        ErrorKind = "invalid_payload"
	InvalidSession        ErrorKind = "invalid_session" // also of a guest that is ShuttingDown
)

// ShuttingDown is the message of an InvalidSession from a guest that takes no more of them, because it was asked to shut down.
const ShuttingDown = "the guest is shutting down"

// Error is core.error: the agent did not understand a frame. It ends the session with the frame's id.
type Error struct {
	Kind          ErrorKind
	Message       string
	OffendingType string
}

func (m *Error) fields(c *codec) {
	c.text("kind", (*string)(&m.Kind), must)
	c.text("message", &m.Message, must)
	c.text("offending_type", &m.OffendingType, skip)
}

// Error makes the message usable as an error.
func (m *Error) Error() string {
	s := "agent refused a message: " + string(m.Kind) + ": " + m.Message
	if m.OffendingType != "" {
		s += " (" + m.OffendingType + ")"
	}
	return s
}
