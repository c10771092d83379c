package rest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The bounds of a pipe to an agent.
const (
	pipeChunk   = 64 << 10         // bytes of one message to the client
	pipePing    = 30 * time.Second // how often the client is asked whether it is there
	pipePong    = 30 * time.Second // how long it may take to say so, and to take a message
	relayDialed = 10 * time.Second // the client's own patience
)

// agent is a pipe of bytes to the sandbox's relay, which speaks first (contract msb-0.6 §3.6). When either end goes the other does; the
// relay then ends the sessions of the client.
func (h *Handler) agent(r *request, info sandbox.Info) (any, error) {
	if info.Status.Terminal() {
		return nil, info.NotRunning("connect")
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return nil, &server.Failure{Status: http.StatusUpgradeRequired, Message: "this is a WebSocket"}
	}
	ctx, cancel := context.WithTimeout(r.Context(), relayDialed)
	relay, err := h.backend.Dial(ctx, info.Ref)
	cancel()
	h.server.Audited(r.Context(), "agent", info.Ref, err) // it may do anything by it
	if err != nil {
		return nil, err
	}
	defer relay.Close()
	// Who asks from a page was looked at before (server.Route.AnyOrigin).
	c, err := websocket.Accept(r.w, r.Request, &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled})
	if err != nil { // Accept has answered
		return streamed, nil
	}
	pipe(r.Context(), h.server.Draining(), c, relay)
	return streamed, nil
}

// pipe copies both ways until one end goes, or stop is closed.
func pipe(ctx context.Context, stop <-chan struct{}, c *websocket.Conn, relay net.Conn) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.SetReadLimit(-1) // it is a stream: no message is held in memory
	var all sync.WaitGroup
	all.Go(func() { cancel(toRelay(ctx, c, relay)) })
	all.Go(func() { cancel(toClient(ctx, c, relay)) })
	all.Go(func() {
		tick := time.NewTicker(pipePing)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				ping, done := context.WithTimeout(ctx, pipePong)
				err := c.Ping(ping)
				done()
				if err != nil {
					cancel(err)
				}
			case <-stop:
				cancel(errStopping)
			case <-ctx.Done():
				return
			}
		}
	})
	<-ctx.Done()
	relay.Close()
	if cause := context.Cause(ctx); cause == errRelay || cause == errStopping {
		_ = c.Close(websocket.StatusGoingAway, cause.Error())
	}
	_ = c.CloseNow()
	all.Wait()
}

var (
	errRelay    = errors.New("the sandbox has ended")
	errStopping = errors.New("the server is stopping")
	errClient   = errors.New("the client has gone")
)

// toRelay copies what the client sends.
func toRelay(ctx context.Context, c *websocket.Conn, relay net.Conn) error {
	buf := make([]byte, pipeChunk)
	for {
		kind, msg, err := c.Reader(ctx)
		if err != nil {
			return errClient
		}
		for {
			n, err := msg.Read(buf)
			if err == io.EOF {
				break
			}
			if err != nil { // what came with it is still masked
				return errClient
			}
			if kind != websocket.MessageBinary {
				continue
			}
			if _, err := relay.Write(buf[:n]); err != nil {
				return errRelay
			}
		}
	}
}

// toClient copies what the relay sends.
func toClient(ctx context.Context, c *websocket.Conn, relay net.Conn) error {
	buf := make([]byte, pipeChunk)
	for {
		n, err := relay.Read(buf)
		if n > 0 {
			write, done := context.WithTimeout(ctx, pipePong)
			err := c.Write(write, websocket.MessageBinary, buf[:n])
			done()
			if err != nil {
				return errClient
			}
		}
		if err != nil {
			return errRelay
		}
	}
}
