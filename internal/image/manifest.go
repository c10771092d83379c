package image

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Bounds on what a registry or an archive may call a manifest or a configuration, and on what is in them.
const (
	maxManifest = 4 << 20
	maxConfig   = 8 << 20
	maxLayers   = 1000
)

// descriptor points to contents: what they are called, how long they are, what they are.
type descriptor struct {
	MediaType   types.MediaType   `json:"mediaType"`
	Digest      Digest            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// manifest lists what an image consists of, or, as an index, the manifests of its platforms.
type manifest struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     types.MediaType `json:"mediaType,omitempty"`
	Config        descriptor      `json:"config"`
	Layers        []descriptor    `json:"layers"`
	Manifests     []descriptor    `json:"manifests,omitempty"`
}

// configFile is what an image says about itself, as far as we use it.
type configFile struct {
	Created      string `json:"created,omitempty"`
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
	Config       struct {
		Env, Cmd, Entrypoint         []string
		WorkingDir, User, StopSignal string
		Labels                       map[string]string
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []Digest `json:"diff_ids"`
	} `json:"rootfs"`
}

// parseManifest reads the manifest of an image, or of an index, and checks what everybody else relies on.
func parseManifest(b []byte) (*manifest, error) {
	if len(b) > maxManifest {
		return nil, fmt.Errorf("the manifest is longer than %d bytes", maxManifest)
	}
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("the manifest is not JSON: %w", err)
	}
	if m.SchemaVersion != 2 {
		return nil, fmt.Errorf("the manifest has schema version %d, not 2: rebuild the image with a newer tool", m.SchemaVersion)
	}
	if m.isIndex() {
		for _, d := range m.Manifests {
			if err := d.check(); err != nil {
				return nil, err
			}
		}
		return &m, nil
	}
	if len(m.Layers) > maxLayers {
		return nil, fmt.Errorf("the manifest has %d layers, more than %d", len(m.Layers), maxLayers)
	}
	if err := m.Config.check(); err != nil {
		return nil, err
	}
	for _, d := range m.Layers {
		if err := d.check(); err != nil {
			return nil, err
		}
	}
	return &m, nil
}

// isIndex tells an index from a manifest. Not every registry says the media type.
func (m *manifest) isIndex() bool {
	switch m.MediaType {
	case types.OCIImageIndex, types.DockerManifestList:
		return true
	}
	return m.Config.Digest == "" && m.Manifests != nil
}

// size returns the bytes of all layers as the registry has them.
func (m *manifest) size() int64 {
	var n int64
	for _, l := range m.Layers {
		n += l.Size
	}
	return n
}

func (d descriptor) check() error {
	if !isSHA256(d.Digest) {
		return fmt.Errorf("the manifest names contents by %.100q, which is no sha256 digest", d.Digest)
	}
	if d.Size < 0 {
		return fmt.Errorf("the manifest says that %s has %d bytes", d.Digest, d.Size)
	}
	return nil
}

// parseConfig reads the configuration of the image with manifest m.
func parseConfig(b []byte, m *manifest) (*configFile, error) {
	switch m.Config.MediaType {
	case "", types.OCIConfigJSON, types.DockerConfigJSON:
	default:
		return nil, fmt.Errorf("not an image but %s", m.Config.MediaType)
	}
	var c configFile
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("the configuration is not JSON: %w", err)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return nil, fmt.Errorf("the manifest has %d layers, the configuration %d", len(m.Layers), len(c.RootFS.DiffIDs))
	}
	for _, d := range c.RootFS.DiffIDs {
		if !isSHA256(d) {
			return nil, fmt.Errorf("the configuration names a layer by %.100q, which is no sha256 digest", d)
		}
	}
	for _, l := range m.Layers {
		if strings.Contains(string(l.MediaType), "encrypted") {
			return nil, fmt.Errorf("layer %s is encrypted", l.Digest)
		}
	}
	return &c, nil
}

// root returns what a sandbox gets to know of the configuration.
func (c *configFile) root() Config {
	k := c.Config
	env := k.Env
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		env = append([]string{defaultPath}, env...)
	}
	return Config{Env: env, Cmd: k.Cmd, Entrypoint: k.Entrypoint, WorkingDir: k.WorkingDir, User: k.User, Labels: k.Labels}
}

// metadata reads the manifest and the configuration of a stored image.
func (s *Store) metadata(d Digest) (*manifest, *configFile, error) {
	b, err := os.ReadFile(s.manifestPath(d))
	if err != nil {
		return nil, nil, err
	}
	m, err := parseManifest(b)
	if err != nil {
		return nil, nil, err
	}
	if b, err = os.ReadFile(s.configPath(m.Config.Digest)); err != nil {
		return nil, nil, err
	}
	c, err := parseConfig(b, m)
	return m, c, err
}
