package image

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Policy says when a pull asks the registry.
type Policy string

// The policies. The zero Policy is IfMissing.
const (
	Always    Policy = "always"     // the registry says what the reference means now
	IfMissing Policy = "if-missing" // only when the reference was not pulled before; otherwise nothing touches the network
	Never     Policy = "never"
)

// PullOptions are the options of one pull. The zero value works.
type PullOptions struct {
	Policy   Policy
	Force    bool     // get all of it again, whatever is stored, unless the policy is Never
	Platform string   // default that of the Store
	Insecure bool     // as Registry.Insecure
	CACerts  []string // PEM files, besides those that are configured
	Auth     *Auth    // instead of all stored and configured credentials
	// Proven images are only those that the registry gives to who asks: what it gave to credentials of another pull it is asked for again.
	Proven   bool
	Progress func(Progress)
}

// private reports whether the registry is shown credentials that are not the Store's.
func (o PullOptions) private() bool { return o.Auth != nil && *o.Auth != Auth{} }

// Pull returns the root of an image, got from its registry as far as the policy and what is stored ask for it.
//
// Kinds of errors: InvalidArgument (a bad reference), ImageNotFound, ImagePullFailed, IO, Cancelled. After one nothing is
// left but the layers that were complete, and the next pull goes on with these.
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (*Root, error) {
	r, err := s.Parse(ref)
	if err != nil {
		return nil, err
	}
	want := cmp.Or(o.Platform, s.cfg.Platform)
	p, err := parsePlatform(want)
	if err != nil {
		return nil, err
	}
	policy := o.Policy
	if o.Force && policy != Never {
		policy = Always
	}
	if o.Proven && policy != Always {
		rec, err := s.readRef(r, want)
		switch {
		case err == nil && rec.Private && policy == Never:
			return nil, notFound(r.Short()) // as if it were not there
		case err == nil && rec.Private:
			policy = Always
		}
	}
	switch policy {
	case Always:
	case IfMissing, Never, "":
		root, err := s.resolve(ref, want)
		if err == nil || policy == Never || !errors.Is(err, sandbox.ImageNotFound) {
			return root, err
		}
	default:
		return nil, &sandbox.Error{Op: "pull image", Kind: sandbox.InvalidConfig,
			Message: fmt.Sprintf("%q is not a pull policy", o.Policy), Hint: "write always, if-missing or never"}
	}
	if err := s.prepare(); err != nil {
		return nil, err
	}
	s.sweep()
	pull := &pull{s: s, ref: r, platform: p, want: want, o: o, report: newReporter(r.Short(), o.Progress)}
	d, err := pull.run(ctx)
	if err != nil {
		return nil, s.pullError(r, err)
	}
	return s.Root(string(d))
}

// pull is one pull that asks the registry.
type pull struct {
	s        *Store
	ref      Reference
	platform platform
	want     string // the platform as the user wrote it
	o        PullOptions
	report   *reporter
}

