package agentproto

// ExecRequest is core.exec.request. The zero Rows and Cols are 24 and 80.
type ExecRequest struct {
	Cmd     string
	Args    []string
	Env     []string // K=V, over the guest's own
	Cwd     string   // "" is the guest's default
	User    string   // NAME|UID[:GROUP|GID]; "" is the guest's default
	TTY     bool
	Rows    uint16
	Cols    uint16
	Rlimits []Rlimit
	// Window, of ours, bounds how many bytes of the session's data may be under way in either direction before the
	// receiver acknowledges them with x.msb.ack; 0 is without bound and without acknowledgements.
	Window uint32
	// Linger, of ours, ends the session when its command has ended and, for so many milliseconds, nothing was printed by those it left
	// behind with its output. They may go on, and are not heard. 0 waits until nobody has it.
	Linger uint32
}

func (m *ExecRequest) fields(c *codec) {
	if m.Rows == 0 {
		m.Rows = 24
	}
	if m.Cols == 0 {
		m.Cols = 80
	}
	c.text("cmd", &m.Cmd, must)
	c.texts("args", &m.Args, dflt)
	c.texts("env", &m.Env, dflt)
	c.text("cwd", &m.Cwd, null)
	c.text("user", &m.User, null)
	c.boolean("tty", &m.TTY, dflt)
	num(c, "rows", &m.Rows, dflt)
	num(c, "cols", &m.Cols, dflt)
	objects(c, "rlimits", &m.Rlimits, dflt)
	num(c, "x_msb_window", &m.Window, skip)
	num(c, "x_msb_linger", &m.Linger, skip)
}

// Rlimit is a resource limit by its name in lower case, without RLIMIT_ (contract msb-0.6 §1.4).
type Rlimit struct {
	Resource string
	Soft     uint64
	Hard     uint64
}

func (m *Rlimit) fields(c *codec) {
	c.text("resource", &m.Resource, must)
	num(c, "soft", &m.Soft, must)
	num(c, "hard", &m.Hard, must)
}

// ExecStarted is core.exec.started: the command's exec succeeded.
type ExecStarted struct{ PID uint32 }

func (m *ExecStarted) fields(c *codec) { num(c, "pid", &m.PID, must) }

// ExecExited is core.exec.exited, after the last byte of output. Code is -1 for a command that a signal killed; which one
// it was only an agent of ours says.
type ExecExited struct {
	Code   int32
	Signal int32 // of ours: 0 if none, or if the agent does not say
}

func (m *ExecExited) fields(c *codec) {
	num(c, "code", &m.Code, must)
	num(c, "x_msb_signal", &m.Signal, skip)
}

// ExecResize is core.exec.resize.
type ExecResize struct{ Rows, Cols uint16 }

func (m *ExecResize) fields(c *codec) {
	num(c, "rows", &m.Rows, must)
	num(c, "cols", &m.Cols, must)
}

// ExecSignal is core.exec.signal: a signal for the command's process group.
type ExecSignal struct{ Signal int32 }

func (m *ExecSignal) fields(c *codec) { num(c, "signal", &m.Signal, must) }

// FailureKind says why a command did not start.
type FailureKind string

// The kinds of core.exec.failed.
const (
	FailNotFound         FailureKind = "not_found"
	FailPermissionDenied FailureKind = "permission_denied"
	FailNotExecutable    FailureKind = "not_executable"
	FailBadCwd           FailureKind = "bad_cwd"
	FailBadArgs          FailureKind = "bad_args"
	FailResourceLimit    FailureKind = "resource_limit"
	FailUserSetup        FailureKind = "user_setup_failed"
	FailOutOfMemory      FailureKind = "out_of_memory"
	FailPTYSetup         FailureKind = "pty_setup_failed"
	FailOther            FailureKind = "other"
)

// ExecFailed is core.exec.failed: the command did not start. Errno is 0 where no system call failed.
type ExecFailed struct {
	Kind      FailureKind
	Errno     int32
	ErrnoName string
	Message   string
	Stage     string
}

func (m *ExecFailed) fields(c *codec) {
	c.text("kind", (*string)(&m.Kind), must)
	num(c, "errno", &m.Errno, skip)
	c.text("errno_name", &m.ErrnoName, skip)
	c.text("message", &m.Message, must)
	c.text("stage", &m.Stage, skip)
}

// Error is the failure's message.
func (m *ExecFailed) Error() string { return m.Message }

// ExecStdinError is core.exec.stdin.error: the command no longer reads its input. The session goes on.
type ExecStdinError struct {
	Errno     int32
	ErrnoName string
	Message   string
}

func (m *ExecStdinError) fields(c *codec) {
	num(c, "errno", &m.Errno, skip)
	c.text("errno_name", &m.ErrnoName, skip)
	c.text("message", &m.Message, must)
}

// Error is the failure's message.
func (m *ExecStdinError) Error() string { return m.Message }
