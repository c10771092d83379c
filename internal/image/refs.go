package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
)

// refRecord says which manifest a reference means on a platform, since the last pull.
type refRecord struct {
	Reference string    `json:"reference"`
	Platform  string    `json:"platform"`
	Digest    Digest    `json:"digest"`
	PulledAt  time.Time `json:"pulled_at"`
	// Private says that the registry gave it to credentials of one pull, and to nobody else since.
	Private bool `json:"private,omitempty"`
}

func (s *Store) refPath(r Reference, platform string) string {
	if r.Digest != "" {
		r.Tag = "" // the digest says all
	}
	id := newKey("ref 1")
	id.add(r.Registry, r.Repository, r.Tag, string(r.Digest), platform)
	return filepath.Join(s.dir, "refs", id.sum()+".json")
}

// readRef returns the record of r, or an ImageNotFound error.
func (s *Store) readRef(r Reference, platform string) (refRecord, error) {
	rec, err := readRefFile(s.refPath(r, platform))
	if errors.Is(err, fs.ErrNotExist) {
		return rec, notFound(r.Short())
	}
	return rec, s.wrap("look up image "+r.Short(), err)
}

func readRefFile(path string) (refRecord, error) {
	var rec refRecord
	b, err := os.ReadFile(path)
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(b, &rec); err != nil || !isSHA256(rec.Digest) {
		return rec, fmt.Errorf("%s is damaged: remove it and pull the image again", path)
	}
	return rec, nil
}

// writeRef records what was pulled, or loaded. With credentials of one pull it becomes private, unless the registry gave the same to others.
func (s *Store) writeRef(r Reference, platform string, d Digest, private bool) error {
	if private {
		if old, err := readRefFile(s.refPath(r, platform)); err == nil && old.Digest == d {
			private = old.Private
		}
	}
	b, err := json.Marshal(refRecord{r.String(), platform, d, time.Now().UTC().Truncate(time.Millisecond), private})
	if err != nil {
		return err
	}
	return atomicfile.Write(s.refPath(r, platform), b, 0o644)
}

// refs returns all records. One that cannot be read is left out: a pull mends it.
func (s *Store) refs() (map[string]refRecord, error) {
	dir := filepath.Join(s.dir, "refs")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	all := map[string]refRecord{}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !strings.HasSuffix(path, ".json") {
			continue
		}
		if rec, err := readRefFile(path); err == nil {
			all[path] = rec
		}
	}
	return all, nil
}

func isSHA256(d Digest) bool {
	return strings.HasPrefix(string(d), "sha256:") && digestPattern().MatchString(string(d))
}
