package rest

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The bounds of running code.
const (
	maxCellBody   = 6*agentproto.MaxCell + 4<<10 // bytes of a body: each byte of code may be written with six
	maxCellOutput = 16 << 20                     // bytes of max_output_bytes
	maxCellAnswer = 24 << 20                     // bytes of JSON of an answer at once
	maxCellTime   = 24 * time.Hour
)

// interpreterRoutes are those of the sessions of interpreters, of a sandbox by its ID and by its name.
func (h *Handler) interpreterRoutes() []server.Route {
	var all []server.Route
	for _, at := range []string{"/v1/sandboxes/{id}", "/v1/sandboxes/by-name/{name}"} {
		at += "/interpreters/{language}/{session}"
		run := h.route("POST "+at+"/run", "code", h.session(h.runCell))
		run.MaxBody = maxCellBody
		all = append(all, run,
			h.route("POST "+at+"/interrupt", "code.interrupt", h.session(h.change("code.interrupt", (*agentclient.Interpreter).Interrupt))),
			h.route("POST "+at+"/restart", "code.restart", h.session(h.change("code.restart", (*agentclient.Interpreter).Restart))),
			h.route("DELETE "+at, "code.close", h.session(h.change("code.close", (*agentclient.Interpreter).Close))))
	}
	return all
}

// session is a session of an interpreter, which there need not be yet.
type session struct {
	info           sandbox.Info
	language, name string
}

func (s session) attrs() []slog.Attr {
	return []slog.Attr{slog.String("language", s.language), slog.String("session", s.name)}
}

// session finds the sandbox of a request about a session.
func (h *Handler) session(f func(*request, session) (any, error)) answer {
	return func(r *request) (any, error) {
		find, by := h.byID, r.PathValue("id")
		if by == "" {
			find, by = h.byName, r.PathValue("name")
		}
		info, err := find(r, by)
		if err != nil {
			return nil, err
		}
		s := session{info, agentclient.Language(r.PathValue("language")), r.PathValue("session")}
		if len(s.language) > agentproto.MaxSession || len(s.name) > agentproto.MaxSession {
			return nil, invalid("the name of a language or a session is too long")
		}
		server.Note(r.Context(), slog.String("sandbox", string(info.Ref.Name)))
		return f(r, s)
	}
}

// on calls f with a session of the sandbox's agent.
func (h *Handler) on(ctx context.Context, s session, f func(*agentclient.Interpreter) error) error {
	client, release, err := h.server.Agent(ctx, s.info.Ref)
	if err != nil {
		return err
	}
	defer release()
	return cellFailed(f(client.Interpreter(s.language, s.name)))
}

// change is an operation on a session.
func (h *Handler) change(action string, do func(*agentclient.Interpreter, context.Context) error) func(*request, session) (any, error) {
	return func(r *request, s session) (any, error) {
		err := h.on(r.Context(), s, func(i *agentclient.Interpreter) error { return do(i, r.Context()) })
		h.server.Audited(r.Context(), action, s.info.Ref, err, s.attrs()...)
		if err != nil {
			return nil, err
		}
		return cloudapi.Message{Message: http.StatusText(http.StatusOK)}, nil
	}
}

// interpreters lists the sessions that there are, by language and name.
func (h *Handler) interpreters(r *request, info sandbox.Info) (any, error) {
	client, release, err := h.server.Agent(r.Context(), info.Ref)
	if err != nil {
		return nil, err
	}
	defer release()
	kernels, err := client.Interpreters(r.Context())
	if err != nil {
		return nil, err
	}
	all := make([]cloudapi.Interpreter, 0, len(kernels))
	for _, k := range kernels {
		all = append(all, cloudapi.Interpreter(k))
	}
	return all, nil
}

