package remote

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/coder/websocket"

	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// conn is a pipe of bytes over a WebSocket. Closing it does not wait for the other end, which drops what belongs to it anyway.
type conn struct {
	net.Conn
	ws *websocket.Conn
}

// Close ends the connection.
func (c *conn) Close() error { return c.ws.CloseNow() }

// Dial connects to the guest agent's relay (contract msb-0.6 §3.6).
func (b *Backend) Dial(ctx context.Context, ref sandbox.Ref) (net.Conn, error) {
	if err := check(ref); err != nil {
		return nil, err
	}
	c := call{op: "connect", ref: ref}
	path := byName(ref)
	v, err := b.extension(ctx)
	if err != nil {
		return nil, err
	}
	if v < cloudapi.ExtensionVersion { // which knows agents by their IDs only
		now, err := b.Get(ctx, ref)
		if err != nil {
			return nil, err
		}
		if now.Status.Terminal() {
			return nil, notRunning(ref, now.Status)
		}
		path = "/sandboxes/" + url.PathEscape(now.ID)
	}
	bound, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	u := "ws" + strings.TrimPrefix(b.cfg.URL, "http") + "/v1" + path + "/agent"
	ws, resp, err := websocket.Dial(bound, u, &websocket.DialOptions{HTTPClient: b.cfg.Client, HTTPHeader: b.header(ref.Namespace), CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
			data, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
			return nil, cloudapi.ErrorOf(c.op, ref, resp.StatusCode, data, false, false)
		}
		return nil, c.failed(ctx, err)
	}
	ws.SetReadLimit(-1) // it is a stream: no message is held in memory
	return &conn{websocket.NetConn(context.Background(), ws, websocket.MessageBinary), ws}, nil
}
