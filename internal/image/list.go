package image

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Image is a reference to an image that is there.
type Image struct {
	Reference    string
	Digest       string // of the manifest
	OS           string
	Architecture string
	Layers       int
	Size         int64     // of the layers as the registry has them, bytes
	Disk         int64     // of the EROFS file, bytes of the disk
	CreatedAt    time.Time // when it was pulled or loaded
	UsedAt       time.Time // give or take ten minutes
}

// Detail is all that is known of an image.
type Detail struct {
	Image
	ConfigDigest string
	Config       Config // as the image says it: without the PATH that a sandbox gets by default
	StopSignal   string
	LayerList    []Layer
	Xattrs       map[string]map[string][]byte // by path, by name: kept for Save, and not seen by sandboxes
	BlobsKept    bool                         // all compressed layers are there
}

// Layer is one layer of an image.
type Layer struct {
	Digest    string // of the blob
	DiffID    string // of the tar in it
	MediaType string
	Size      int64 // of the blob
	ErofsSize int64 // of its files, as far as they show in the image
}

// List returns all references to images that are there, in order.
func (s *Store) List() ([]Image, error) {
	refs, err := s.refs()
	if err != nil {
		return nil, s.wrap("list images", err)
	}
	list := []Image{}
	for _, rec := range refs {
		img, _, _, err := s.summary(rec)
		if isMissing(err) {
			continue // half of it was removed
		}
		if err != nil {
			return nil, s.wrap("list images", err)
		}
		list = append(list, img)
	}
	slices.SortFunc(list, func(a, b Image) int {
		return cmp.Or(cmp.Compare(a.Reference, b.Reference), cmp.Compare(a.Architecture, b.Architecture), cmp.Compare(a.Digest, b.Digest))
	})
	return list, nil
}

func (s *Store) summary(rec refRecord) (Image, *manifest, *configFile, error) {
	info, err := os.Stat(s.erofsPath(rec.Digest))
	if err != nil {
		return Image{}, nil, nil, err
	}
	m, c, err := s.metadata(rec.Digest)
	if err != nil {
		return Image{}, nil, nil, err
	}
	return Image{
		Reference: rec.Reference, Digest: string(rec.Digest), OS: c.OS, Architecture: c.Architecture, Layers: len(m.Layers),
		Size: m.size(), Disk: allocated(info), CreatedAt: rec.PulledAt, UsedAt: info.ModTime(),
	}, m, c, nil
}

// allocated returns how much of the disk a file takes.
func allocated(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}

// Inspect returns all about one image, named by a reference or by the digest of its manifest or the first digits of it.
func (s *Store) Inspect(ref string) (*Detail, error) {
	_, rec, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	img, m, c, err := s.summary(rec)
	if isMissing(err) {
		return nil, notFound(ref)
	}
	if err != nil {
		return nil, s.wrap("inspect image "+ref, err)
	}
	facts := s.side(rec.Digest)
	k := c.Config
	d := &Detail{Image: img, ConfigDigest: string(m.Config.Digest), StopSignal: k.StopSignal, Xattrs: facts.Xattrs, BlobsKept: true,
		Config: Config{Env: k.Env, Cmd: k.Cmd, Entrypoint: k.Entrypoint, WorkingDir: k.WorkingDir, User: k.User, Labels: k.Labels}}
	for i, l := range m.Layers {
		layer := Layer{Digest: string(l.Digest), DiffID: string(c.RootFS.DiffIDs[i]), MediaType: string(l.MediaType), Size: l.Size}
		if i < len(facts.Layers) {
			layer.ErofsSize = facts.Layers[i].DataBytes
		}
		d.LayerList = append(d.LayerList, layer)
		d.BlobsKept = d.BlobsKept && s.exists(s.blobPath(l.Digest))
	}
	return d, nil
}

// side reads what is known of an image besides its file system. A file that is not there says nothing.
func (s *Store) side(d Digest) side {
	var facts side
	if b, err := os.ReadFile(s.sidePath(d)); err == nil {
		_ = json.Unmarshal(b, &facts)
	}
	return facts
}

// find returns the record of an image, and where it is: by a reference for the Store's platform, or for any platform that is
// there, or by the digest of the manifest or at least 6 digits of it that only one image has.
func (s *Store) find(ref string) (string, refRecord, error) {
	refs, err := s.refs()
	if err != nil {
		return "", refRecord{}, s.wrap("find image", err)
	}
	r, bad := s.Parse(ref)
	if bad == nil {
		if path := s.refPath(r, s.cfg.Platform); refs[path].Digest != "" {
			return path, refs[path], nil
		}
		for path, rec := range refs {
			if path == s.refPath(r, rec.Platform) {
				return path, rec, nil
			}
		}
	}
	var at string
	if digits := strings.TrimPrefix(ref, "sha256:"); len(digits) >= 6 && strings.Trim(digits, "0123456789abcdef") == "" {
		for path, rec := range refs {
			if !strings.HasPrefix(rec.Digest.hex(), digits) {
				continue
			}
			if at != "" && refs[at].Digest != rec.Digest {
				return "", refRecord{}, &sandbox.Error{Op: "find image", Kind: sandbox.InvalidArgument,
					Message: fmt.Sprintf("more than one image has a digest that begins with %s", digits), Hint: "give more of its digits"}
			}
			if at == "" || path < at {
				at = path
			}
		}
	}
	switch {
	case at != "":
		return at, refs[at], nil
	case bad != nil:
		return "", refRecord{}, bad
	}
	return "", refRecord{}, notFound(r.Short())
}

// Usage is what a kind of files takes of the disk (`msb system df`).
type Usage struct {
	Count            int
	Active           int // of them, those that a sandbox needs
	SizeBytes        int64
	ReclaimableBytes int64 // what Prune would free
}

// DiskUsage is what the Store takes of the disk.
type DiskUsage struct {
	Images Usage // EROFS files
	Blobs  Usage // compressed layers
	Other  Usage // roots of this machine, manifests, what is being made
}

// DiskUsage measures the Store.
func (s *Store) DiskUsage() (DiskUsage, error) {
	var u DiskUsage
	keep, err := s.kept(s.inUse)
	if err != nil {
		return u, s.wrap("measure the image store", err)
	}
	err = filepath.WalkDir(s.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if isMissing(err) {
				return nil
			}
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil // gone by now
		}
		to := &u.Other
		switch dir := filepath.Dir(p); {
		case dir == filepath.Join(s.dir, "blobs/sha256"):
			to = &u.Blobs
		case dir == filepath.Join(s.dir, "erofs") && strings.HasSuffix(p, ".erofs"):
			to = &u.Images
		}
		to.Count++
		to.SizeBytes += allocated(info)
		switch {
		case keep[p]:
			to.Active++
		case to != &u.Other:
			to.ReclaimableBytes += allocated(info)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return u, s.wrap("measure the image store", err)
}

// inUse reports whether a sandbox needs the image, or somebody has a lease on it.
func (s *Store) inUse(d Digest) (bool, error) {
	names, err := s.users(d)
	return len(names) > 0 || leased(s.erofsPath(d)), err
}

// users returns the sandboxes that need an image, as far as anybody says so.
func (s *Store) users(d Digest) ([]string, error) {
	if s.cfg.Users == nil {
		return nil, nil
	}
	names, err := s.cfg.Users(string(d))
	if err != nil {
		return nil, &sandbox.Error{Op: "find the users of an image", Kind: sandbox.IO, Message: "find the sandboxes that need an image", Err: err}
	}
	return names, nil
}
