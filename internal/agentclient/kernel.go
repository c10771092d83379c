package agentclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Interpreter is a session of an interpreter in the guest. What its cells leave behind (variables, imports, the working
// directory) is there for the next one, whichever client runs it, until the session is closed or the sandbox ends.
type Interpreter struct {
	c       *Client
	lang    string
	session string
}

// Interpreter returns the session of a language (python, node or bash; the aliases of [Language] too) of that name, "" for
// the one of those who need no other. It is begun by its first cell. There is nothing to close when it is no longer used.
func (c *Client) Interpreter(lang, session string) *Interpreter {
	return &Interpreter{c: c, lang: Language(lang), session: session}
}

// Language is the name of a language by one of the names that it is given, in any case: python, python3, py; node, nodejs,
// javascript, js; bash, sh. A name that is none of them is returned as it is.
func Language(name string) string {
	switch strings.ToLower(name) {
	case "python", "python3", "py":
		return "python"
	case "node", "nodejs", "javascript", "js":
		return "node"
	case "bash", "sh", "shell":
		return "bash"
	}
	return name
}

// CellOptions say how a cell is run. The zero value is without a timeout.
type CellOptions struct {
	// Timeout bounds the cell from its start. It is interrupted then; if it does not heed that, its interpreter is
	// killed, and the session's state with it.
	Timeout time.Duration
	// Echo says which bare expressions' values are shown; "" is the last one's.
	Echo agentproto.Echo
	// MaxOutput is how much output is sent, in bytes; what is over it is dropped and counted. 0 is 10 MiB.
	MaxOutput uint64
	// How the interpreter is started, if this cell begins the session; as in ExecRequest.
	Env  []string
	Cwd  string
	User string
}

// Cell is some code that runs in a session. It is received from with Recv, or with Collect, which receives the rest.
type Cell struct {
	stream *Stream
	ctx    context.Context
	last   Message // of the event that Recv returned
	piece  *Bundle // what came of a value so far
	size   int
	over   bool
	most   uint64 // bytes that Collect keeps; over what the agent may send
}

// CellEventKind says which of its fields a CellEvent has.
type CellEventKind uint8

// The kinds of events. CellDone is the last one.
const (
	CellStarted CellEventKind = iota + 1 // its turn has come: Number, Fresh
	CellStdout                           // Data
	CellStderr                           // Data
	CellResult                           // Result
	CellDone                             // Done
)

// CellEvent is one thing that a cell did. Data is valid until the next Recv.
type CellEvent struct {
	Kind   CellEventKind
	Number int  // of the cell in its session, from 1
	Fresh  bool // nothing of earlier cells is there
	Data   []byte
	Result *Bundle
	Done   *agentproto.KernelDone
}

// Bundle is a value that is shown: the same in one or more forms.
type Bundle struct{ Forms []Form }

// Form is one of them, of a MIME type such as text/plain, text/html, image/png or application/json.
type Form struct {
	MIME string
	Data []byte
}

// formCost is about what a Form takes in memory besides its data, in bytes.
const formCost = 64

func (b *Bundle) size() int {
	n := 0
	for _, f := range b.Forms {
		n += len(f.Data) + formCost
	}
	return n
}

// Get returns the form of a type, nil if there is none.
func (b *Bundle) Get(mime string) []byte {
	for _, f := range b.Forms {
		if f.MIME == mime {
			return f.Data
		}
	}
	return nil
}

// Run queues a cell behind the others of the session and returns. ctx is the cell's: when it ends, or when the cell or the
// client is closed, the cell is interrupted. The session stays.
//
// A guest whose agent has no interpreters gives sandbox.Unsupported. What else keeps a cell from running, Recv and
// Collect say: sandbox.Unsupported for an image without the interpreter, sandbox.InvalidArgument for a language that
// there is not, sandbox.ExecFailed for the rest, all with an [agentproto.KernelFailed] in their chain.
func (i *Interpreter) Run(ctx context.Context, code string, opts CellOptions) (*Cell, error) {
	if err := i.c.hasKernels(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, ctxError("run", ctx)
	}
	if len(code) > agentproto.MaxCell { // it may not fit into a frame
		return nil, kernelError(&agentproto.KernelFailed{Kind: agentproto.KernelBadRequest,
			Message: fmt.Sprintf("a cell has at most %d bytes of code, this one %d", agentproto.MaxCell, len(code))})
	}
	m := &agentproto.KernelRun{Language: i.lang, Session: i.session, Code: strings.ToValidUTF8(code, "\uFFFD"), Echo: opts.Echo,
		MaxOutput: opts.MaxOutput, Env: opts.Env, Cwd: opts.Cwd, User: opts.User, Window: i.c.offered()}
	if opts.Timeout > 0 {
		m.TimeoutMS = uint64(max(1, opts.Timeout.Milliseconds()))
	}
	stream, err := i.c.Stream(agentproto.TypeKernelRun, m, m.Window)
	if err != nil {
		return nil, err
	}
	most := 2*cmp.Or(opts.MaxOutput, agentproto.DefaultOutput) + 1<<20
	return &Cell{stream: stream, ctx: ctx, most: most}, nil
}

// Interrupt interrupts the cell that runs, if one does.
func (i *Interpreter) Interrupt(ctx context.Context) error {
	return i.request(ctx, agentproto.KernelInterrupt)
}

// Restart kills the interpreter. The cell that runs ends, those that wait fail, and the next one begins with nothing.
func (i *Interpreter) Restart(ctx context.Context) error {
	return i.request(ctx, agentproto.KernelRestart)
}

// Close ends the session: Restart, and it is forgotten.
func (i *Interpreter) Close(ctx context.Context) error {
	return i.request(ctx, agentproto.KernelClose)
}

func (i *Interpreter) request(ctx context.Context, op agentproto.KernelOp) error {
	_, err := i.c.kernelRequest(ctx, &agentproto.KernelRequest{Op: op, Language: i.lang, Session: i.session})
	return err
}

// Interpreters returns the sessions that there are, by language and name.
func (c *Client) Interpreters(ctx context.Context) ([]agentproto.KernelInfo, error) {
	r, err := c.kernelRequest(ctx, &agentproto.KernelRequest{Op: agentproto.KernelList})
	return r.Kernels, err
}

func (c *Client) kernelRequest(ctx context.Context, req *agentproto.KernelRequest) (r agentproto.KernelResponse, err error) {
	if err := c.hasKernels(); err != nil {
		return r, err
	}
	m, err := c.Request(ctx, agentproto.TypeKernelRequest, req)
	if err != nil {
		return r, err
	}
	defer m.Release()
	if m.Type == agentproto.TypeKernelFailed {
		return r, m.kernelFailed()
	}
	return r, m.expect(agentproto.TypeKernelResponse, &r)
}

func (c *Client) hasKernels() error {
	if c.ready.Has(agentproto.TypeKernelRun) && c.ready.Has(agentproto.TypeKernelRequest) {
		return nil
	}
	return &sandbox.Error{Kind: sandbox.Unsupported, Message: "the sandbox's agent has no code interpreters",
		Hint: "restart the sandbox to update its runtime"}
}

func (m *Message) kernelFailed() error {
	var f agentproto.KernelFailed
	if err := m.expect(agentproto.TypeKernelFailed, &f); err != nil {
		return err
	}
	return kernelError(&f)
}

// kernelError is why a cell did not run.
func kernelError(f *agentproto.KernelFailed) error {
	e := &sandbox.Error{Op: "run", Kind: sandbox.ExecFailed, Err: f}
	switch f.Kind {
	case agentproto.KernelBadRequest, agentproto.KernelNoSession:
		e.Kind = sandbox.InvalidArgument
	case agentproto.KernelNoInterpreter:
		e.Kind, e.Hint = sandbox.Unsupported, "use an image that has it"
	}
	return e
}

// maxBundle bounds what a client keeps of one value, in bytes. An agent of ours sends no more than the cell's MaxOutput; this
// is for one that does not hold to that.
const maxBundle = 64 << 20

// Recv returns the next event, and io.EOF after CellDone. One goroutine may call it.
func (c *Cell) Recv() (CellEvent, error) {
	for {
		c.last.Release()
		m, err := c.stream.Recv(c.ctx)
		if err != nil {
			c.over = true
			return CellEvent{}, c.why(err)
		}
		c.last = m
		e, err := c.event(&m)
		if err != nil {
			c.over = true
			return CellEvent{}, err
		}
		if e.Kind != 0 {
			c.over = e.Kind == CellDone
			return e, nil
		}
	}
}

// why says that the cell's context ended, if that is so.
func (c *Cell) why(err error) error {
	if errors.Is(context.Cause(c.ctx), context.DeadlineExceeded) {
		return &sandbox.Error{Op: "run", Kind: sandbox.ExecTimeout, Message: "the cell was given up", Err: context.Cause(c.ctx)}
	}
	return err
}

// event makes an event of a message; its Kind is 0 if there is none yet.
func (c *Cell) event(m *Message) (e CellEvent, err error) {
	switch m.Type {
	case agentproto.TypeKernelStarted:
		var s agentproto.KernelStarted
		err = m.expect(m.Type, &s)
		return CellEvent{Kind: CellStarted, Number: int(s.Cell), Fresh: s.Fresh}, err
	case agentproto.TypeKernelStdout, agentproto.TypeKernelStderr:
		data, err := agentproto.DecodeData(m.Payload)
		if err != nil {
			return e, &sandbox.Error{Kind: sandbox.Protocol, Err: err}
		}
		kind := CellStdout
		if m.Type == agentproto.TypeKernelStderr {
			kind = CellStderr
		}
		return CellEvent{Kind: kind, Data: data}, nil
	case agentproto.TypeKernelResult:
		var r agentproto.KernelResult
		if err := m.expect(m.Type, &r); err != nil {
			return e, err
		}
		return c.add(&r)
	case agentproto.TypeKernelFailed:
		return e, m.kernelFailed()
	case agentproto.TypeKernelDone, agentproto.TypeError:
		d := &agentproto.KernelDone{}
		err = m.expect(agentproto.TypeKernelDone, d)
		return CellEvent{Kind: CellDone, Done: d}, err
	}
	return e, nil // not known to this generation
}

// add puts a piece to its value. The last one makes the event.
func (c *Cell) add(r *agentproto.KernelResult) (e CellEvent, err error) {
	if c.piece == nil {
		c.piece, c.size = &Bundle{}, 0
	}
	if c.size += len(r.Data) + formCost; c.size > maxBundle {
		return e, &sandbox.Error{Kind: sandbox.Protocol, Message: fmt.Sprintf("a value of more than %d bytes", maxBundle)}
	}
	if n := len(c.piece.Forms); n > 0 && c.piece.Forms[n-1].MIME == r.MIME {
		c.piece.Forms[n-1].Data = append(c.piece.Forms[n-1].Data, r.Data...)
	} else {
		c.piece.Forms = append(c.piece.Forms, Form{MIME: r.MIME, Data: r.Data})
	}
	if r.More {
		return e, nil
	}
	e = CellEvent{Kind: CellResult, Result: c.piece}
	c.piece = nil
	return e, nil
}

// Close lets go of the cell. If it still runs, it is interrupted. It may be called twice, but not while Recv runs.
func (c *Cell) Close() {
	c.last.Release()
	c.stream.Close()
}

// Output is a part of what a cell wrote or showed, in their order.
type Output struct {
	Stream string  // stdout or stderr; "" for a Result
	Text   []byte  // of a stream: any bytes
	Result *Bundle // a value that was shown
}

// Result is all that a cell did.
type Result struct {
	agentproto.KernelDone
	Number  int  // of the cell in its session
	Fresh   bool // it began with nothing of earlier cells
	Outputs []Output
}

// Stdout is what the cell wrote there. Values that were shown are not in it.
func (r *Result) Stdout() string { return r.stream("stdout") }

// Stderr is what the cell wrote there, tracebacks and the notice of Dropped among it.
func (r *Result) Stderr() string { return r.stream("stderr") }

func (r *Result) stream(name string) string {
	var b strings.Builder
	for _, o := range r.Outputs {
		if o.Stream == name {
			b.Write(o.Text)
		}
	}
	return b.String()
}

// Text is the text/plain of the last value that was shown, "" if none was.
func (r *Result) Text() string {
	for i := len(r.Outputs) - 1; i >= 0; i-- {
		if v := r.Outputs[i].Result; v != nil {
			return string(v.Get("text/plain"))
		}
	}
	return ""
}

// Collect receives what the cell has yet to do and closes it. An error of the code is not an error: it is in the Result.
func (c *Cell) Collect() (*Result, error) { return c.CollectWith(nil) }

// CollectWith is Collect, and calls keep with each piece of output as it comes, if it is not nil. What it does not want to be kept is
// counted among what was dropped.
func (c *Cell) CollectWith(keep func(Output) bool) (*Result, error) {
	defer c.Close()
	r := &Result{}
	left, dropped := c.most, uint64(0)
	for {
		e, err := c.Recv()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // the end was received before
		}
		if err != nil {
			return nil, err
		}
		left -= uint64(len(e.Data)) // the agent holds to the bound, unless it is not ours any more
		if e.Result != nil {
			left -= uint64(e.Result.size())
		}
		if left > c.most {
			return nil, &sandbox.Error{Kind: sandbox.Protocol, Message: "the sandbox sends more output than was asked for"}
		}
		switch e.Kind {
		case CellStarted:
			r.Number, r.Fresh = e.Number, e.Fresh
		case CellDone:
			r.KernelDone = *e.Done
			r.Dropped += dropped
			return r, nil
		default:
			o := e.output()
			if keep == nil || keep(o) {
				r.add(o)
			} else if o.Result != nil {
				dropped += uint64(o.Result.size())
			} else {
				dropped += uint64(len(o.Text))
			}
		}
	}
}

// output is a copy of the event's data.
func (e *CellEvent) output() Output {
	switch e.Kind {
	case CellStdout:
		return Output{Stream: "stdout", Text: append([]byte(nil), e.Data...)}
	case CellStderr:
		return Output{Stream: "stderr", Text: append([]byte(nil), e.Data...)}
	}
	return Output{Result: e.Result}
}

// maxOutputs bounds the parts of a Result. After so many the order between the streams is not kept.
const maxOutputs = 10_000

func (r *Result) add(o Output) {
	n := len(r.Outputs)
	for i := n - 1; o.Result == nil && i >= 0 && (i == n-1 || n >= maxOutputs); i-- {
		if last := &r.Outputs[i]; last.Stream == o.Stream {
			last.Text = append(last.Text, o.Text...)
			return
		}
	}
	r.Outputs = append(r.Outputs, o)
}
