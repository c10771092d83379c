package agentproto

// KernelRun is x.msb.kernel.run: a cell, which is some code for a session of an interpreter. A session begins with its first cell
// and lives until it is closed, whoever of its clients leaves; its cells run one after the other. The answer is
// x.msb.kernel.started when the cell's turn has come, then what it prints and shows, then x.msb.kernel.done; or
// x.msb.kernel.failed.
type KernelRun struct {
	Language string // python, node or bash
	Session  string // "" is DefaultSession
	Code     string // at most MaxCell
	// TimeoutMS bounds the cell, from its start, in milliseconds; 0 does not. The cell is interrupted, and if it does not
	// heed that, the interpreter is killed.
	TimeoutMS uint64
	Echo      Echo   // "" is EchoLast
	MaxOutput uint64 // bytes of output and results that are sent, at most; 0 is DefaultOutput
	// These are the session's if the cell begins it, as in ExecRequest.
	Env  []string
	Cwd  string
	User string
	// Window is as in ExecRequest.
	Window uint32
}

// DefaultSession is the session of those who name none.
const DefaultSession = "default"

// Bounds of cells. The agent refuses what is over them.
const (
	MaxCell       = 1 << 20  // bytes of code
	MaxSession    = 64       // bytes of a session's name
	DefaultOutput = 10 << 20 // bytes of output
)

// Echo says which values of a cell's bare expressions are shown.
type Echo string

// The kinds of Echo. Node.js and EchoAll are as EchoLast; bash shows none.
const (
	EchoLast Echo = "last" // the last one's, if it ends the cell
	EchoAll  Echo = "all"  // each at the top level
	EchoNone Echo = "none"
)

func (m *KernelRun) fields(c *codec) {
	c.text("language", &m.Language, must)
	c.text("session", &m.Session, skip)
	c.text("code", &m.Code, must)
	num(c, "timeout_ms", &m.TimeoutMS, skip)
	c.text("echo", (*string)(&m.Echo), skip)
	num(c, "max_output", &m.MaxOutput, skip)
	c.texts("env", &m.Env, skip)
	c.text("cwd", &m.Cwd, skip)
	c.text("user", &m.User, skip)
	num(c, "window", &m.Window, skip)
}

// KernelStarted is x.msb.kernel.started: the cell runs now.
type KernelStarted struct {
	Cell  uint32 // its number in the session, from 1
	Fresh bool   // by an interpreter that has run no other: nothing of earlier cells is there
}

func (m *KernelStarted) fields(c *codec) {
	num(c, "cell", &m.Cell, must)
	c.boolean("fresh", &m.Fresh, skip)
}

// KernelResult is x.msb.kernel.result: a piece of a value that is shown. A value has one or more forms, each of a MIME type;
// pieces with the type of the one before continue that form.
type KernelResult struct {
	MIME string
	Data []byte
	More bool // pieces of the same value follow
}

func (m *KernelResult) fields(c *codec) {
	c.text("mime", &m.MIME, must)
	c.bytes("data", &m.Data, must)
	c.boolean("more", &m.More, skip)
}

// KernelStatus says how a cell ended.
type KernelStatus string

// The statuses.
const (
	KernelOK          KernelStatus = "ok"
	KernelError       KernelStatus = "error"       // it threw
	KernelExit        KernelStatus = "exit"        // it asked to exit: sys.exit, process.exit, exit
	KernelTimeout     KernelStatus = "timeout"     // KernelRun.TimeoutMS was over
	KernelInterrupted KernelStatus = "interrupted" // somebody asked for that
	KernelDied        KernelStatus = "died"        // the interpreter's process ended otherwise
)

// KernelDone is x.msb.kernel.done, after the last byte of output.
type KernelDone struct {
	Status     KernelStatus
	Code       int32  // as a process would exit: 0 for a cell that ended well, else what it exited with, or 1; -1 for a signal
	Signal     int32  // that ended the interpreter; 0 if none did
	ErrorName  string // KernelError: what it threw, e.g. "ZeroDivisionError"
	ErrorValue string // KernelError: what that says
	StateLost  bool   // the interpreter's process is gone, with all that cells had left there; the next cell begins a fresh one
	Dropped    uint64 // bytes of output and results beyond KernelRun.MaxOutput, which were not sent
}

func (m *KernelDone) fields(c *codec) {
	c.text("status", (*string)(&m.Status), must)
	num(c, "code", &m.Code, must)
	num(c, "signal", &m.Signal, skip)
	c.text("error_name", &m.ErrorName, skip)
	c.text("error_value", &m.ErrorValue, skip)
	c.boolean("state_lost", &m.StateLost, skip)
	num(c, "dropped", &m.Dropped, skip)
}

// KernelFailure says why a cell did not run, or a request about a session was not done.
type KernelFailure string

// The kinds of x.msb.kernel.failed.
const (
	KernelBadRequest    KernelFailure = "bad_request"    // a field is out of its bounds
	KernelNoInterpreter KernelFailure = "no_interpreter" // the image has none for the language
	KernelNoStart       KernelFailure = "no_start"       // it has one that does not start
	KernelNoSession     KernelFailure = "no_session"     // there is no such session
	KernelTooMany       KernelFailure = "too_many"       // sessions, or cells that wait for their turn
	KernelGone          KernelFailure = "gone"           // the session was closed or restarted while the cell waited
)

// KernelFailed is x.msb.kernel.failed.
type KernelFailed struct {
	Kind    KernelFailure
	Message string
}

func (m *KernelFailed) fields(c *codec) {
	c.text("kind", (*string)(&m.Kind), must)
	c.text("message", &m.Message, must)
}

// Error is the failure's message.
func (m *KernelFailed) Error() string { return m.Message }

// KernelOp is what a KernelRequest asks for.
type KernelOp string

// The operations.
const (
	KernelInterrupt KernelOp = "interrupt" // the cell that runs, as a timeout does
	KernelRestart   KernelOp = "restart"   // kill the interpreter; cells that wait fail
	KernelClose     KernelOp = "close"     // the same, and forget the session
	KernelList      KernelOp = "list"      // nothing but the answer
)

// KernelRequest is x.msb.kernel.request. The answer is x.msb.kernel.response, or x.msb.kernel.failed.
type KernelRequest struct {
	Op       KernelOp
	Language string // not for KernelList
	Session  string // the same; "" is DefaultSession
}

func (m *KernelRequest) fields(c *codec) {
	c.text("op", (*string)(&m.Op), must)
	c.text("language", &m.Language, skip)
	c.text("session", &m.Session, skip)
}

// KernelResponse is x.msb.kernel.response.
type KernelResponse struct{ Kernels []KernelInfo } // of KernelList, by language and session

func (m *KernelResponse) fields(c *codec) { objects(c, "kernels", &m.Kernels, skip) }

// KernelInfo is one session.
type KernelInfo struct {
	Language string
	Session  string
	PID      uint32 // of its interpreter; 0 if none runs
	Cells    uint32 // that have begun
	Queued   uint32 // that wait
	Busy     bool   // one runs
}

func (m *KernelInfo) fields(c *codec) {
	c.text("language", &m.Language, must)
	c.text("session", &m.Session, must)
	num(c, "pid", &m.PID, skip)
	num(c, "cells", &m.Cells, dflt)
	num(c, "queued", &m.Queued, skip)
	c.boolean("busy", &m.Busy, skip)
}