// cellOf reads what code is to be run, and how.
func (r *request) cellOf(spec sandbox.Spec) (code string, opts agentclient.CellOptions, err error) {
	var b cloudapi.CellBody
	if err := r.body(&b); err != nil {
		return "", opts, err
	}
	switch {
	case b.Code == nil:
		return "", opts, invalid("code is missing")
	case b.TimeoutMS < 0 || b.TimeoutMS > maxCellTime.Milliseconds():
		return "", opts, invalid(fmt.Sprintf("timeout_ms is not a number from 0 to %d", maxCellTime.Milliseconds()))
	case b.MaxOutputBytes < 0 || b.MaxOutputBytes > maxCellOutput:
		return "", opts, invalid(fmt.Sprintf("max_output_bytes is not a number from 0 to %d", maxCellOutput))
	}
	switch echo := agentproto.Echo(b.Echo); echo {
	case "", agentproto.EchoLast, agentproto.EchoAll, agentproto.EchoNone:
		opts.Echo = echo
	default:
		return "", opts, invalid("echo is not last, all or none")
	}
	var defaults agentclient.ExecRequest
	defaults.Complete(spec, nil)
	opts.Timeout, opts.MaxOutput = time.Duration(b.TimeoutMS)*time.Millisecond, uint64(b.MaxOutputBytes)
	opts.Env, opts.Cwd, opts.User = defaults.Env, defaults.Cwd, defaults.User
	return *b.Code, opts, nil
}

// runCell runs code and answers with all that it did; to a client that accepts a stream of events, with each thing as it happens.
func (h *Handler) runCell(r *request, s session) (v any, err error) {
	var broken error // after the answer had begun
	defer func() { h.server.Audited(r.Context(), "code", s.info.Ref, cmp.Or(err, broken), s.attrs()...) }()
	code, opts, err := r.cellOf(s.info.Effective())
	if err != nil {
		return nil, err
	}
	if !accepts(r.Request, "text/event-stream") {
		if err := server.Room(r.Context()); err != nil {
			return nil, err
		}
		meter := server.MeterOf(r.Context(), maxCellAnswer)
		var result *agentclient.Result
		err := h.on(r.Context(), s, func(i *agentclient.Interpreter) error {
			cell, err := i.Run(r.Context(), code, opts)
			if err == nil {
				result, err = cell.CollectWith(func(o agentclient.Output) bool { return meter.Add(sizeOf(o)) })
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		return resultOf(result), nil
	}
	begun, err := r.stream(nil, func(ctx context.Context, send func([]byte) error) error {
		return h.on(ctx, s, func(i *agentclient.Interpreter) error {
			cell, err := i.Run(ctx, code, opts)
			if err != nil {
				return err
			}
			defer cell.Close()
			return follow(cell, send)
		})
	})
	if err != nil && begun {
		broken = err
		_, envelope := envelopeOf(err)
		if b, err := sse("", "error", envelope); err == nil {
			_, _ = r.w.Write(b)
		}
		return streamed, nil
	}
	return streamed, err
}

// sizeOf is how long an output is in JSON, at most, and what it takes besides.
func sizeOf(o agentclient.Output) int {
	const frame = 64
	if o.Result == nil {
		n := frame + server.JSONSize(o.Text)
		if !utf8.Valid(o.Text) {
			n += base64.StdEncoding.EncodedLen(len(o.Text))
		}
		return n
	}
	n := frame
	for _, f := range o.Result.Forms {
		n += frame + server.JSONSize([]byte(f.MIME)) + max(server.JSONSize(f.Data), base64.StdEncoding.EncodedLen(len(f.Data)))
	}
	return n
}

// accepts reports whether a client names a type among those that it takes.
func accepts(r *http.Request, kind string) bool {
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		if t, _, err := mime.ParseMediaType(part); err == nil && t == kind {
			return true
		}
	}
	return false
}

// follow sends what a cell does until it has ended.
func follow(cell *agentclient.Cell, send func([]byte) error) error {
	say := func(event string, v any) error {
		b, err := sse("", event, v)
		if err != nil {
			return err
		}
		return send(b)
	}
	var cut cutter
	for {
		e, err := cell.Recv()
		if err != nil {
			return err
		}
		switch e.Kind {
		case agentclient.CellStarted:
			err = say("started", cloudapi.CellStarted{Cell: e.Number, Fresh: e.Fresh})
		case agentclient.CellStdout:
			err = cut.say(say, "stdout", e.Data, false)
		case agentclient.CellStderr:
			err = cut.say(say, "stderr", e.Data, false)
		default:
			for _, stream := range []string{"stdout", "stderr"} {
				err = cmp.Or(err, cut.say(say, stream, nil, true))
			}
			if err == nil && e.Kind == agentclient.CellResult {
				err = say("output", cloudapi.CellOutput{Result: bundle(e.Result)})
			} else if err == nil {
				return say("done", doneOf(e.Done))
			}
		}
		if err != nil {
			return err
		}
	}
}

// cutter cuts streams so that no character is torn: what came of one waits for the rest, at most three bytes of each stream.
type cutter struct{ rest map[string][]byte }

func (c *cutter) say(say func(string, any) error, stream string, data []byte, all bool) error {
	data = append(c.rest[stream], data...)
	n := len(data)
	if !all {
		n -= torn(data)
	}
	if c.rest == nil {
		c.rest = map[string][]byte{}
	}
	c.rest[stream] = append([]byte(nil), data[n:]...)
	if n == 0 {
		return nil
	}
	return say("output", textOf(stream, data[:n]))
}

// torn is how many bytes at the end of b begin a character that does not end there.
func torn(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if c := b[len(b)-n]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(b[len(b)-n:]) {
				return n
			}
			return 0
		}
	}
	return 0
}

