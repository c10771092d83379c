package microsandbox

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// Interpreter runs code in a session of one of the image's interpreters. What code leaves behind (variables, imports, the
// working directory) is there for what is run next, by whichever process, until the session is closed or the sandbox ends.
// There is nothing to close when it is no longer used.
type Interpreter struct {
	s             *Sandbox
	lang, session string
}

// Interpreter returns the sandbox's session of a language, which is python, node or bash. It begins with the first Run.
func (s *Sandbox) Interpreter(language string) *Interpreter {
	return &Interpreter{s: s, lang: language}
}

// Session returns another session of the same language: of that name, of up to 64 letters, digits, dots, dashes and
// underscores. A sandbox has up to 32 sessions.
func (i *Interpreter) Session(name string) *Interpreter {
	return &Interpreter{s: i.s, lang: i.lang, session: name}
}

// CellEcho says which values of bare expressions are shown.
type CellEcho string

// The kinds of CellEcho. Only Python tells the first two apart; bash shows none.
const (
	CellEchoLast CellEcho = "last" // that which ends the code
	CellEchoAll  CellEcho = "all"  // each at the top level
	CellEchoNone CellEcho = "none"
)

// CellOption says something of how code is run.
type CellOption func(*cellConfig)

type cellConfig struct {
	opts agentclient.CellOptions
	hear func(CellOutput)
}

// WithCellTimeout interrupts the code after this time, counted from when its turn has come. If it does not heed that within 5 s,
// its interpreter is killed, and what the session had is lost. The default is no limit.
func WithCellTimeout(d time.Duration) CellOption { return func(c *cellConfig) { c.opts.Timeout = d } }

// WithCellMaxOutput bounds the output in bytes; what is over it is dropped and counted. The default is 10 MiB.
func WithCellMaxOutput(n uint64) CellOption { return func(c *cellConfig) { c.opts.MaxOutput = n } }

// WithCellEcho says which values are shown. The default is [CellEchoLast].
func WithCellEcho(e CellEcho) CellOption {
	return func(c *cellConfig) { c.opts.Echo = agentproto.Echo(e) }
}

// WithCellOutput has hear called with each piece of output as it comes. It is in the CellResult as well.
func WithCellOutput(hear func(CellOutput)) CellOption { return func(c *cellConfig) { c.hear = hear } }

// CellOutput is something that code wrote to a stream, or a value that it showed.
type CellOutput struct {
	Stream string // stdout or stderr; "" for a Value
	Text   []byte // of a stream: any bytes
	Value  CellValue
}

// CellValue is a value in one or more forms, by their MIME types: text/plain, and text/html, image/png, application/json or others.
type CellValue map[string][]byte

// CellStatus says how code ended.
type CellStatus string

// The statuses.
const (
	CellOK          CellStatus = "ok"
	CellError       CellStatus = "error"       // it threw: ErrorName, ErrorValue, and a traceback on stderr
	CellExit        CellStatus = "exit"        // it asked to exit: ExitCode
	CellTimeout     CellStatus = "timeout"     // see WithCellTimeout
	CellInterrupted CellStatus = "interrupted" // by Interrupt, Restart or Close
	CellDied        CellStatus = "died"        // its interpreter did, of a signal
)

// CellResult is what code did.
type CellResult struct {
	Status                CellStatus
	ExitCode              int // as of a process; of bash that of the last command. -1 when the interpreter was killed
	ErrorName, ErrorValue string
	Outputs               []CellOutput // in their order, but that between the streams is not exact
	Dropped               uint64       // bytes of output beyond its bound
	Fresh                 bool         // there was nothing of earlier code
	StateLost             bool         // there will be nothing of this and earlier code
}

// Success reports whether the code ended well: with CellOK or CellExit, and the exit code 0.
func (r *CellResult) Success() bool {
	return (r.Status == CellOK || r.Status == CellExit) && r.ExitCode == 0
}

// Stdout is what was written there. Values are not in it.
func (r *CellResult) Stdout() string { return r.stream("stdout") }

// Stderr is what was written there.
func (r *CellResult) Stderr() string { return r.stream("stderr") }

func (r *CellResult) stream(name string) string {
	var b strings.Builder
	for _, o := range r.Outputs {
		if o.Stream == name {
			b.Write(o.Text)
		}
	}
	return b.String()
}

