package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// archiveWriter writes each file of an archive once.
type archiveWriter struct {
	w     *tar.Writer
	ctx   context.Context
	there map[string]bool
}

// file writes a file of a known size.
func (a *archiveWriter) file(name string, size int64, write func(io.Writer) error) error {
	if a.there[name] {
		return nil
	}
	a.there[name] = true
	if dir := path.Dir(name); dir != "." && !a.there[dir] {
		if err := a.dir(dir); err != nil {
			return err
		}
	}
	if err := a.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	return write(contextWriter{a.ctx, a.w})
}

type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c contextWriter) Write(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.Write(b)
}

func (a *archiveWriter) dir(name string) error {
	if up := path.Dir(name); up != "." && !a.there[up] {
		if err := a.dir(up); err != nil {
			return err
		}
	}
	a.there[name] = true
	return a.w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: time.Unix(0, 0)})
}

func (a *archiveWriter) bytes(name string, b []byte) error {
	return a.file(name, int64(len(b)), func(w io.Writer) error { _, err := w.Write(b); return err })
}

func (a *archiveWriter) json(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return a.bytes(name, b)
}

// layout writes an OCI layout. It is also what docker load reads, of a Docker that is not old.
func (a *archiveWriter) layout(images []*outgoing) error {
	if err := a.bytes("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	index := manifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, img := range images {
		for _, l := range img.layers {
			if err := a.file(blobName(l.Digest), l.Size, l.write); err != nil {
				return err
			}
		}
		if err := a.bytes(blobName(img.m.Config.Digest), img.config); err != nil {
			return err
		}
		if err := a.bytes(blobName(img.digest), img.manifest); err != nil {
			return err
		}
		mediaType := img.m.MediaType
		if mediaType == "" {
			mediaType = types.OCIManifestSchema1
		}
		index.Manifests = append(index.Manifests, descriptor{MediaType: mediaType, Digest: img.digest, Size: int64(len(img.manifest)),
			Platform:    &platform{img.cf.OS, img.cf.Architecture, img.cf.Variant},
			Annotations: map[string]string{annotationContainerd: img.ref.tagged(), annotationRef: img.ref.Tag}})
	}
	return a.json("index.json", struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     types.MediaType `json:"mediaType"`
		Manifests     []descriptor    `json:"manifests"`
	}{2, index.MediaType, index.Manifests})
}

// tagged is the reference without its digest, which is not that of what is saved.
func (r Reference) tagged() string {
	r.Digest = ""
	return r.String()
}

// docker writes a docker-archive.
func (a *archiveWriter) docker(images []*outgoing) error {
	var list []dockerManifest
	repositories := map[string]map[string]string{}
	for _, img := range images {
		d := dockerManifest{Config: digestOfBytes(img.config).hex() + ".json", RepoTags: []string{img.dockerTag()}}
		parent := ""
		for _, l := range img.layers {
			id := l.diffID.hex()
			if err := a.legacy(id, parent, l); err != nil {
				return err
			}
			d.Layers = append(d.Layers, id+"/layer.tar")
			parent = id
		}
		if err := a.bytes(d.Config, img.config); err != nil {
			return err
		}
		// The same image under two names is one image in the list.
		at := slices.IndexFunc(list, func(o dockerManifest) bool { return o.Config == d.Config })
		if at < 0 {
			list = append(list, d)
		} else {
			list[at].RepoTags = append(list[at].RepoTags, d.RepoTags...)
		}
		name, tag := img.dockerTag(), ""
		if i := strings.LastIndexByte(name, ':'); i > 0 {
			name, tag = name[:i], name[i+1:]
		}
		if repositories[name] == nil {
			repositories[name] = map[string]string{}
		}
		repositories[name][tag] = parent
	}
	return errors.Join(a.json("manifest.json", list), a.json("repositories", repositories))
}

// dockerTag is the reference as Docker writes it: python:3, ghcr.io/a/b:1.
func (img *outgoing) dockerTag() string {
	r := img.ref
	r.Digest = ""
	return r.Short()
}

// legacy writes a layer with what readers of the first version of the format want to see beside it.
func (a *archiveWriter) legacy(id, parent string, l outLayer) error {
	if a.there[id+"/layer.tar"] {
		return nil
	}
	about := map[string]string{"id": id}
	if parent != "" {
		about["parent"] = parent
	}
	return errors.Join(a.bytes(id+"/VERSION", []byte("1.0")), a.json(id+"/json", about), a.file(id+"/layer.tar", l.unpacked, l.tar))
}
