// Package remote keeps sandboxes at a server that speaks the control plane API (contract msb-0.6 §3): one of ours, or any other. What the
// API has no words for needs one of ours, which says so (cloudapi.Capabilities); elsewhere it is the typed error Unsupported.
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
	"strings"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/internal/version"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Config says which server. The zero value of Client is one that takes proxies from the environment.
type Config struct {
	URL    string // http or https, without a slash at its end
	Key    string
	Client *http.Client // without a timeout: each call has its own
}

// Backend is the backend of one server. It implements backend.Backend.
type Backend struct {
	cfg Config

	mu    sync.Mutex
	known *cloudapi.Capabilities // nil until it was asked
}

var (
	_ backend.Backend   = (*Backend)(nil)
	_ backend.Finder    = (*Backend)(nil)
	_ backend.Volumes   = (*Backend)(nil)
	_ backend.LogReader = (*Backend)(nil)
	_ backend.Meterer   = (*Backend)(nil)
	_ backend.Drainer   = (*Backend)(nil)
	_ backend.Modifier  = (*Backend)(nil)
	_ backend.Networker = (*Backend)(nil)
	_ backend.Redefiner = (*Backend)(nil)
)

// New returns the backend of a server. It asks it nothing yet.
func New(cfg Config) *Backend {
	if cfg.Client == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConnsPerHost = 16
		cfg.Client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return &Backend{cfg: cfg}
}