// Text is the text of the last value that was shown; "" if there is none.
func (r *CellResult) Text() string {
	for _, o := range slices.Backward(r.Outputs) {
		if o.Value != nil {
			return string(o.Value["text/plain"])
		}
	}
	return ""
}

// Run runs code and returns when it has ended. Code of one session is run one after the other. That it fails is not an error.
// When ctx ends it is interrupted; the session stays. Kinds: ErrUnsupportedOperation, when the image has no such interpreter;
// ErrInvalidArgument, for a language or session that cannot be, and for more than 1 MiB of code; ErrExecFailed, when the interpreter
// does not start, or too much waits already; ErrCancelled; ErrSandboxNotRunning.
func (i *Interpreter) Run(ctx context.Context, code string, opts ...CellOption) (*CellResult, error) {
	c := cellConfig{}
	for _, o := range opts {
		o(&c)
	}
	client, spec, err := i.s.agent(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	var req agentclient.ExecRequest
	req.Complete(spec, nil)
	c.opts.Env, c.opts.Cwd, c.opts.User = req.Env, req.Cwd, req.User
	cell, err := client.Interpreter(i.lang, i.session).Run(ctx, code, c.opts)
	if err != nil {
		return nil, i.s.explain(ctx, err, 0)
	}
	var hear func(agentclient.Output) bool
	if c.hear != nil {
		hear = func(o agentclient.Output) bool { c.hear(outputOf(o)); return true }
	}
	r, err := cell.CollectWith(hear)
	if err != nil {
		return nil, i.s.explain(ctx, err, 0)
	}
	out := &CellResult{Status: CellStatus(r.Status), ExitCode: int(r.Code), ErrorName: r.ErrorName, ErrorValue: r.ErrorValue,
		Dropped: r.Dropped, Fresh: r.Fresh, StateLost: r.StateLost}
	for _, o := range r.Outputs {
		out.Outputs = append(out.Outputs, outputOf(o))
	}
	return out, nil
}

func outputOf(o agentclient.Output) CellOutput {
	out := CellOutput{Stream: o.Stream, Text: o.Text}
	if o.Result != nil {
		out.Value = CellValue{}
		for _, f := range o.Result.Forms {
			out.Value[f.MIME] = f.Data
		}
	}
	return out
}

// Interrupt interrupts the code that runs, if any does.
func (i *Interpreter) Interrupt(ctx context.Context) error {
	return i.request(ctx, (*agentclient.Interpreter).Interrupt)
}

// Restart kills the interpreter: what the session had is lost, and code that waits fails.
func (i *Interpreter) Restart(ctx context.Context) error {
	return i.request(ctx, (*agentclient.Interpreter).Restart)
}

// Close ends the session.
func (i *Interpreter) Close(ctx context.Context) error {
	return i.request(ctx, (*agentclient.Interpreter).Close)
}

// request does something to the session. One that has not begun has nothing to be done to.
func (i *Interpreter) request(ctx context.Context, do func(*agentclient.Interpreter, context.Context) error) error {
	client, err := i.s.client(ctx)
	if err != nil {
		return wrap(err)
	}
	err = do(client.Interpreter(i.lang, i.session), ctx)
	var failed *agentproto.KernelFailed
	if err == nil || errors.As(err, &failed) && failed.Kind == agentproto.KernelNoSession {
		return nil
	}
	return i.s.explain(ctx, err, 0)
}

// InterpreterInfo is one session of a sandbox.
type InterpreterInfo struct {
	Language, Session string
	PID               uint32 // in the guest; 0 when its interpreter does not run
	Cells             int    // how often code was run
	Queued            int    // pieces of code that wait
	Busy              bool   // some runs
}

// Interpreters returns the sessions that there are, by language and name.
func (s *Sandbox) Interpreters(ctx context.Context) ([]InterpreterInfo, error) {
	client, err := s.client(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	all, err := client.Interpreters(ctx)
	if err != nil {
		return nil, s.explain(ctx, err, 0)
	}
	infos := make([]InterpreterInfo, 0, len(all))
	for _, k := range all {
		infos = append(infos, InterpreterInfo{k.Language, k.Session, k.PID, int(k.Cells), int(k.Queued), k.Busy})
	}
	return infos, nil
}
