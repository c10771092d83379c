package jsonrpc

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Interpreter runs code in an interpreter that lives in the guest and keeps its state between calls.
type Interpreter interface {
	// Run runs one cell. That the code fails, or takes too long, is a result. Kinds of errors: Unsupported, for an agent that has no
	// interpreters; NotRunning.
	Run(ctx context.Context, client *agentclient.Client, spec sandbox.Spec, cell Cell) (Outcome, error)
}

// Cell is code to run.
type Cell struct {
	Language string // python, node or bash
	Session  string // whose state it shares; "" is everybody's who names none
	Code     string
	Timeout  time.Duration // then it is interrupted; 0 is never
	// Print is called with each piece that the code prints, as it comes. stream is stdout or stderr.
	Print func(stream string, p []byte)
	// Display is called with each value that it shows and that is more than text, as a MIME bundle: text/html, image/png (base64),
	// application/json. Its text was printed as well. nil: only that is wanted.
	Display func(bundle map[string]any)
}

// Outcome is how a cell ended.
type Outcome struct {
	Error    string // what it raised, in one line; "" if nothing
	TimedOut bool
}

// CodeParams say what code to run where.
type CodeParams struct {
	Sandbox, Namespace string
	Language, Code     string
	Session            string
	Timeout            time.Duration
	seconds            uint64
	Display            func(bundle map[string]any)
}

// CodeResult is how it went. Members are in the order of their names.
type CodeResult struct {
	Error    *string `json:"error"`
	HasError bool    `json:"has_error"`
	Language string  `json:"language"` // as it was asked for
	Output   []Line  `json:"output"`
	Status   string  `json:"status"` // success, whatever the code did
}

// languages are those that code may be in, by what they are called.
var languages = map[string]string{"python": "python", "node": "node", "nodejs": "node", "javascript": "node", "bash": "bash"}

func (v *Service) rpcCode(ctx context.Context, params json.RawMessage) (any, error) {
	p, err := ParseCode(params)
	if err != nil {
		return nil, err
	}
	return v.Code(ctx, p)
}

// ParseCode reads the parameters of sandbox.repl.run.
func ParseCode(params json.RawMessage) (p CodeParams, err error) {
	o, err := portalParams(params)
	if err != nil {
		return p, err
	}
	p.Sandbox, p.Namespace = o.sandbox, o.namespace
	if p.Code, err = o.params.text("code"); err == nil {
		p.Language, err = o.params.text("language")
	}
	if err == nil {
		err = o.params.take("session", &p.Session)
	}
	if err == nil {
		p.Timeout, p.seconds, err = o.params.timeout()
	}
	if err != nil {
		return p, portalError("Invalid parameters: %v", err)
	}
	return p, nil
}

// Code runs code in a running sandbox.
func (v *Service) Code(ctx context.Context, p CodeParams) (CodeResult, error) {
	ref, err := Ref(ctx, p.Namespace, p.Sandbox)
	if err != nil {
		return CodeResult{}, err
	}
	r, err := v.runCode(ctx, ref, p)
	v.server.Audited(ctx, "code", ref, err)
	return r, err
}

func (v *Service) runCode(ctx context.Context, ref sandbox.Ref, p CodeParams) (CodeResult, error) {
	language, ok := languages[strings.ToLower(p.Language)]
	if !ok {
		return CodeResult{}, portalError("Unsupported language: %s", clip(p.Language))
	}
	client, release, spec, err := v.agent(ctx, ref)
	if err != nil {
		return CodeResult{}, err
	}
	defer release()
	if v.code == nil {
		return CodeResult{}, &server.Failure{Status: 500, Code: server.CodeInternal, Message: "REPL execution failed: this server runs no code"}
	}
	var out lines
	outcome, err := v.code.Run(ctx, client, spec, Cell{Language: language, Session: p.Session, Code: p.Code, Timeout: p.Timeout, Print: out.write, Display: p.Display})
	if err != nil {
		return CodeResult{}, portalError("REPL execution failed: %w", err)
	}
	if outcome.TimedOut {
		text := fmt.Sprintf("Error: Execution timed out after %d seconds", p.seconds)
		out.write("stderr", []byte(text+"\n"))
		outcome.Error = text
	}
	r := CodeResult{Language: p.Language, Output: out.done(), Status: "success", HasError: outcome.Error != ""}
	if r.HasError {
		r.Error = &outcome.Error
	}
	return r, nil
}
