package jsonrpc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// CodeParams say what code to run where.
type CodeParams struct {
	Sandbox, Namespace string
	Language, Code     string
	Session            string
	Timeout            time.Duration
	MaxOutput          int // of what is printed, in bytes of JSON; 0 is [MaxOutput]
	seconds            uint64
	// Display is called with each value that is shown and is more than text; nil: only text is wanted.
	Display func(*agentclient.Bundle)
}

// CodeResult is how it went. Members are in the order of their names.
type CodeResult struct {
	Error    *string `json:"error"`
	HasError bool    `json:"has_error"`
	Language string  `json:"language"` // as it was asked for
	Output   []Line  `json:"output"`
	Status   string  `json:"status"` // success, whatever the code did
}

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
	language := agentclient.Language(strings.ToLower(p.Language))
	if language != "python" && language != "node" && language != "bash" {
		return CodeResult{}, portalError("Unsupported language: %s", clip(p.Language))
	}
	client, release, spec, err := v.agent(ctx, ref)
	if err != nil {
		return CodeResult{}, err
	}
	defer release()
	if err := server.Room(ctx); err != nil {
		return CodeResult{}, err
	}
	var defaults agentclient.ExecRequest
	Complete(&defaults, spec)
	opts := agentclient.CellOptions{Timeout: p.Timeout, MaxOutput: MaxOutput, Env: defaults.Env, Cwd: defaults.Cwd, User: defaults.User}
	if language == "python" {
		opts.Echo = agentproto.EchoAll // as it was typed into the interpreter of old (contract server-v0.2 §2.3)
	}
	cell, err := client.Interpreter(language, p.Session).Run(ctx, p.Code, opts)
	if err != nil {
		return CodeResult{}, codeFailed(err)
	}
	defer cell.Close()
	out := linesOf(ctx, p.MaxOutput)
	for {
		e, err := cell.Recv()
		if err != nil {
			return CodeResult{}, codeFailed(err)
		}
		switch e.Kind {
		case agentclient.CellStdout:
			out.write("stdout", e.Data)
		case agentclient.CellStderr:
			out.write("stderr", e.Data)
		case agentclient.CellResult:
			if text := e.Result.Get("text/plain"); text != nil {
				out.finish("stdout")
				out.write("stdout", append(bytes.TrimSuffix(text, []byte("\n")), '\n'))
			}
			if p.Display != nil {
				p.Display(e.Result)
			}
		case agentclient.CellDone:
			return p.result(out, e.Done), nil
		}
	}
}

// result is what is answered once the code has ended.
func (p CodeParams) result(out *lines, done *agentproto.KernelDone) CodeResult {
	failure := ""
	switch done.Status {
	case agentproto.KernelOK:
	case agentproto.KernelExit:
		if done.Code != 0 {
			failure = fmt.Sprintf("exit code %d", done.Code)
		}
	case agentproto.KernelError:
		failure = strings.TrimSuffix(done.ErrorName+": "+done.ErrorValue, ": ")
	case agentproto.KernelTimeout:
		failure = fmt.Sprintf("Error: Execution timed out after %d seconds", p.seconds)
		out.finish("stderr")
		out.write("stderr", []byte(failure+"\n"))
	default:
		failure = "the interpreter ended: " + string(done.Status)
		out.finish("stderr")
		out.write("stderr", []byte("Error: "+failure+"\n"))
	}
	r := CodeResult{Language: p.Language, Output: out.done(), Status: "success", HasError: failure != ""}
	if r.HasError {
		failure = strings.ToValidUTF8(failure, "\uFFFD")
		r.Error = &failure
	}
	return r
}

// codeFailed is the failure of code that was not run.
func codeFailed(err error) error {
	if k := sandbox.KindOf(err); k == sandbox.NotRunning || k == sandbox.Cancelled {
		return err
	}
	return portalError("REPL execution failed: %w", err)
}