// run asks the mirrors and then the registry itself, until one gives the image.
func (p *pull) run(ctx context.Context) (Digest, error) {
	var err error
	hosts := append(append([]string{}, p.s.cfg.Registries[p.ref.Registry].Mirrors...), p.ref.Registry)
	for _, host := range hosts {
		var d Digest
		if d, err = p.from(ctx, host); err == nil {
			return d, nil
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
	}
	return "", err
}

// from gets the image from one host.
func (p *pull) from(ctx context.Context, host string) (Digest, error) {
	c, err := p.s.newClient(ctx, p.ref, host, p.o)
	if err != nil {
		return "", err
	}
	defer c.close()
	raw, d, m, err := p.resolve(ctx, c)
	if err != nil {
		return "", err
	}
	p.report.report(Progress{Phase: Resolved, Digest: string(d), Layers: len(m.Layers)})
	if !p.o.Force && p.s.has(d, m) {
		return d, p.found(d, m)
	}
	w, err := p.s.begin(ctx, d.hex(), func() { p.report.report(Progress{Phase: Waiting, Digest: string(d), Layers: len(m.Layers)}) })
	if err != nil {
		return "", err
	}
	defer w.end()
	if !p.o.Force && p.s.has(d, m) { // another process has made it meanwhile
		return d, p.found(d, m)
	}
	config, err := c.read(ctx, m.Config, maxConfig)
	if err != nil {
		return "", fmt.Errorf("configuration: %w", err)
	}
	cf, err := parseConfig(config, m)
	if err != nil {
		return "", err
	}
	if err := p.fits(cf); err != nil {
		return "", err
	}
	img := &incoming{digest: d, manifest: raw, config: config, m: m, layers: p.sources(c, w, m, cf)}
	err = p.s.install(ctx, w, img, p.report)
	if errors.Is(err, errDamaged) {
		img.layers = p.sources(c, w, m, cf) // without the stored layers that were damaged
		err = p.s.install(ctx, w, img, p.report)
	}
	if err != nil {
		return "", err
	}
	return d, p.s.writeRef(p.ref, p.want, d, p.o.private())
}

// found ends a pull of what is stored.
func (p *pull) found(d Digest, m *manifest) error {
	if _, cf, err := p.s.metadata(d); err != nil {
		return err
	} else if err := p.fits(cf); err != nil {
		return err
	}
	p.report.report(Progress{Phase: Done, Digest: string(d), Layers: len(m.Layers), Total: m.size()})
	return p.s.writeRef(p.ref, p.want, d, p.o.private())
}

// fits checks an image that no index chose.
func (p *pull) fits(cf *configFile) error {
	if made := (platform{cf.OS, cf.Architecture, cf.Variant}); made.Architecture != "" && !p.platform.runs(made) {
		return fmt.Errorf("the image is made for %s, not for %s", made, p.platform)
	}
	return nil
}

// resolve returns the manifest of the image, verified, after choosing one from an index.
func (p *pull) resolve(ctx context.Context, c *client) ([]byte, Digest, *manifest, error) {
	id := cmp.Or(string(p.ref.Digest), p.ref.Tag)
	if p.ref.Digest != "" && !isSHA256(p.ref.Digest) {
		return nil, "", nil, &sandbox.Error{Op: "pull image", Kind: sandbox.Unsupported, Message: "digests other than sha256 are not supported"}
	}
	const depth = 3 // of an index in an index
	for range depth {
		raw, d, err := c.manifest(ctx, id)
		if err != nil {
			return nil, "", nil, err
		}
		m, err := parseManifest(raw)
		if err != nil || !m.isIndex() {
			return raw, d, m, err
		}
		chosen, err := m.choose(p.platform)
		if err != nil {
			return nil, "", nil, err
		}
		id = string(chosen.Digest)
	}
	return nil, "", nil, fmt.Errorf("more than %d indexes in one another", depth-1)
}

var errDamaged = errors.New("a stored layer was damaged")

// sources says where each layer comes from: the store, or else the registry.
func (p *pull) sources(c *client, w *work, m *manifest, cf *configFile) []source {
	layers := make([]source, len(m.Layers))
	for i, d := range m.Layers {
		src := source{descriptor: d, diffID: cf.RootFS.DiffIDs[i]}
		stored := p.s.blobPath(d.Digest)
		if info, err := os.Stat(stored); err == nil && info.Size() == d.Size && !p.o.Force {
			src.stored = true
			src.open = func(context.Context) (io.ReadCloser, error) { return os.Open(stored) }
			src.bad = func() { _ = os.Remove(stored) }
		} else {
			src.open = func(ctx context.Context) (io.ReadCloser, error) { return c.blob(ctx, d), nil }
			src.keep = w.path(fmt.Sprintf("blob-%d", i))
			src.saved = func() { _ = os.Rename(src.keep, stored) } // or the next try gets it again
		}
		layers[i] = src
	}
	return layers
}

// read returns small contents, verified.
func (c *client) read(ctx context.Context, d descriptor, limit int64) ([]byte, error) {
	if d.Size > limit {
		return nil, fmt.Errorf("%w of %d bytes", ErrTooLarge, limit)
	}
	r := c.blob(ctx, d)
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, d.Size+1))
	if err != nil {
		return nil, err
	}
	return b, d.verify(b)
}

// incoming is an image on its way into the store.
type incoming struct {
	digest           Digest
	manifest, config []byte
	m                *manifest
	layers           []source
}

// has reports whether the image is stored.
func (s *Store) has(d Digest, m *manifest) bool {
	return s.exists(s.manifestPath(d)) && s.exists(s.configPath(m.Config.Digest)) && cached(s.erofsPath(d))
}

// install converts the image and publishes all that belongs to it, its EROFS file last.
func (s *Store) install(ctx context.Context, w *work, img *incoming, report *reporter) error {
	f, side, err := s.convert(ctx, w.path("image"), img.layers, false, func(phase Phase, layer int, done int64) {
		p := Progress{Phase: phase, Layer: layer, Layers: len(img.layers)}
		if phase != Writing {
			p.Digest, p.Done, p.Total = string(img.layers[layer].Digest), done, img.layers[layer].Size
		}
		report.report(p)
	})
	if err != nil {
		return err
	}
	defer f.Close()
	facts, err := side.encode()
	if err != nil {
		return err
	}
	if err := errors.Join(
		w.write(s.sidePath(img.digest), facts),
		w.write(s.configPath(img.m.Config.Digest), img.config),
		w.write(s.manifestPath(img.digest), img.manifest),
	); err != nil {
		return err
	}
	if err := publish(f, s.erofsPath(img.digest)); err != nil {
		return err
	}
	if s.cfg.DropBlobs {
		for _, l := range img.layers {
			_ = os.Remove(s.blobPath(l.Digest))
		}
	}
	report.report(Progress{Phase: Done, Digest: string(img.digest), Layers: len(img.layers), Total: img.m.size()})
	return nil
}

// verify compares contents with their description.
func (d descriptor) verify(b []byte) error {
	if int64(len(b)) < d.Size {
		return fmt.Errorf("%s: %w: after %d of %d bytes", d.Digest, ErrTruncated, len(b), d.Size)
	}
	if got := sum(bytes.NewReader(b)); got != d.Digest {
		return fmt.Errorf("%s: %w: it is %s", d.Digest, ErrDigest, got)
	}
	return nil
}
