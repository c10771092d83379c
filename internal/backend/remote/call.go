package remote

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/internal/version"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The bounds of a call (contract msb-0.6 §3.1).
const (
	callTimeout  = 30 * time.Second
	startTimeout = 10 * time.Minute // with a server of ours; another is asked to wait for otherWait
	otherWait    = 90 * time.Second
	maxAnswer    = 64 << 20 // bytes
)

// call is one request.
type call struct {
	op        string // what is done, for errors
	ref       sandbox.Ref
	namespace string
	method    string
	path      string // below /v1, escaped
	query     url.Values
	header    map[string]string
	body      any       // nil is none
	raw       io.Reader // bytes in its place
	volume    bool
	create    bool
	timeout   time.Duration // 0 is callTimeout
}

// Header is what every request has.
func (b *Backend) header(namespace string) http.Header {
	h := http.Header{"User-Agent": {"microsandbox-go/" + version.Version}}
	if b.cfg.Key != "" {
		h.Set("Authorization", "Bearer "+b.cfg.Key)
	}
	if namespace != "" && namespace != sandbox.DefaultNamespace { // that is the key's own
		h.Set(cloudapi.NamespaceHeader, namespace)
	}
	return h
}

// failed is the error of a request that was not answered.
func (c call) failed(ctx context.Context, err error) error {
	e := &sandbox.Error{Op: c.op, Ref: c.ref, Kind: sandbox.Runtime, Message: "the cloud does not answer", Err: cause(err)}
	if ctx.Err() != nil {
		e.Kind, e.Message = sandbox.Cancelled, c.op+" was cancelled"
	}
	return e
}

// cause is what an *url.Error says without the URL.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// send asks, and returns an answer that is no error. The caller closes its body, and calls cancel after that.
func (b *Backend) send(ctx context.Context, c call) (*http.Response, error) {
	if c.ref.Name != "" {
		c.namespace = c.ref.Namespace
	}
	body := c.raw
	if c.body != nil {
		data, err := json.Marshal(c.body)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.op, err)
		}
		body = bytes.NewReader(data)
	}
	u := b.cfg.URL + "/v1" + c.path
	if len(c.query) > 0 {
		u += "?" + c.query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, c.method, u, body)
	if err != nil {
		return nil, &sandbox.Error{Op: c.op, Kind: sandbox.InvalidConfig, Message: "the cloud's address", Err: cause(err)}
	}
	r.Header = b.header(c.namespace)
	switch {
	case c.raw != nil:
		r.Header.Set("Content-Type", "application/octet-stream")
	case body != nil:
		r.Header.Set("Content-Type", "application/json")
	}
	for k, v := range c.header {
		r.Header.Set(k, v)
	}
	resp, err := b.cfg.Client.Do(r)
	if err != nil {
		return nil, c.failed(ctx, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return nil, cloudapi.ErrorOf(c.op, c.ref, resp.StatusCode, data, c.volume, c.create)
}

// do asks and reads the answer.
func (b *Backend) do(ctx context.Context, c call, into any) error {
	timeout := c.timeout
	if timeout == 0 {
		timeout = callTimeout
	}
	bound, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	resp, err := b.send(bound, c)
	if err != nil {
		if ctx.Err() == nil && bound.Err() != nil { // it was not the caller who lost patience
			return &sandbox.Error{Op: c.op, Ref: c.ref, Kind: sandbox.Runtime, Message: fmt.Sprintf("the cloud does not answer within %s", timeout)}
		}
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return c.failed(ctx, err)
	case len(data) > maxAnswer:
		return &sandbox.Error{Op: c.op, Ref: c.ref, Kind: sandbox.Protocol, Message: "the cloud's answer is too large"}
	case into == nil:
		return nil
	}
	if err := json.Unmarshal(data, into); err != nil {
		return &sandbox.Error{Op: c.op, Ref: c.ref, Kind: sandbox.Protocol, Message: "the cloud's answer", Err: err}
	}
	return nil
}

// extension is which version of what is ours the server knows; 0 is none.
func (b *Backend) extension(ctx context.Context) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known != nil {
		return b.known.Extension, nil
	}
	var c cloudapi.Capabilities
	err := b.do(ctx, call{op: "connect", method: http.MethodGet, path: "/capabilities"}, &c)
	if k := sandbox.KindOf(err); k == sandbox.NotFound || k == sandbox.Protocol {
		err = nil // a server of others
		c = cloudapi.Capabilities{}
	}
	if err == nil {
		b.known = &c
	}
	return c.Extension, err
}

// needs refuses what only servers of ours can do.
func (b *Backend) needs(ctx context.Context, what string) error {
	v, err := b.extension(ctx)
	if err == nil && v < cloudapi.ExtensionVersion {
		err = &sandbox.Error{Op: what, Kind: sandbox.Unsupported, Message: what + " is not supported by this cloud", Hint: "it is by msb server"}
	}
	return err
}

// taken runs a request that makes or starts something, so that nothing is left of it if ctx ends: the server is told to take it back,
// and heard that it did.
func (b *Backend) taken(ctx context.Context, c call, ours bool, undo string, into any) error {
	if ctx.Err() != nil {
		return c.failed(ctx, context.Cause(ctx))
	}
	if !ours {
		return b.do(ctx, c, into)
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	name := hex.EncodeToString(id[:])
	c.header = map[string]string{cloudapi.RequestHeader: name}
	err := b.do(ctx, c, into)
	if err == nil || ctx.Err() == nil && sandbox.KindOf(err) != sandbox.Runtime {
		return err
	}
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	_ = b.do(back, call{op: c.op, namespace: c.ref.Namespace, method: http.MethodDelete, path: "/requests/" + name, query: url.Values{"undo": {undo}}}, nil)
	return err
}
