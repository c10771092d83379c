package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/microsandbox-go/microsandbox/internal/testimage"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// TestMain pulls an image when it is told to, as a process of its own that a test can kill.
func TestMain(m *testing.M) {
	if ref := os.Getenv("IMAGE_TEST_PULL"); ref != "" {
		s := Open(os.Getenv("IMAGE_TEST_PULL_HOME"), Options{Parallel: 1})
		root, err := s.Pull(context.Background(), ref, PullOptions{Progress: func(p Progress) {
			if p.Phase == Waiting || p.Phase == Downloaded {
				fmt.Println(p.Phase)
			}
		}})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(root.Path)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// puller returns a process that pulls ref into the store.
func puller(s *Store, ref string) (*exec.Cmd, *output) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "IMAGE_TEST_PULL="+ref, "IMAGE_TEST_PULL_HOME="+s.home)
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

// output is what a process has printed so far.
type output struct {
	mu sync.Mutex
	b  strings.Builder
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// blobCount counts the layers that are asked for, and can hold the answers back.
type blobCount struct {
	n    atomic.Int64
	hold atomic.Pointer[func(n int64)]
}

func (b *blobCount) holdBack(f func(n int64)) { b.hold.Store(&f) }

func (b *blobCount) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			n := b.n.Add(1)
			if hold := b.hold.Load(); hold != nil {
				(*hold)(n)
			}
		}
		next.ServeHTTP(w, r)
	})
}

func layered(t testing.TB, n int) v1.Image {
	t.Helper()
	var layers []v1.Layer
	for i := range n {
		layers = append(layers, testimage.Layer(t, testimage.Tar(t, noise(fmt.Sprint(i), 300_000)), testimage.Plain))
	}
	return testimage.Image(t, v1.Config{}, layers...)
}

func TestTwoProcesses(t *testing.T) {
	var count blobCount
	started := make(chan struct{}, 100)
	release := make(chan struct{})
	count.holdBack(func(int64) { started <- struct{}{}; <-release })
	reg := testimage.Serve(t, testimage.Options{Wrap: count.wrap})
	ref := reg.Push(t, "shared", layered(t, 3))
	s := Open(t.TempDir(), Options{})
	one, outOne := puller(s, ref)
	two, outTwo := puller(s, ref)
	if err := one.Start(); err != nil {
		t.Fatal(err)
	}
	<-started
	if err := two.Start(); err != nil {
		t.Fatal(err)
	}
	for range 200 { // until the second process has asked for the manifest and waits
		if strings.Contains(outTwo.String(), "waiting") {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	close(release)
	if err := errors.Join(one.Wait(), two.Wait()); err != nil {
		t.Fatalf("%v\n%s\n%s", err, outOne, outTwo)
	}
	if n := count.n.Load(); n != 4 {
		t.Errorf("%d blobs were asked for, want a configuration and three layers once", n)
	}
	if !strings.HasPrefix(outTwo.String(), "waiting\n") {
		t.Errorf("the second process said %q", outTwo)
	}
}

func TestKilled(t *testing.T) {
	var count blobCount
	reg := testimage.Serve(t, testimage.Options{Wrap: count.wrap})
	img := layered(t, 4)
	ref := reg.Push(t, "killed", img)
	s := Open(t.TempDir(), Options{})
	cmd, out := puller(s, ref)
	started := make(chan struct{})
	count.holdBack(func(n int64) {
		if n == 4 { // the configuration and two layers are there
			<-started
			_ = cmd.Process.Kill()
			time.Sleep(50 * time.Millisecond)
		}
	})
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	close(started)
	if err := cmd.Wait(); err == nil {
		t.Fatalf("it was not killed: %s", out)
	}
	if _, err := s.Resolve(ref); !errors.Is(err, sandbox.ImageNotFound) {
		t.Errorf("the killed pull left an image: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Join(s.dir, "tmp")); len(left) == 0 {
		t.Error("the killed process left nothing to sweep: it was not in the middle")
	}
	count.hold.Store(nil)
	count.n.Store(0)
	root := mustPull(t, s, ref, PullOptions{})
	if n := count.n.Load(); n != 3 {
		t.Errorf("%d blobs were asked for, want the configuration and the two layers that were missing", n)
	}
	same(t, "resumed", ofImage(t, root.Path), modelOf(t, img).shown())
	if left, _ := os.ReadDir(filepath.Join(s.dir, "tmp")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestKilledAnywhere kills pulls at many moments: what is there afterwards is whole, and the next pull mends it.
func TestKilledAnywhere(t *testing.T) {
	if testing.Short() {
		t.Skip("slow")
	}
	reg := testimage.Serve(t, testimage.Options{})
	ref := reg.Push(t, "killed", layered(t, 6))
	for i := range 12 {
		s := Open(t.TempDir(), Options{})
		cmd, _ := puller(s, ref)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(15+i*5) * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		root, err := s.Resolve(ref)
		if err == nil { // it was killed after all was done but to tidy up, for which a pull that has nothing to do does not look
			ofImage(t, root.Path)
		}
		mustPull(t, s, ref, PullOptions{})
		if left, _ := os.ReadDir(filepath.Join(s.dir, "tmp")); err != nil && len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		if _, err := s.Remove(ref, false); err != nil {
			t.Error(err)
		}
		if left := files(t, s); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

func TestLeaseOutlivesItsGiver(t *testing.T) {
	reg := testimage.Serve(t, testimage.Options{})
	ref := reg.Push(t, "leased", layered(t, 1))
	s := Open(t.TempDir(), Options{})
	lease, err := mustPull(t, s, ref, PullOptions{}).Lease()
	if err != nil {
		t.Fatal(err)
	}
	runner := exec.Command("sleep", "100")
	runner.ExtraFiles = []*os.File{lease}
	if err := runner.Start(); err != nil {
		t.Fatal(err)
	}
	lease.Close()
	if _, err := s.Remove(ref, false); !errors.Is(err, sandbox.ImageInUse) {
		t.Errorf("while a child has the lease: %v", err)
	}
	_ = runner.Process.Kill()
	_ = runner.Wait()
	if _, err := s.Remove(ref, false); err != nil {
		t.Errorf("after kill -9: %v", err)
	}
}

func TestPullOnFullDisk(t *testing.T) {
	reg := testimage.Serve(t, testimage.Options{})
	ref := reg.Push(t, "big", layered(t, 12))
	dir := t.TempDir()
	smallDisk(t, dir, "2m")
	s := Open(filepath.Join(dir, "home"), Options{Parallel: 1})
	// On this thread only is the disk small, so the work must not go elsewhere: a process of its own inherits it.
	cmd, out := puller(s, ref)
	if err := cmd.Run(); err == nil || !strings.Contains(out.String(), "no space left on device") {
		t.Fatalf("%v, %s", err, out)
	}
	for _, f := range files(t, s) {
		if !strings.HasPrefix(f, "blobs/sha256/") {
			t.Errorf("left %s", f)
		}
	}
}
