package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Options is how a [Store] gets and keeps images. The zero value works.
type Options struct {
	DefaultRegistry string              // of names that say none; default Docker Hub
	Aliases         map[string]string   // other names of images: "microsandbox/python": "python"
	Registries      map[string]Registry // by host or host:port
	CACerts         []string            // PEM files with certificates to trust besides this machine's
	Platform        string              // os/architecture[/variant] to pull; default linux and this machine's
	DropBlobs       bool                // remove the compressed layers once they are converted
	Parallel        int                 // layers at once; default 4
	Limits          Limits
	Backoff         time.Duration // before the second try of a request, doubled for each further one; default 250 ms
	Stall           time.Duration // for which a registry may send nothing; default 1 minute

	// Users names the sandboxes, running or not, that need the image with this digest. Nil means that only leases keep one.
	Users func(digest string) ([]string, error)
}

// Registry is what the user configured for one registry.
type Registry struct {
	Insecure bool     // plain HTTP and certificates of anybody are good enough
	CACerts  []string // PEM files, as Options.CACerts
	Mirrors  []string // host[:port], asked first, in this order
	Auth     *Auth
}

// Limits bound what an image may make of this machine. Zero means the default.
type Limits struct {
	Bytes    int64 // of all layers, unpacked; default 64 GiB
	Entries  int   // in all layers; default 1,000,000
	Metadata int64 // bytes of names, link targets and extended attributes in all layers; default 256 MiB
	Ratio    int64 // of a layer's unpacked to its compressed size, beyond 1 GiB unpacked; default 200
}

func (l Limits) withDefaults() Limits {
	if l.Bytes == 0 {
		l.Bytes = 64 << 30
	}
	if l.Entries == 0 {
		l.Entries = 1_000_000
	}
	if l.Metadata == 0 {
		l.Metadata = 256 << 20
	}
	if l.Ratio == 0 {
		l.Ratio = 200
	}
	return l
}

// Store is the images below one MSB_HOME:
//
//	images/refs/<key>.json           a reference and a platform: which manifest they mean
//	images/manifests/<digest>.json   as the registry has it
//	images/configs/<digest>.json     as the registry has it
//	images/erofs/<digest>.erofs      all layers of the manifest with this digest, flattened
//	images/erofs/<digest>.xattrs.json   what EROFS does not hold: see [side]
//	images/blobs/sha256/<digest>     compressed layers
//	images/roots/<key>.erofs         directories and tars of this machine: see [Store.DirRoot]
//	images/tmp/                      what is being made; see [work]
//
// Files are published by rename and never changed. An image is there when its EROFS file is, which is published after all
// that it needs. A Store has no state of its own: any number of processes may use one home at once.
type Store struct {
	home string
	dir  string // home/images
	cfg  Options

	once sync.Once // makes the directories
	err  error
}

// Open returns the Store below home. Nothing is read or made before it is used.
func Open(home string, cfg Options) *Store {
	if cfg.Platform == "" {
		cfg.Platform = "linux/" + runtime.GOARCH
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = 4
	}
	if cfg.Backoff <= 0 {
		cfg.Backoff = 250 * time.Millisecond
	}
	if cfg.Stall <= 0 {
		cfg.Stall = time.Minute
	}
	cfg.Limits = cfg.Limits.withDefaults()
	return &Store{home: home, dir: filepath.Join(home, "images"), cfg: cfg}
}

// path returns where the file with this digest is kept.
func (s *Store) path(kind string, d Digest, suffix string) string {
	return filepath.Join(s.dir, kind, d.hex()+suffix)
}

func (s *Store) erofsPath(d Digest) string    { return s.path("erofs", d, ".erofs") }
func (s *Store) sidePath(d Digest) string     { return s.path("erofs", d, ".xattrs.json") }
func (s *Store) manifestPath(d Digest) string { return s.path("manifests", d, ".json") }
func (s *Store) configPath(d Digest) string   { return s.path("configs", d, ".json") }
func (s *Store) blobPath(d Digest) string     { return s.path("blobs/sha256", d, "") }

// prepare makes the directories that writers need.
func (s *Store) prepare() error {
	s.once.Do(func() {
		for _, d := range []string{"refs", "manifests", "configs", "erofs", "blobs/sha256", "tmp", "roots"} {
			if s.err = makeCacheDir(s.home, filepath.Join(s.dir, d)); s.err != nil {
				return
			}
		}
	})
	return s.wrap("make the image store", s.err)
}

// wrap makes a *sandbox.Error of a failure to read or write the store, unless it is one.
func (s *Store) wrap(op string, err error) error {
	var e *sandbox.Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return storeError(op, s.home, err)
}

// hex returns the digits of d, a sha256 digest, for the names of files.
func (d Digest) hex() string {
	_, digits, _ := strings.Cut(string(d), ":")
	return digits
}

// Parse reads a reference as the user wrote it, and follows aliases.
func (s *Store) Parse(ref string) (Reference, error) {
	r, err := ParseReference(ref, s.cfg.DefaultRegistry)
	if err != nil {
		return r, err
	}
	for from, to := range s.cfg.Aliases {
		a, err := ParseReference(from, s.cfg.DefaultRegistry)
		if err != nil {
			return r, fmt.Errorf("image alias %q: %w", from, err)
		}
		if a.Registry != r.Registry || a.Repository != r.Repository {
			continue
		}
		b, err := ParseReference(to, s.cfg.DefaultRegistry)
		if err != nil {
			return r, fmt.Errorf("image alias %q: %w", from, err)
		}
		if r.Digest == "" && b.Digest == "" && r.Tag != defaultTag {
			b.Tag = r.Tag // python:3.12 of an alias of python
		}
		if r.Digest != "" {
			b.Tag, b.Digest = r.Tag, r.Digest
		}
		return b, nil
	}
	return r, nil
}

// Root returns the root that the image with this digest gives, or an ImageNotFound error. The digest is that of a manifest.
func (s *Store) Root(digest string) (*Root, error) {
	d := Digest(digest)
	if !digestPattern().MatchString(digest) {
		return nil, notFound(digest)
	}
	_, c, err := s.metadata(d)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !cached(s.erofsPath(d)) {
		return nil, notFound(digest)
	}
	if err != nil {
		return nil, s.wrap("read image "+digest, err)
	}
	return &Root{Path: s.erofsPath(d), Config: c.root(), Digest: digest}, nil
}

// Resolve returns the root of an image that was pulled before, for the Store's platform. It reads three small files and
// nothing of the network.
func (s *Store) Resolve(ref string) (*Root, error) { return s.resolve(ref, s.cfg.Platform) }

func (s *Store) resolve(ref, platform string) (*Root, error) {
	r, err := s.Parse(ref)
	if err != nil {
		return nil, err
	}
	rec, err := s.readRef(r, platform)
	if err != nil {
		return nil, err
	}
	root, err := s.Root(string(rec.Digest))
	if errors.Is(err, sandbox.ImageNotFound) {
		return nil, notFound(r.Short())
	}
	return root, err
}

func notFound(ref string) error {
	return &sandbox.Error{Op: "find image", Kind: sandbox.ImageNotFound, Message: ref, Hint: "pull it: msb pull " + ref}
}

func (s *Store) exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// cancelled reports whether err is of a context that ended, in words that a user understands.
func cancelled(ctx context.Context, op string) error {
	return &sandbox.Error{Op: op, Kind: sandbox.Cancelled, Message: op, Err: context.Cause(ctx)}
}