// Close gives back the connections that nobody uses.
func (b *Backend) Close() error {
	b.cfg.Client.CloseIdleConnections()
	return nil
}

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
	body      any // nil is none
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
	var body io.Reader
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
	if body != nil {
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

// byName is the path of a sandbox.
func byName(ref sandbox.Ref) string { return "/sandboxes/by-name/" + url.PathEscape(string(ref.Name)) }

// info is what an answer says of the sandbox that was asked for as ref.
func info(s cloudapi.Sandbox, ref sandbox.Ref) sandbox.Info {
	var i sandbox.Info
	if s.Info != nil {
		i = *s.Info
	} else {
		i = sandbox.Info{ID: s.ID, Status: cloudapi.Status(s.Status), CreatedAt: s.CreatedAt, UpdatedAt: s.CreatedAt}
		if s.Spec != nil {
			i.Spec, _ = s.Spec.Spec() // as much of it as there is
		}
		i.Spec.Name = sandbox.Name(s.Name)
		i.Spec.Lifecycle.Ephemeral = s.Ephemeral
		i.Spec = i.Spec.WithDefaults()
		if s.StartedAt != nil {
			i.UpdatedAt = *s.StartedAt
		}
		if i.Status == sandbox.Stopped || i.Status == sandbox.Crashed {
			i.End = &sandbox.End{Reason: sandbox.ReasonShutdown, At: i.UpdatedAt}
			if s.StoppedAt != nil {
				i.End.At = *s.StoppedAt
			}
			if s.LastFailure != nil {
				i.End.Reason, i.End.Message = sandbox.ReasonFailed, *s.LastFailure
			}
		}
	}
	i.Ref = sandbox.Ref{Namespace: ref.Namespace, Name: sandbox.Name(s.Name)}
	return i
}

// check looks at a name before it is sent.
func check(ref sandbox.Ref) error { return ref.Validate() }

// Get returns what is recorded of one sandbox.
func (b *Backend) Get(ctx context.Context, ref sandbox.Ref) (sandbox.Info, error) {
	if err := check(ref); err != nil {
		return sandbox.Info{}, err
	}
	var s cloudapi.Sandbox
	err := b.do(ctx, call{op: "get", ref: ref, method: http.MethodGet, path: byName(ref)}, &s)
	if err != nil {
		return sandbox.Info{}, err
	}
	return info(s, ref), nil
}

// Find returns what is recorded of the sandbox with an ID.
func (b *Backend) Find(ctx context.Context, id string) (sandbox.Info, error) {
	var s cloudapi.Sandbox
	err := b.do(ctx, call{op: "get", method: http.MethodGet, path: "/sandboxes/" + url.PathEscape(id)}, &s)
	if err != nil {
		return sandbox.Info{}, err
	}
	ref := sandbox.DefaultRef(s.Name)
	if s.Info != nil {
		ref = s.Info.Ref
	}
	return info(s, ref), nil
}

// The size of a page, and how many there may be.
const (
	pageSize = 100
	maxPages = 10_000
)

// List returns the sandboxes of a namespace, newest first.
func (b *Backend) List(ctx context.Context, namespace string) ([]sandbox.Info, error) {
	var all []sandbox.Info
	q := url.Values{"limit": {fmt.Sprint(pageSize)}}
	for range maxPages {
		var page cloudapi.Page[cloudapi.Sandbox]
		if err := b.do(ctx, call{op: "list", namespace: namespace, method: http.MethodGet, path: "/sandboxes", query: q}, &page); err != nil {
			return nil, err
		}
		for _, s := range page.Data {
			ref := sandbox.Ref{Namespace: namespace, Name: sandbox.Name(s.Name)}
			if namespace == "" {
				ref.Namespace = sandbox.DefaultNamespace
			}
			all = append(all, info(s, ref))
		}
		if page.NextCursor == nil || *page.NextCursor == "" {
			return all, nil
		}
		q.Set("cursor", *page.NextCursor)
	}
	return nil, &sandbox.Error{Op: "list", Kind: sandbox.Protocol, Message: "the cloud's list does not end"}
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

// waiting is the query that waits for a sandbox to run.
func waiting(ours bool) (url.Values, time.Duration) {
	wait := otherWait
	if ours {
		wait = startTimeout
	}
	return url.Values{"wait_for": {"running"}, "wait_timeout": {fmt.Sprint(int(wait.Seconds()))}}, wait + 5*time.Second
}

// Create makes a sandbox and starts it.
func (b *Backend) Create(ctx context.Context, req backend.CreateRequest) (sandbox.Info, error) {
	if err := check(req.Ref); err != nil {
		return sandbox.Info{}, err
	}
	body, lost, err := b.body(ctx, req)
	if err != nil {
		return sandbox.Info{}, err
	}
	ours := body.Extension != nil
	if !ours && len(lost) > 0 {
		return sandbox.Info{}, &sandbox.Error{Op: "create", Ref: req.Ref, Kind: sandbox.Unsupported, Message: "this cloud cannot give a sandbox: " + strings.Join(lost, ", ")}
	}
	if !ours && req.Replace {
		if err := b.Remove(ctx, req.Ref, true); err != nil && sandbox.KindOf(err) != sandbox.NotFound {
			return sandbox.Info{}, err
		}
	}
	c := call{op: "create", ref: req.Ref, method: http.MethodPost, path: "/sandboxes", body: body, create: true}
	if !req.Prepare {
		c.query, c.timeout = waiting(ours)
		c.query.Set("start", "true")
	}
	if req.Progress != nil {
		req.Progress(backend.Event{Step: "boot", Text: "Starting " + string(req.Ref.Name)})
	}
	var s cloudapi.Sandbox
	if err := b.taken(ctx, c, ours, "remove", &s); err != nil {
		return sandbox.Info{}, err
	}
	return info(s, req.Ref), nil
}

// body is the body of a request.
func (b *Backend) body(ctx context.Context, req backend.CreateRequest) (cloudapi.CreateBody, []string, error) {
	spec := req.Spec
	spec.Name = req.Ref.Name
	v, err := b.extension(ctx)
	if err != nil {
		return cloudapi.CreateBody{}, nil, err
	}
	body, lost := cloudapi.BodyOf(spec, true)
	if v < cloudapi.ExtensionVersion {
		return body, lost, nil
	}
	body = cloudapi.CreateBody{Name: body.Name, Image: body.Image, Extension: &cloudapi.Extension{Spec: &spec, Startup: req.Startup, Replace: req.Replace,
		GraceMS: req.Grace.Milliseconds(), Generated: req.Generated, Values: map[string]string{}}}
	if s := spec.Network.Secrets; s != nil {
		for _, x := range s.Secrets {
			body.Extension.Values[x.EnvVar] = x.Value.Reveal()
		}
	}
	return body, nil, nil
}

// Start starts a sandbox that was stopped.
func (b *Backend) Start(ctx context.Context, ref sandbox.Ref, opt backend.StartOptions) (sandbox.Info, error) {
	if err := check(ref); err != nil {
		return sandbox.Info{}, err
	}
	v, err := b.extension(ctx)
	if err != nil {
		return sandbox.Info{}, err
	}
	ours := v >= cloudapi.ExtensionVersion
	if !ours && opt.Sole {
		now, err := b.Get(ctx, ref)
		if err == nil && !now.Status.Terminal() {
			err = &sandbox.Error{Op: "start", Ref: ref, Kind: sandbox.AlreadyExists}
		}
		if err != nil {
			return sandbox.Info{}, err
		}
	}
	c := call{op: "start", ref: ref, method: http.MethodPost, path: byName(ref) + "/start", body: cloudapi.StartBody{Sole: opt.Sole, Quiet: opt.Quiet}}
	c.query, c.timeout = waiting(ours)
	if opt.Progress != nil {
		opt.Progress(backend.Event{Step: "boot", Text: "Starting " + string(ref.Name)})
	}
	var s cloudapi.Sandbox
	if err := b.taken(ctx, c, ours, "stop", &s); err != nil {
		return sandbox.Info{}, err
	}
	return info(s, ref), nil
}

// stopPoll is how often a sandbox that is ending is looked at.
const stopPoll = 100 * time.Millisecond

// Stop ends a running sandbox and returns when it has ended.
func (b *Backend) Stop(ctx context.Context, ref sandbox.Ref, opt backend.StopOptions) error {
	if err := check(ref); err != nil {
		return err
	}
	v, err := b.extension(ctx)
	if err != nil {
		return err
	}
	if v < cloudapi.ExtensionVersion {
		now, err := b.Get(ctx, ref)
		switch {
		case err != nil:
			return err
		case now.Status.Terminal():
			return notRunning(ref, now.Status)
		case opt.Force:
			return b.needs(ctx, "kill")
		}
	}
	var s cloudapi.Sandbox
	body := cloudapi.StopBody{Force: opt.Force, TimeoutMS: opt.Timeout.Milliseconds(), Wait: true}
	if opt.Timeout > 0 && body.TimeoutMS == 0 {
		body.TimeoutMS = 1
	}
	if err := b.do(ctx, call{op: "stop", ref: ref, method: http.MethodPost, path: byName(ref) + "/stop", body: body, timeout: opt.Timeout + time.Minute}, &s); err != nil {
		return err
	}
	for i := info(s, ref); !i.Status.Terminal(); {
		select {
		case <-ctx.Done():
			return &sandbox.Error{Op: "stop", Ref: ref, Kind: sandbox.Cancelled, Message: "the stop goes on", Err: context.Cause(ctx)}
		case <-time.After(stopPoll):
		}
		var err error
		if i, err = b.Get(ctx, ref); sandbox.KindOf(err) == sandbox.NotFound || err == nil && i.ID != s.ID {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

func notRunning(ref sandbox.Ref, s sandbox.Status) error {
	return sandbox.Info{Ref: ref, Status: s}.NotRunning("")
}

// Remove forgets a sandbox and its files.
func (b *Backend) Remove(ctx context.Context, ref sandbox.Ref, force bool) error {
	if err := check(ref); err != nil {
		return err
	}
	v, err := b.extension(ctx)
	if err != nil {
		return err
	}
	c := call{op: "remove", ref: ref, method: http.MethodDelete, path: byName(ref), timeout: 2 * time.Minute}
	switch {
	case force:
	case v >= cloudapi.ExtensionVersion:
		c.query = url.Values{"force": {"false"}}
	default:
		now, err := b.Get(ctx, ref)
		if err == nil && !now.Status.Terminal() {
			err = &sandbox.Error{Op: "remove", Ref: ref, Kind: sandbox.StillRunning, Hint: "stop it first, or remove it with: msb rm -f " + string(ref.Name)}
		}
		if err != nil {
			return err
		}
	}
	return b.do(ctx, c, nil)
}
