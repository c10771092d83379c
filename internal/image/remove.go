package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Removed is what was taken away.
type Removed struct {
	References []string
	Digests    []string // of the images that are gone
	Layers     int      // compressed ones
	Bytes      int64    // of the disk
}

// Remove forgets a reference, and with the last reference to an image the image. An image that a sandbox needs, or that
// somebody has a lease on, gives an ImageInUse error unless force is set; what runs from it goes on even then, for an open
// file outlives its name.
func (s *Store) Remove(ref string, force bool) (*Removed, error) {
	s.sweep()
	path, rec, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	refs, err := s.refs()
	if err != nil {
		return nil, s.wrap("remove image "+ref, err)
	}
	gone := &Removed{References: []string{rec.Reference}}
	last := true
	for p, other := range refs {
		last = last && (p == path || other.Digest != rec.Digest)
	}
	if last {
		if err := s.removeImage(rec.Digest, rec.Reference, force, gone); err != nil {
			return nil, err
		}
	}
	if err := os.Remove(path); err != nil && !isMissing(err) {
		return nil, s.wrap("remove image "+ref, err)
	}
	if alone := s.alone(); alone != nil { // or the next Remove or Prune does it
		defer alone.Close()
		err = s.collect(gone)
	}
	return gone, err
}

// removeImage removes the EROFS file. The rest of the image is garbage then.
func (s *Store) removeImage(d Digest, ref string, force bool, gone *Removed) error {
	inUse := &sandbox.Error{Op: "remove image", Kind: sandbox.ImageInUse, Message: ref, Hint: "stop the sandbox first, or use --force"}
	if !force {
		names, err := s.users(d)
		if err != nil {
			return err
		}
		if len(names) > 0 {
			inUse.Message = strings.Join(names, ", ")
			return inUse
		}
	}
	info, err := os.Stat(s.erofsPath(d))
	if isMissing(err) {
		return nil
	}
	if err == nil {
		err = removeUnleased(s.erofsPath(d), force)
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return inUse
	}
	if err != nil {
		return s.wrap("remove image "+ref, err)
	}
	gone.Digests = append(gone.Digests, string(d))
	gone.Bytes += allocated(info)
	return nil
}

// Prune removes all images that no sandbox needs and nobody has a lease on, the roots made of directories and tars, and the
// compressed layers that belong to no image that is left.
func (s *Store) Prune() (*Removed, error) {
	s.sweep()
	gone := &Removed{}
	refs, err := s.refs()
	if err != nil {
		return nil, s.wrap("prune images", err)
	}
	kept := map[Digest]bool{}
	tried := map[Digest]bool{}
	for path, rec := range refs {
		if !tried[rec.Digest] {
			tried[rec.Digest] = true
			err := s.removeImage(rec.Digest, rec.Reference, false, gone)
			if kept[rec.Digest] = errors.Is(err, sandbox.ImageInUse); err != nil && !kept[rec.Digest] {
				return gone, err
			}
		}
		if kept[rec.Digest] {
			continue
		}
		gone.References = append(gone.References, rec.Reference)
		if err := os.Remove(path); err != nil && !isMissing(err) {
			return gone, s.wrap("prune images", err)
		}
	}
	roots, _ := filepath.Glob(filepath.Join(s.dir, "roots", "*.erofs"))
	for _, p := range roots {
		if info, err := os.Stat(p); err == nil && removeUnleased(p, false) == nil {
			gone.Bytes += allocated(info)
		}
	}
	alone := s.alone()
	if alone == nil {
		return gone, nil // the next Remove or Prune does the rest
	}
	defer alone.Close()
	// Images without a reference: their tag moved on, or they were being removed when the process was killed.
	images, _ := filepath.Glob(filepath.Join(s.dir, "erofs", "*.erofs"))
	for _, p := range images {
		d := Digest("sha256:" + strings.TrimSuffix(filepath.Base(p), ".erofs"))
		if err := s.removeImage(d, string(d), false, gone); err != nil && !errors.Is(err, sandbox.ImageInUse) {
			return gone, err
		}
	}
	return gone, s.collect(gone)
}

// kept returns the files that belong to the images that are there and wanted.
func (s *Store) kept(wanted func(Digest) (bool, error)) (map[string]bool, error) {
	keep := map[string]bool{}
	images, err := filepath.Glob(filepath.Join(s.dir, "erofs", "*.erofs"))
	if err != nil {
		return nil, err
	}
	for _, p := range images {
		d := Digest("sha256:" + strings.TrimSuffix(filepath.Base(p), ".erofs"))
		m, _, err := s.metadata(d)
		if err != nil {
			continue
		}
		if ok, err := wanted(d); err != nil {
			return nil, err
		} else if !ok {
			continue
		}
		for _, p := range []string{s.erofsPath(d), s.sidePath(d), s.manifestPath(d), s.configPath(m.Config.Digest)} {
			keep[p] = true
		}
		for _, l := range m.Layers {
			keep[s.blobPath(l.Digest)] = true
		}
	}
	return keep, nil
}

// collect removes the manifests, configurations and layers that belong to no image. Nobody may be making one.
func (s *Store) collect(gone *Removed) error {
	keep, err := s.kept(func(Digest) (bool, error) { return true, nil })
	if err != nil {
		return s.wrap("remove unused layers", err)
	}
	for _, dir := range []string{"manifests", "configs", "blobs/sha256", "erofs"} {
		entries, err := os.ReadDir(filepath.Join(s.dir, dir))
		if err != nil && !isMissing(err) {
			return s.wrap("remove unused layers", err)
		}
		for _, e := range entries {
			p := filepath.Join(s.dir, dir, e.Name())
			if keep[p] || strings.HasPrefix(e.Name(), ".tmp-") || dir == "erofs" && !strings.HasSuffix(p, ".xattrs.json") {
				continue
			}
			info, err := e.Info()
			if err != nil {
				continue
			}
			if err := os.Remove(p); err != nil && !isMissing(err) {
				return s.wrap("remove unused layers", err)
			}
			gone.Bytes += allocated(info)
			if dir == "blobs/sha256" {
				gone.Layers++
			}
		}
	}
	return nil
}