func textOf(stream string, b []byte) cloudapi.CellOutput {
	o := cloudapi.CellOutput{Stream: stream, Text: strings.ToValidUTF8(string(b), "\uFFFD")}
	if !utf8.Valid(b) {
		o.Data = b
	}
	return o
}

func doneOf(d *agentproto.KernelDone) cloudapi.CellDone {
	out := cloudapi.CellDone{Status: string(d.Status), ExitCode: int(d.Code), StateLost: d.StateLost, Dropped: d.Dropped}
	if d.Status == agentproto.KernelError {
		out.Error = &cloudapi.CellError{Name: d.ErrorName, Value: d.ErrorValue}
	}
	return out
}

func resultOf(r *agentclient.Result) cloudapi.CellResult {
	out := cloudapi.CellResult{CellStarted: cloudapi.CellStarted{Cell: r.Number, Fresh: r.Fresh}, CellDone: doneOf(&r.KernelDone), Outputs: []cloudapi.CellOutput{}}
	for _, o := range r.Outputs {
		if o.Result != nil {
			out.Outputs = append(out.Outputs, cloudapi.CellOutput{Result: bundle(o.Result)})
		} else {
			out.Outputs = append(out.Outputs, textOf(o.Stream, o.Text))
		}
	}
	return out
}

// bundle is a value as JSON has it (see cloudapi.CellOutput).
func bundle(b *agentclient.Bundle) map[string]any {
	out := make(map[string]any, len(b.Forms))
	for _, f := range b.Forms {
		kind := strings.ToLower(f.MIME)
		switch {
		case (kind == "application/json" || strings.HasSuffix(kind, "+json")) && json.Valid(f.Data):
			out[f.MIME] = json.RawMessage(f.Data)
		case strings.HasPrefix(kind, "text/") || strings.HasSuffix(kind, "json") || strings.HasSuffix(kind, "xml") || kind == "application/javascript" || kind == "application/x-latex":
			out[f.MIME] = strings.ToValidUTF8(string(f.Data), "\uFFFD")
		default:
			out[f.MIME] = base64.StdEncoding.EncodeToString(f.Data)
		}
	}
	return out
}

// cellFailed is why code was not run, or nothing done to a session, as a request has it.
func cellFailed(err error) error {
	var f *agentproto.KernelFailed
	if !errors.As(err, &f) {
		return err
	}
	switch f.Kind {
	case agentproto.KernelNoSession:
		return &server.Failure{Status: http.StatusNotFound, Message: f.Message, Err: err}
	case agentproto.KernelTooMany:
		return &server.Failure{Status: http.StatusTooManyRequests, Message: f.Message, Retry: 2 * time.Second, Err: err}
	case agentproto.KernelGone:
		return &server.Failure{Status: http.StatusConflict, Message: f.Message, Err: err}
	case agentproto.KernelNoStart:
		return &server.Failure{Status: http.StatusBadGateway, Message: f.Message, Err: err}
	}
	return err
}
