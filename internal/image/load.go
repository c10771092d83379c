package image

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// LoadOptions are the options of a load. The zero value works.
type LoadOptions struct {
	Tag      string // another reference for the first image; needed when the archive names none
	Progress func(Progress)
}

// names of images in an OCI layout
const (
	annotationRef        = "org.opencontainers.image.ref.name"
	annotationContainerd = "io.containerd.image.name"
)

// archived is an image of an archive.
type archived struct {
	incoming
	names  []string
	config *configFile
}

// Load reads images from a docker-archive or the tar of an OCI layout, compressed or not, and returns what it stored. A
// regular file is read in place; anything else is copied first. An image that is there already is not made again.
//
// Kinds of errors: ImagePullFailed for what is no such archive, InvalidArgument for a bad name, IO, Cancelled.
func (s *Store) Load(ctx context.Context, r io.Reader, o LoadOptions) ([]Image, error) {
	list, err := s.load(ctx, r, o)
	var e *sandbox.Error
	switch {
	case err == nil || errors.As(err, &e):
		return list, err
	case ctx.Err() != nil:
		return nil, cancelled(ctx, "load image")
	case ofDisk(err):
		return nil, s.wrap("load image", err)
	}
	e = &sandbox.Error{Op: "load image", Kind: sandbox.ImagePullFailed, Message: "load the archive", Err: oneLine{err}}
	for _, h := range hints {
		if errors.Is(err, h.err) {
			e.Hint = h.hint
			break
		}
	}
	return nil, e
}

func (s *Store) load(ctx context.Context, r io.Reader, o LoadOptions) ([]Image, error) {
	if o.Tag != "" {
		if _, err := s.Parse(o.Tag); err != nil {
			return nil, err
		}
	}
	if err := s.prepare(); err != nil {
		return nil, err
	}
	s.sweep()
	w, err := s.begin(ctx, "load-"+rand.Text(), nil)
	if err != nil {
		return nil, err
	}
	defer w.end()
	a, done, err := s.openArchive(ctx, r, w)
	if err != nil {
		return nil, err
	}
	defer done()
	var images []*archived
	switch {
	case a.has("index.json"):
		images, err = s.readLayout(a)
	case a.has("manifest.json"):
		images, err = readDocker(a)
	default:
		return nil, fmt.Errorf("%w: it has neither index.json, as an OCI layout, nor manifest.json, as a docker-archive", ErrFormat)
	}
	if err != nil {
		return nil, err
	}
	if len(images) == 0 {
		return nil, fmt.Errorf("%w: there is no image in it", ErrFormat)
	}
	var list []Image
	for i, img := range images {
		if i == 0 && o.Tag != "" {
			img.names = append([]string{o.Tag}, img.names...)
		}
		loaded, err := s.loadOne(ctx, img, o)
		if err != nil {
			return nil, err
		}
		list = append(list, loaded...)
	}
	return list, nil
}

// loadOne stores one image under its names.
func (s *Store) loadOne(ctx context.Context, img *archived, o LoadOptions) ([]Image, error) {
	var refs []Reference
	for _, n := range img.names {
		r, err := ParseReference(n, s.cfg.DefaultRegistry)
		if err != nil {
			return nil, err
		}
		refs = append(refs, r)
	}
	if len(refs) == 0 {
		return nil, &sandbox.Error{Op: "load image", Kind: sandbox.InvalidArgument, Message: "the archive does not name its image",
			Hint: "give it a name: msb load -t NAME"}
	}
	report := newReporter(refs[0].Short(), o.Progress)
	report.report(Progress{Phase: Resolved, Digest: string(img.digest), Layers: len(img.layers)})
	w, err := s.begin(ctx, img.digest.hex(), func() {
		report.report(Progress{Phase: Waiting, Digest: string(img.digest), Layers: len(img.layers)})
	})
	if err != nil {
		return nil, err
	}
	defer w.end()
	if s.has(img.digest, img.m) {
		report.report(Progress{Phase: Done, Digest: string(img.digest), Layers: len(img.layers), Total: img.m.size()})
	} else {
		for i := range img.layers {
			src := &img.layers[i]
			stored := s.blobPath(src.Digest)
			src.keep = w.path(fmt.Sprintf("blob-%d", i))
			src.saved = func() { _ = os.Rename(src.keep, stored) }
		}
		if err := s.install(ctx, w, &img.incoming, report); err != nil {
			return nil, err
		}
	}
	want := s.cfg.Platform
	made := platform{img.config.OS, img.config.Architecture, img.config.Variant}
	if p, err := parsePlatform(want); err == nil && made.Architecture != "" && !p.runs(made) {
		want = made.String()
	}
	var list []Image
	for _, r := range refs {
		if err := s.writeRef(r, want, img.digest, false); err != nil {
			return nil, s.wrap("load image", err)
		}
		rec, err := s.readRef(r, want)
		if err != nil {
			return nil, err
		}
		one, _, _, err := s.summary(rec)
		if err != nil {
			return nil, s.wrap("load image", err)
		}
		list = append(list, one)
	}
	return list, nil
}

