package image

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// client reads one repository of one registry.
type client struct {
	store *Store
	repo  name.Repository
	http  *http.Client
	base  *http.Transport
}

const (
	tries        = 5
	maxBroken    = 50 // connections for one layer
	dialWait     = 10 * time.Second
	headerWait   = 30 * time.Second // for the first byte of an answer
	maxRedirects = 10
)

var errStalled = errors.New("the registry stopped sending")

// acceptManifests is what we can read.
var acceptManifests = strings.Join([]string{
	string(types.OCIManifestSchema1), string(types.DockerManifestSchema2), string(types.OCIImageIndex), string(types.DockerManifestList),
}, ", ")

// newClient returns a client of ref's repository at host, which is ref's registry or a mirror of it. Nothing is asked yet.
func (s *Store) newClient(ctx context.Context, ref Reference, host string, o PullOptions) (*client, error) {
	configured := s.cfg.Registries[host]
	insecure := o.Insecure || configured.Insecure
	opts := []name.Option{name.StrictValidation}
	if insecure {
		opts = append(opts, name.Insecure)
	}
	repo, err := name.NewRepository(host+"/"+ref.Repository, opts...)
	if err != nil {
		return nil, &sandbox.Error{Op: "pull image", Kind: sandbox.InvalidArgument, Message: ref.Short(), Err: err}
	}
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.DialContext = (&net.Dialer{Timeout: dialWait}).DialContext
	base.ResponseHeaderTimeout = headerWait
	base.MaxIdleConnsPerHost = s.cfg.Parallel
	if base.TLSClientConfig, err = s.tls(insecure, s.cfg.CACerts, configured.CACerts, o.CACerts); err != nil {
		return nil, err
	}
	c := &client{store: s, repo: repo, base: base}
	given := o.Auth
	if host != ref.Registry {
		given = nil // those are not for the mirror
	}
	auth, _, err := s.credentials(ctx, host, repo.Registry, given)
	if err != nil {
		return nil, err
	}
	var inner http.RoundTripper = transport.NewUserAgent(base, "msb")
	if !insecure {
		inner = guarded{inner}
	}
	err = c.retry(ctx, func() error {
		rt, err := transport.NewWithContext(ctx, repo.Registry, auth, inner, []string{repo.Scope(transport.PullScope)})
		c.http = &http.Client{Transport: rt, CheckRedirect: checkRedirect}
		return err
	})
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *client) close() { c.base.CloseIdleConnections() }

// tls returns the configuration that trusts this machine's certificates and those of the files.
func (s *Store) tls(insecure bool, lists ...[]string) (*tls.Config, error) {
	t := &tls.Config{InsecureSkipVerify: insecure, MinVersion: tls.VersionTLS12}
	for _, list := range lists {
		for _, path := range list {
			pem, err := os.ReadFile(path)
			if t.RootCAs == nil {
				if t.RootCAs, _ = x509.SystemCertPool(); t.RootCAs == nil {
					t.RootCAs = x509.NewCertPool()
				}
			}
			if err == nil && !t.RootCAs.AppendCertsFromPEM(pem) {
				err = errors.New("no certificate in it")
			}
			if err != nil {
				return nil, &sandbox.Error{Op: "read CA certificates", Kind: sandbox.InvalidConfig,
					Message: "read CA certificates " + path, Hint: "give a file of PEM certificates", Err: err}
			}
		}
	}
	return t, nil
}

// guarded refuses plain HTTP to other machines: the library falls back to it for private addresses, with the password.
type guarded struct{ next http.RoundTripper }

func (g guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	if host := r.URL.Hostname(); r.URL.Scheme == "http" && host != "localhost" {
		if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
			return nil, fmt.Errorf("plain HTTP to %s is refused without --insecure", host)
		}
	}
	return g.next.RoundTrip(r)
}

// checkRedirect keeps a registry from sending us to addresses that only we can reach.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	ip, err := netip.ParseAddr(req.URL.Hostname())
	if err != nil || req.URL.Hostname() == via[0].URL.Hostname() {
		return nil
	}
	if ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() {
		return fmt.Errorf("a redirect from %s to the private address %s is refused", via[0].URL.Host, ip)
	}
	return nil
}

// retry calls try until it works, fails for good, or has failed too often.
func (c *client) retry(ctx context.Context, try func() error) error {
	for n := 1; ; n++ {
		err := try()
		if err == nil || ctx.Err() != nil || n == tries || !temporary(err) {
			return err
		}
		if err := c.store.pause(ctx, n); err != nil {
			return err
		}
	}
}

// pause waits before try n+1: longer each time, and not the same for all who wait.
func (s *Store) pause(ctx context.Context, n int) error {
	d := s.cfg.Backoff << (n - 1)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d/2 + rand.N(d)):
		return nil
	}
}

// get requests a part of the repository. The answer is 200 or 206.
func (c *client) get(ctx context.Context, what string, header http.Header) (*http.Response, error) {
	u := fmt.Sprintf("%s://%s/v2/%s/%s", c.repo.Scheme(), c.repo.RegistryStr(), c.repo.RepositoryStr(), what)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// check asks the registry whether it lets us in.
func (c *client) check(ctx context.Context) error {
	u := fmt.Sprintf("%s://%s/v2/", c.repo.Scheme(), c.repo.RegistryStr())
	return c.retry(ctx, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
		if err != nil {
			return err
		}
		resp, err := c.http.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return transport.CheckError(resp, http.StatusOK)
	})
}

