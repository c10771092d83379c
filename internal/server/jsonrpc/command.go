package jsonrpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// CommandParams say what to run.
type CommandParams struct {
	Sandbox, Namespace string
	Command            string
	Args               []string
	Timeout            time.Duration // 0: none
	MaxOutput          int           // of what is printed, in bytes of JSON; 0 is [MaxOutput]
	seconds            uint64        // as it was asked for
}

// CommandResult is how it went. Members are in the order of their names.
type CommandResult struct {
	Args     []string `json:"args"`
	Command  string   `json:"command"`
	ExitCode int      `json:"exit_code"` // 128 and the number of the signal that killed it
	Output   []Line   `json:"output"`
	Success  bool     `json:"success"`
}

func (v *Service) rpcCommand(ctx context.Context, params json.RawMessage) (any, error) {
	p, err := ParseCommand(params)
	if err != nil {
		return nil, err
	}
	return v.Command(ctx, p)
}

// ParseCommand reads the parameters of sandbox.command.run.
func ParseCommand(params json.RawMessage) (p CommandParams, err error) {
	o, err := portalParams(params)
	if err != nil {
		return p, err
	}
	p.Sandbox, p.Namespace = o.sandbox, o.namespace
	if p.Command, err = o.params.text("command"); err == nil {
		err = o.params.take("args", &p.Args)
	}
	if err == nil {
		p.Timeout, p.seconds, err = o.params.timeout()
	}
	if err != nil {
		return p, portalError("Invalid parameters: %v", err)
	}
	return p, nil
}

// portal is what every call to the guest has.
type portal struct {
	params             object
	sandbox, namespace string
}

func portalParams(params json.RawMessage) (p portal, err error) {
	if err := json.Unmarshal(params, &p.params); err != nil || p.params == nil {
		return p, server.Invalid("Request parameters must be an object containing 'sandbox' and 'namespace'")
	}
	if p.sandbox, err = p.params.text("sandbox"); err != nil {
		return p, server.Invalid("Missing required 'sandbox' parameter for portal request")
	}
	if p.namespace, err = p.params.namespace(); err != nil {
		return p, server.Invalid("Missing required 'namespace' parameter for portal request")
	}
	return p, nil
}

// portalError is a failure that the guest's portal of old reported: always 500 (contract server-v0.2 §1.7).
func portalError(format string, args ...any) *server.Failure {
	err := fmt.Errorf(format, args...)
	return &server.Failure{Status: 500, Code: server.CodeInternal, Message: err.Error(), Err: errors.Unwrap(err)}
}

// nanoseconds is from where on a timeout cannot be in seconds: the Go client of old sends a time.Duration (contract
// server-v0.2 §6.4). As seconds it is three years, as nanoseconds a tenth of a second.
const nanoseconds = 100_000_000

// timeout reads a timeout in seconds.
func (o object) timeout() (time.Duration, uint64, error) {
	var n uint64
	if err := o.take("timeout", &n); err != nil {
		return 0, 0, err
	}
	if n >= nanoseconds {
		if n > uint64(1<<63-1) {
			return 0, 0, fmt.Errorf("timeout: %d is too long", n)
		}
		d := time.Duration(n)
		return d, uint64((d + time.Second - 1) / time.Second), nil
	}
	return time.Duration(n) * time.Second, n, nil
}

// linger is how long processes that a command leaves behind with its output may keep it from being over.
const linger = 250 * time.Millisecond

// Command runs a command in a running sandbox and waits for its end. That it fails is a result.
func (v *Service) Command(ctx context.Context, p CommandParams) (CommandResult, error) {
	ref, err := Ref(ctx, p.Namespace, p.Sandbox)
	if err != nil {
		return CommandResult{}, err
	}
	r, err := v.command(ctx, ref, p)
	v.server.Audited(ctx, "command", ref, err)
	return r, err
}

func (v *Service) command(ctx context.Context, ref sandbox.Ref, p CommandParams) (CommandResult, error) {
	client, release, spec, err := v.agent(ctx, ref)
	if err != nil {
		return CommandResult{}, err
	}
	defer release()
	r := CommandResult{Command: p.Command, Args: p.Args}
	if r.Args == nil {
		r.Args = []string{}
	}
	if err := server.Room(ctx); err != nil {
		return r, err
	}
	out := linesOf(ctx, p.MaxOutput)
	req := agentclient.ExecRequest{Cmd: p.Command, Args: p.Args, Timeout: p.Timeout, Linger: linger}
	Complete(&req, spec)
	x, err := client.Exec(ctx, req)
	if errors.Is(err, sandbox.ExecFailed) {
		return r, portalError("Command execution failed: Failed to spawn command: %w", err)
	}
	if err != nil {
		return r, err
	}
	defer x.Close()
	_ = x.CloseStdin() // of a command that has ended already there is nothing to close; what else is wrong, Recv says
	code := 0
	for over := false; !over; {
		e, err := x.Recv()
		if err != nil {
			return r, p.failed(err)
		}
		switch e.Kind {
		case agentclient.EventStdout:
			out.write("stdout", e.Data)
		case agentclient.EventStderr:
			out.write("stderr", e.Data)
		case agentclient.EventExited:
			over, code = true, e.Code
			if e.Signal != 0 {
				code = 128 + e.Signal
			}
		}
	}
	if _, err := x.Wait(); err != nil {
		return r, p.failed(err)
	}
	r.ExitCode, r.Success, r.Output = code, code == 0, out.done()
	return r, nil
}

func (p CommandParams) failed(err error) error {
	if sandbox.KindOf(err) == sandbox.ExecTimeout {
		return portalError("Command execution failed: Command timeout after %d seconds", p.seconds)
	}
	return err
}

// Complete adds what a sandbox's spec says to a command: who runs commands has to (contract msb-0.6 §2.4).
func Complete(req *agentclient.ExecRequest, spec sandbox.Spec) {
	own := make([]sandbox.EnvVar, 0, len(req.Env))
	for _, e := range req.Env {
		key, value, _ := strings.Cut(e, "=")
		own = append(own, sandbox.EnvVar{Key: key, Value: value})
	}
	req.Env = nil
	req.Complete(spec, own)
}
