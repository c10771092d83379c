package image

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/microsandbox-go/microsandbox/internal/testimage"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// requests counts what a registry is asked.
type requests struct{ n atomic.Int64 }

func (r *requests) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method == http.MethodGet || q.Method == http.MethodHead {
			r.n.Add(1)
		}
		next.ServeHTTP(w, q)
	})
}

func mustPull(t testing.TB, s *Store, ref string, o PullOptions) *Root {
	t.Helper()
	root, err := s.Pull(context.Background(), ref, o)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// files lists all files below the store's directory.
func files(t testing.TB, s *Store) []string {
	t.Helper()
	var list []string
	err := filepath.Walk(s.dir, func(p string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			rel, _ := filepath.Rel(s.dir, p)
			list = append(list, rel)
		}
		return err
	})
	if err != nil && !isMissing(err) {
		t.Fatal(err)
	}
	return list
}

func TestPull(t *testing.T) {
	var asked requests
	reg := testimage.Serve(t, testimage.Options{Wrap: asked.wrap})
	ref := reg.Push(t, "tools/busybox:1", testimage.Busybox(t))
	s := Open(t.TempDir(), Options{})
	var phases []Phase
	root := mustPull(t, s, ref, PullOptions{Progress: func(p Progress) {
		if !slices.Contains(phases, p.Phase) {
			phases = append(phases, p.Phase)
		}
		if p.Ref != ref {
			t.Errorf("progress of %q", p.Ref)
		}
	}})
	if want := []Phase{Resolved, Downloading, Downloaded, Unpacked, Writing, Done}; !slices.Equal(phases, want) {
		t.Errorf("phases %v, want %v", phases, want)
	}
	img := open(t, root.Path)
	if got := content(img, "etc/group"); got != "root:x:0:\ndaemon:x:1:\nuser:x:1000:\nnogroup:x:65534:\n" {
		t.Errorf("/etc/group: %q", got)
	}
	if !slices.Equal(root.Config.Cmd, []string{"sh"}) || !slices.Contains(root.Config.Env, defaultPath) || len(root.Binds) > 0 {
		t.Errorf("root %+v", root)
	}

	before := asked.n.Load()
	for _, policy := range []Policy{"", IfMissing, Never} {
		again := mustPull(t, s, ref, PullOptions{Policy: policy})
		if again.Path != root.Path || again.Digest != root.Digest {
			t.Errorf("%q: %+v, want %+v", policy, again, root)
		}
	}
	if n := asked.n.Load() - before; n != 0 {
		t.Errorf("a cached image asked the registry %d times", n)
	}
	if mustPull(t, s, ref, PullOptions{Policy: Always}).Path != root.Path {
		t.Error("pulled again, it is another image")
	}
	if n := asked.n.Load() - before; n == 0 || n > 2 {
		t.Errorf("pulling always asked the registry %d times, want for the API and the manifest", n)
	}
	if _, err := s.Pull(context.Background(), "127.0.0.1:1/never", PullOptions{Policy: Never}); !errors.Is(err, sandbox.ImageNotFound) {
		t.Errorf("never: %v", err)
	}

	list, err := s.List()
	if err != nil || len(list) != 1 || list[0].Reference != ref || list[0].Layers != 1 || list[0].OS != "linux" || list[0].Disk == 0 {
		t.Errorf("list %+v, %v", list, err)
	}
	d, err := s.Inspect(ref)
	if err != nil || d.Digest != root.Digest || len(d.LayerList) != 1 || d.LayerList[0].ErofsSize == 0 || !d.BlobsKept {
		t.Errorf("inspect %+v, %v", d, err)
	}
	for _, name := range []string{root.Digest, root.Digest[:13], root.Digest[7:30]} {
		if d, err := s.Inspect(name); err != nil || d.Reference != ref {
			t.Errorf("by %s: %+v, %v", name, d, err)
		}
	}
	for _, name := range []string{root.Digest[:12], "ffffff", "no-such"} {
		if _, err := s.Inspect(name); !errors.Is(err, sandbox.ImageNotFound) {
			t.Errorf("by %s: %v", name, err)
		}
	}
	gone, err := s.Remove(ref, false)
	if err != nil || gone.Layers != 1 || len(gone.Digests) != 1 {
		t.Errorf("remove: %+v, %v", gone, err)
	}
	if left := files(t, s); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestLease(t *testing.T) {
	reg := testimage.Serve(t, testimage.Options{})
	img := testimage.Image(t, v1.Config{}, testimage.Layer(t, testimage.Tar(t), testimage.Gzip))
	ref := reg.Push(t, "empty", img)
	s := Open(t.TempDir(), Options{})
	root := mustPull(t, s, ref, PullOptions{})
	lease, err := root.Lease()
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	if _, err := s.Remove(ref, false); !errors.Is(err, sandbox.ImageInUse) || sandbox.HintOf(err) == "" {
		t.Errorf("remove: %v", err)
	}
	if u, err := s.DiskUsage(); err != nil || u.Images.Active != 1 || u.Images.ReclaimableBytes != 0 || u.Blobs.ReclaimableBytes != 0 {
		t.Errorf("disk usage %+v, %v", u, err)
	}
	if gone, err := s.Prune(); err != nil || len(gone.References) > 0 || gone.Bytes > 0 {
		t.Errorf("prune took %+v, %v", gone, err)
	}
	if _, err := s.Resolve(ref); err != nil {
		t.Errorf("the leased image: %v", err)
	}
	lease.Close()
	if u, err := s.DiskUsage(); err != nil || u.Images.Active != 0 || u.Images.ReclaimableBytes != u.Images.SizeBytes || u.Blobs.ReclaimableBytes == 0 {
		t.Errorf("disk usage %+v, %v", u, err)
	}
	// A sandbox that does not run keeps its image, too.
	o := Options{Users: func(string) ([]string, error) { return []string{"one", "two"}, nil }}
	if _, err := Open(s.home, o).Remove(ref, false); !errors.Is(err, sandbox.ImageInUse) || !strings.Contains(err.Error(), "one, two") {
		t.Errorf("remove: %v", err)
	}
	if gone, err := Open(s.home, o).Prune(); err != nil || len(gone.References) > 0 {
		t.Errorf("prune took %+v, %v", gone, err)
	}
	if gone, err := s.Prune(); err != nil || len(gone.References) != 1 {
		t.Errorf("prune took %+v, %v", gone, err)
	}
	if _, err := root.Lease(); !errors.Is(err, sandbox.ImageNotFound) {
		t.Errorf("lease of what is gone: %v", err)
	}
	if left := files(t, s); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	mustPull(t, s, ref, PullOptions{})
	root, err = s.Resolve(ref)
	if err != nil {
		t.Fatal(err)
	}
	if lease, err = root.Lease(); err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	if _, err := s.Remove(ref, true); err != nil {
		t.Errorf("forced: %v", err)
	}
}

func indexOf(t testing.TB, images ...v1.Image) v1.ImageIndex {
	t.Helper()
	var adds []mutate.IndexAddendum
	for _, img := range images {
		adds = append(adds, mutate.IndexAddendum{Add: img})
	}
	return mutate.AppendManifests(empty.Index, adds...)
}