// manifest returns the manifest or index with this tag or digest, and its digest.
func (c *client) manifest(ctx context.Context, id string) ([]byte, Digest, error) {
	var b []byte
	err := c.retry(ctx, func() error {
		whole, cancel := context.WithTimeoutCause(ctx, headerWait+c.store.cfg.Stall, errStalled)
		defer cancel()
		resp, err := c.get(whole, "manifests/"+id, http.Header{"Accept": {acceptManifests}})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if b, err = io.ReadAll(io.LimitReader(resp.Body, maxManifest+1)); err != nil && ctx.Err() == nil && whole.Err() != nil {
			err = errStalled
		}
		return err
	})
	if err != nil {
		return nil, "", err
	}
	if len(b) > maxManifest {
		return nil, "", fmt.Errorf("manifest: %w of %d bytes", ErrTooLarge, maxManifest)
	}
	d := digestOfBytes(b)
	if strings.Contains(id, ":") && id != string(d) {
		return nil, "", fmt.Errorf("manifest %s: %w: it is %s", id, ErrDigest, d)
	}
	return b, d, nil
}

// blob returns the contents that d describes, from the start. They are not verified.
func (c *client) blob(ctx context.Context, d descriptor) io.ReadCloser {
	ctx, cancel := context.WithCancelCause(ctx)
	return &blobReader{c: c, d: d, ctx: ctx, cancel: cancel}
}

// blobReader reads a blob, and goes on where it was when the connection breaks.
type blobReader struct {
	c      *client
	d      descriptor
	ctx    context.Context
	cancel context.CancelCauseFunc
	body   io.ReadCloser
	stall  *time.Timer
	off    int64
	failed int // times in a row
	broken int // times in all
}

func (b *blobReader) Read(p []byte) (int, error) {
	for {
		n, err := b.read(p)
		if n > 0 {
			b.off += int64(n)
			b.failed = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) && b.off >= b.d.Size {
			return 0, io.EOF
		}
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: after %d of %d bytes: %w", ErrTruncated, b.off, b.d.Size, io.ErrUnexpectedEOF)
		}
		b.closeBody()
		b.failed++
		b.broken++
		if b.ctx.Err() != nil || b.failed == tries || b.broken == maxBroken || !temporary(err) {
			return 0, cmp.Or(context.Cause(b.ctx), err)
		}
		if err := b.c.store.pause(b.ctx, b.failed); err != nil {
			return 0, err
		}
	}
}

func (b *blobReader) read(p []byte) (int, error) {
	if b.body == nil {
		if err := b.open(); err != nil {
			return 0, err
		}
	}
	n, err := b.body.Read(p)
	b.stall.Reset(b.c.store.cfg.Stall)
	if n > 0 {
		return n, nil
	}
	return 0, err
}

// open requests the rest. A registry that knows no ranges sends it all again.
func (b *blobReader) open() error {
	ctx, cancel := context.WithCancelCause(b.ctx)
	var part http.Header
	if b.off > 0 && b.off < b.d.Size {
		part = http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", b.off, b.d.Size-1)}}
	}
	resp, err := b.c.get(ctx, "blobs/"+string(b.d.Digest), part)
	var answer *transport.Error
	if part != nil && errors.As(err, &answer) && answer.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		resp, err = b.c.get(ctx, "blobs/"+string(b.d.Digest), nil)
	}
	if err != nil {
		cancel(nil)
		return err
	}
	b.body = &stallable{resp.Body, ctx, cancel}
	b.stall = time.AfterFunc(b.c.store.cfg.Stall, func() { cancel(errStalled) })
	if resp.StatusCode == http.StatusPartialContent {
		from, _, _ := strings.Cut(strings.TrimPrefix(resp.Header.Get("Content-Range"), "bytes "), "-")
		if at, err := strconv.ParseInt(from, 10, 64); err != nil || at != b.off {
			return fmt.Errorf("the registry sent range %.100q for one from %d", resp.Header.Get("Content-Range"), b.off)
		}
		return nil
	}
	for rest := b.off; rest > 0; {
		n, err := io.CopyN(io.Discard, b.body, min(rest, 1<<20))
		b.stall.Reset(b.c.store.cfg.Stall)
		if rest -= n; err != nil {
			return err
		}
	}
	return nil
}

func (b *blobReader) closeBody() {
	if b.body != nil {
		b.stall.Stop()
		_ = b.body.Close()
		b.body = nil
	}
}

func (b *blobReader) Close() error {
	b.closeBody()
	b.cancel(nil)
	return nil
}

// stallable is a body whose request can be given up.
type stallable struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func (s *stallable) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if err != nil && errors.Is(context.Cause(s.ctx), errStalled) {
		err = errStalled
	}
	return n, err
}

func (s *stallable) Close() error {
	s.cancel(nil)
	return s.ReadCloser.Close()
}
