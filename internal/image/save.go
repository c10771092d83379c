package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Format is a form of image archive.
type Format string

// The formats of archives. The zero Format is Docker.
const (
	Docker Format = "docker" // manifest.json, and for each layer a directory with layer.tar, json and VERSION
	OCI    Format = "oci"    // the tar of an OCI layout
)

// Save writes images into one archive. Nothing is written when one of them is missing.
//
// The layers are those that were pulled, when all of them are kept. Otherwise the image is saved as one layer, made of its
// EROFS file and the extended attributes that are kept beside it: the files are the same, the digests are not.
//
// Kinds of errors: ImageNotFound, InvalidArgument, IO, Cancelled.
func (s *Store) Save(ctx context.Context, w io.Writer, refs []string, format Format) error {
	var images []*outgoing
	for _, ref := range refs {
		img, err := s.outgoing(ref)
		if err != nil {
			return err
		}
		defer img.lease.Close()
		images = append(images, img)
	}
	for _, img := range images {
		if err := img.complete(ctx, s); err != nil {
			return s.wrap("save image", err)
		}
	}
	a := &archiveWriter{w: tar.NewWriter(w), ctx: ctx, there: map[string]bool{}}
	var err error
	switch format {
	case Docker, "":
		err = a.docker(images)
	case OCI:
		err = a.layout(images)
	default:
		return &sandbox.Error{Op: "save image", Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("%q is not an archive format", format),
			Hint: "write docker or oci"}
	}
	if err = errors.Join(err, a.w.Close()); err != nil && ctx.Err() != nil {
		return cancelled(ctx, "save image")
	}
	return s.wrap("save image", err)
}

// outgoing is an image on its way out of the store.
type outgoing struct {
	ref      Reference
	digest   Digest
	manifest []byte
	config   []byte
	cf       *configFile
	m        *manifest
	facts    side
	layers   []outLayer
	lease    *os.File // the EROFS file
}

type outLayer struct {
	descriptor
	diffID   Digest
	unpacked int64 // bytes of the tar
	write    func(io.Writer) error
	tar      func(io.Writer) error // unpacked
}

func (s *Store) outgoing(ref string) (*outgoing, error) {
	_, rec, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	img := &outgoing{digest: rec.Digest}
	if img.ref, err = ParseReference(rec.Reference, ""); err != nil {
		return nil, err
	}
	if img.lease, err = (&Root{Path: s.erofsPath(rec.Digest), Digest: ref}).Lease(); err != nil {
		return nil, s.wrap("save image", err)
	}
	if img.m, img.cf, err = s.metadata(rec.Digest); err == nil {
		img.manifest, err = os.ReadFile(s.manifestPath(rec.Digest))
	}
	if err == nil {
		img.config, err = os.ReadFile(s.configPath(img.m.Config.Digest))
	}
	if err != nil {
		img.lease.Close()
		return nil, s.wrap("save image", err)
	}
	img.facts = s.side(rec.Digest)
	return img, nil
}

// complete finds the layers, or makes one of the file system.
func (img *outgoing) complete(ctx context.Context, s *Store) error {
	kept := len(img.facts.Layers) == len(img.m.Layers)
	for i, d := range img.m.Layers {
		blob := s.blobPath(d.Digest)
		info, err := os.Stat(blob)
		if kept = kept && err == nil && info.Size() == d.Size; !kept {
			return img.flatten(ctx)
		}
		open := func(unpack bool) func(io.Writer) error {
			return func(w io.Writer) error {
				f, err := os.Open(blob)
				if err != nil {
					return err
				}
				defer f.Close()
				if !unpack {
					_, err = io.Copy(w, f)
					return err
				}
				r, err := decompress(f)
				if err != nil {
					return err
				}
				defer r.Close()
				_, err = io.Copy(w, r)
				return err
			}
		}
		img.layers = append(img.layers, outLayer{d, img.cf.RootFS.DiffIDs[i], img.facts.Layers[i].TarBytes, open(false), open(true)})
	}
	if !kept {
		return img.flatten(ctx)
	}
	return nil
}

// flatten makes the image one of a single layer. The layer is written twice: once to know its digest.
func (img *outgoing) flatten(ctx context.Context) error {
	write := func(w io.Writer) error { return writeLayer(ctx, w, img.lease, img.facts.Xattrs) }
	h := sha256.New()
	n := &counter{}
	if err := write(io.MultiWriter(h, n)); err != nil {
		return err
	}
	d := descriptor{MediaType: types.OCIUncompressedLayer, Digest: digestOf(h), Size: n.n}
	img.layers = []outLayer{{d, d.Digest, n.n, write, write}}
	var all map[string]any
	if err := json.Unmarshal(img.config, &all); err != nil {
		return err
	}
	all["rootfs"] = map[string]any{"type": "layers", "diff_ids": []Digest{d.Digest}}
	all["history"] = []map[string]string{{"created_by": "msb save", "comment": "all layers of " + string(img.digest) + " as one"}}
	var err error
	if img.config, err = json.Marshal(all); err != nil {
		return err
	}
	img.m = &manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: []descriptor{d},
		Config: descriptor{MediaType: types.OCIConfigJSON, Digest: digestOfBytes(img.config), Size: int64(len(img.config))}}
	if img.manifest, err = json.Marshal(img.m); err != nil {
		return err
	}
	img.digest = digestOfBytes(img.manifest)
	return nil
}

type counter struct{ n int64 }

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return len(b), nil
}

// writeLayer writes the tar of a whole file system.
func writeLayer(ctx context.Context, w io.Writer, image io.ReaderAt, xattrs map[string]map[string][]byte) error {
	tw := tar.NewWriter(w)
	first := map[uint64]string{}
	err := erofs.Walk(image, func(e *erofs.Entry) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		h := &tar.Header{Name: e.Path, Mode: int64(e.Attr.Unix()), Uid: int(e.Attr.UID), Gid: int(e.Attr.GID), ModTime: e.Attr.ModTime,
			Format: tar.FormatPAX}
		for name, value := range xattrs[e.Path] {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[xattrPrefix+name] = string(value)
		}
		if old, ok := first[e.Inode]; ok {
			h.Typeflag, h.Linkname, h.PAXRecords = tar.TypeLink, old, nil
			return tw.WriteHeader(h)
		}
		if e.Links > 1 && !e.Mode.IsDir() {
			first[e.Inode] = e.Path
		}
		switch kind := e.Mode.Type(); {
		case kind.IsDir():
			h.Typeflag = tar.TypeDir
			h.Name += "/"
		case kind&fs.ModeSymlink != 0:
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.Target
		case kind&fs.ModeNamedPipe != 0:
			h.Typeflag = tar.TypeFifo
		case kind&fs.ModeDevice != 0:
			h.Typeflag = tar.TypeBlock
			if kind&fs.ModeCharDevice != 0 {
				h.Typeflag = tar.TypeChar
			}
			h.Devmajor, h.Devminor = int64(e.Major), int64(e.Minor)
		default:
			h.Typeflag, h.Size = tar.TypeReg, e.Size
		}
		if err := tw.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
			return err
		}
		_, err := io.Copy(tw, e.Open())
		return err
	})
	return errors.Join(err, tw.Close())
}