// readLayout finds the images of an OCI layout.
func (s *Store) readLayout(a *archive) ([]*archived, error) {
	b, err := a.read("index.json", maxManifest)
	if err != nil {
		return nil, err
	}
	index, err := parseManifest(b)
	if err != nil {
		return nil, err
	}
	p, err := parsePlatform(s.cfg.Platform)
	if err != nil {
		return nil, err
	}
	var images []*archived
	byDigest := map[Digest]*archived{}
	for _, d := range index.Manifests {
		name := cmp.Or(d.Annotations[annotationContainerd], d.Annotations[annotationRef])
		raw, err := a.blob(d, maxManifest)
		if err != nil {
			return nil, err
		}
		m, err := parseManifest(raw)
		for depth := 0; err == nil && m.isIndex() && depth < 2; depth++ {
			if d, err = m.choose(p); err != nil {
				return nil, err
			}
			if raw, err = a.blob(d, maxManifest); err == nil {
				m, err = parseManifest(raw)
			}
		}
		if err != nil {
			return nil, err
		}
		if m.isIndex() {
			return nil, fmt.Errorf("%w: an index in an index in an index", ErrFormat)
		}
		img := byDigest[d.Digest]
		if img == nil {
			if img, err = a.image(d.Digest, raw, m); err != nil {
				return nil, err
			}
			byDigest[d.Digest] = img
			images = append(images, img)
		}
		if name != "" {
			img.names = append(img.names, name)
		}
	}
	return images, nil
}

// image puts together an image whose manifest is in the archive.
func (a *archive) image(digest Digest, raw []byte, m *manifest) (*archived, error) {
	config, err := a.blob(m.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	cf, err := parseConfig(config, m)
	if err != nil {
		return nil, err
	}
	img := &archived{incoming: incoming{digest: digest, manifest: raw, config: config, m: m}, config: cf}
	for i, d := range m.Layers {
		r, err := a.open(blobName(d.Digest))
		if err != nil {
			return nil, err
		}
		img.layers = append(img.layers, source{descriptor: d, diffID: cf.RootFS.DiffIDs[i], open: again(r)})
	}
	return img, nil
}

// again opens a part of the archive as often as it is wanted.
func again(r *io.SectionReader) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(r, 0, r.Size())), nil
	}
}

// dockerManifest is an image in the manifest.json of a docker-archive.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// readDocker finds the images of a docker-archive. Their manifests are made up, and the same whenever the archive is.
func readDocker(a *archive) ([]*archived, error) {
	b, err := a.read("manifest.json", maxManifest)
	if err != nil {
		return nil, err
	}
	var list []dockerManifest
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("%w: manifest.json: %w", ErrFormat, err)
	}
	var images []*archived
	for _, d := range list {
		img, err := a.dockerImage(d)
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return images, nil
}

func (a *archive) dockerImage(d dockerManifest) (*archived, error) {
	config, err := a.read(d.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	if len(d.Layers) > maxLayers {
		return nil, fmt.Errorf("%w of %d layers", ErrTooLarge, maxLayers)
	}
	m := &manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: make([]descriptor, len(d.Layers)),
		Config: descriptor{MediaType: types.OCIConfigJSON, Digest: digestOfBytes(config), Size: int64(len(config))}}
	cf, err := parseConfig(config, m)
	if err != nil {
		return nil, err
	}
	img := &archived{names: d.RepoTags, config: cf}
	for i, name := range d.Layers {
		r, err := a.open(name)
		if err != nil {
			return nil, err
		}
		l := descriptor{MediaType: types.OCIUncompressedLayer, Digest: cf.RootFS.DiffIDs[i], Size: r.Size()}
		if isPacked(r) {
			l.MediaType, l.Digest = types.OCILayer, sum(io.NewSectionReader(r, 0, r.Size()))
		}
		m.Layers[i] = l
		img.layers = append(img.layers, source{descriptor: l, diffID: cf.RootFS.DiffIDs[i], open: again(r)})
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	img.incoming = incoming{digest: digestOfBytes(raw), manifest: raw, config: config, m: m, layers: img.layers}
	return img, nil
}

func digestOfBytes(b []byte) Digest {
	h := sha256.Sum256(b)
	return Digest("sha256:" + hex.EncodeToString(h[:]))
}
