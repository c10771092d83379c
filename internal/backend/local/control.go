package local

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

var _ backend.Drainer = (*Backend)(nil)

// controlTimeout is how long a runner may take to answer, maxAnswer how long its answer may be in bytes.
const (
	controlTimeout = 10 * time.Second
	maxAnswer      = 1 << 20
)

// Drain lets a running sandbox begin no new session and end with its last one.
func (b *Backend) Drain(ctx context.Context, ref sandbox.Ref) error {
	_, err := b.control(ctx, ref, launch.ControlRequest{Op: launch.OpDrain})
	return err
}

// control asks the runner of a running sandbox for something.
func (b *Backend) control(ctx context.Context, ref sandbox.Ref, req launch.ControlRequest) (launch.ControlResponse, error) {
	var resp launch.ControlResponse
	info, err := b.Get(ctx, ref)
	if err != nil {
		return resp, err
	}
	if info.Status != sandbox.Running && info.Status != sandbox.Draining {
		return resp, notRunning(ref, info.Status)
	}
	fail := func(err error) (launch.ControlResponse, error) {
		if now, gerr := b.Get(ctx, ref); gerr == nil && now.Status.Terminal() {
			return resp, notRunning(ref, now.Status)
		}
		return resp, &sandbox.Error{Op: req.Op, Ref: ref, Kind: sandbox.Runtime, Message: "speak to the sandbox's runner", Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	conn, err := b.dialControl(ctx, ref)
	if err != nil {
		return fail(err)
	}
	if resp, err = exchange(ctx, conn, req); err != nil {
		return fail(err)
	}
	if resp.Failure != nil {
		e := resp.Failure.Err(ref)
		var known *sandbox.Error
		if errors.As(e, &known) {
			known.Op = req.Op
		}
		return resp, e
	}
	return resp, nil
}

// exchange sends a request over a connection, which it closes, and returns the answer.
func exchange(ctx context.Context, conn net.Conn, req launch.ControlRequest) (resp launch.ControlResponse, err error) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	line, err := json.Marshal(req)
	if err != nil {
		return resp, err
	}
	if _, err := conn.Write(append(line, '\n')); err != nil {
		return resp, err
	}
	answer, err := bufio.NewReader(io.LimitReader(conn, maxAnswer)).ReadBytes('\n')
	if err != nil {
		return resp, err
	}
	return resp, json.Unmarshal(answer, &resp)
}

// dialControl connects to the runner. Its socket is there a moment after the sandbox runs.
func (b *Backend) dialControl(ctx context.Context, ref sandbox.Ref) (net.Conn, error) {
	for deadline := time.Now().Add(time.Second); ; {
		conn, err := dialSocket(ctx, b.store.Path(ref), launch.ControlFile)
		if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ECONNREFUSED) || time.Now().After(deadline) {
			return conn, err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
