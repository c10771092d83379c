package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// asHolder is set in a child that claims a directory and holds it until it is killed.
const asHolder = "MSB_TEST_HOLD"

func TestMain(m *testing.M) {
	if home := os.Getenv(asHolder); home != "" {
		ref := sandbox.DefaultRef("held")
		d, err := (Store{home}).Claim(ref, info(ref, true))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("held")
		time.Sleep(time.Hour) // until it is killed
		d.Lock.Close()
	}
	os.Exit(m.Run())
}

func info(ref sandbox.Ref, ephemeral bool) sandbox.Info {
	return sandbox.Info{Ref: ref, ID: "id", Status: sandbox.Starting, Spec: sandbox.Spec{Name: ref.Name, Lifecycle: sandbox.Lifecycle{Ephemeral: ephemeral}}}
}

func put(t *testing.T, d *Dir, name string, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(filepath.Join(d.Path, name), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestRecordFollowsTheLock(t *testing.T) {
	s := Store{t.TempDir()}
	ref := sandbox.DefaultRef("one")
	if _, err := s.Get(ref); !errors.Is(err, sandbox.NotFound) {
		t.Fatalf("before: %v, want NotFound", err)
	}
	d, err := s.Claim(ref, info(ref, false))
	if err != nil {
		t.Fatal(err)
	}
	want := func(status sandbox.Status, reason sandbox.Reason) {
		t.Helper()
		r, err := s.Get(ref)
		if err != nil {
			t.Fatal(err)
		}
		var got sandbox.Reason
		if r.End != nil {
			got = r.End.Reason
		}
		if r.Status != status || got != reason {
			t.Errorf("it is %s (%s), want %s (%s)", r.Status, got, status, reason)
		}
		all, err := s.List(sandbox.DefaultNamespace)
		if err != nil || len(all) != 1 || all[0].Status != status {
			t.Errorf("the list is %v, %v", all, err)
		}
	}
	want(sandbox.Starting, "")
	put(t, d, launch.RunningFile, launch.Running{PID: 1})
	want(sandbox.Running, "")
	if all, err := s.List("other"); err != nil || len(all) != 0 {
		t.Errorf("another namespace has %v, %v", all, err)
	}
	if _, err := s.Claim(ref, info(ref, false)); !errors.Is(err, sandbox.AlreadyExists) {
		t.Errorf("claimed twice: %v", err)
	}
	if _, err := s.Sweep(); err != nil {
		t.Error(err)
	}
	want(sandbox.Running, "") // it was not swept
	d.Lock.Close()
	want(sandbox.Crashed, sandbox.ReasonLost)
	put(t, d, launch.EndFile, sandbox.End{Reason: sandbox.ReasonOOM})
	want(sandbox.Stopped, sandbox.ReasonOOM)

	d, err = s.Claim(ref, info(ref, true)) // the name is free again
	if err != nil {
		t.Fatal(err)
	}
	want(sandbox.Starting, "")
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ref); !errors.Is(err, sandbox.NotFound) {
		t.Fatalf("after: %v, want NotFound", err)
	}
}

func TestSweep(t *testing.T) {
	s := Store{t.TempDir()}
	for name, ephemeral := range map[string]bool{"gone": true, "kept": false} {
		ref := sandbox.DefaultRef(name)
		d, err := s.Claim(ref, info(ref, ephemeral))
		if err != nil {
			t.Fatal(err)
		}
		put(t, d, launch.RunningFile, launch.Running{PID: 1})
		put(t, d, launch.SocketFile, 0)
		d.Lock.Close() // killed
	}
	if err := os.Mkdir(filepath.Join(s.run(), "half-made"), 0o700); err != nil {
		t.Fatal(err)
	}
	dead, err := s.Sweep()
	if err != nil || len(dead) != 1 || dead[0] != sandbox.DefaultRef("kept") {
		t.Fatalf("swept: %v, %v", dead, err)
	}
	var got []string
	dirs, err := os.ReadDir(s.run())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if d.IsDir() {
			got = append(got, d.Name())
		}
	}
	if len(got) != 1 || got[0] != dead[0].ShortID() {
		t.Errorf("left: %v", got)
	}
}

// TestHold looks that nobody can start a sandbox whose end is being recorded, and that the end is found.
func TestHold(t *testing.T) {
	s := Store{t.TempDir()}
	ref := sandbox.DefaultRef("one")
	d, r, err := s.Hold(ref) // nothing has run
	if err != nil || r.ID != "" {
		t.Fatalf("hold nothing: %+v, %v", r, err)
	}
	if _, err := s.Claim(ref, info(ref, false)); !errors.Is(err, sandbox.AlreadyExists) {
		t.Fatalf("claim what is held: %v", err)
	}
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	d, err = s.Claim(ref, info(ref, false))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Hold(ref); !errors.Is(err, sandbox.StillRunning) {
		t.Fatalf("hold what runs: %v, want StillRunning", err)
	}
	put(t, d, launch.EndFile, sandbox.End{Reason: sandbox.ReasonOOM})
	d.Lock.Close()
	d, r, err = s.Hold(ref)
	if err != nil || !r.Ended || r.End.Reason != sandbox.ReasonOOM {
		t.Fatalf("hold what ended: %+v, %v", r, err)
	}
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
}

// TestOneWins has many claim one name while others sweep, read and list.
func TestOneWins(t *testing.T) {
	s := Store{t.TempDir()}
	ref := sandbox.DefaultRef("prize")
	for range 30 {
		var won atomic.Int32
		var wg sync.WaitGroup
		dirs := make(chan *Dir, 16)
		for range 8 {
			wg.Go(func() {
				d, err := s.Claim(ref, info(ref, true))
				switch {
				case err == nil:
					won.Add(1)
					dirs <- d
				case !errors.Is(err, sandbox.AlreadyExists):
					t.Error(err)
				}
			})
			wg.Go(func() {
				if _, err := s.Sweep(); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if _, err := s.List(sandbox.DefaultNamespace); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d won", won.Load())
		}
		if err := (<-dirs).Remove(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKilledHolderLetsGo(t *testing.T) {
	s := Store{t.TempDir()}
	ref := sandbox.DefaultRef("held")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asHolder+"="+s.Home)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, _ := out.Read(b)
	if string(b[:n]) != "held\n" {
		t.Fatalf("the holder said %q", b[:n])
	}
	if !s.Live(ref.ShortID()) {
		t.Error("it is not seen as alive")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if s.Live(ref.ShortID()) {
		t.Error("it is seen as alive after its end")
	}
	if _, err := s.Sweep(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.Path(ref)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory is left: %v", err)
	}
}

// TestClaimWhileOthersEnd has sandboxes of one name come and go as runners do, and checks that no two have the name at
// the same time and that none loses its directory while it has it.
func TestClaimWhileOthersEnd(t *testing.T) {
	s := Store{t.TempDir()}
	ref := sandbox.DefaultRef("name")
	var holders, claims atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for deadline := time.Now().Add(20 * time.Second); claims.Load() < 200 && time.Now().Before(deadline); {
				d, err := s.Claim(ref, info(ref, true))
				if errors.Is(err, sandbox.AlreadyExists) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				claims.Add(1)
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d have the name", n)
				}
				if r, err := s.Get(ref); err != nil || !r.Live || r.Status != sandbox.Starting {
					t.Errorf("its holder sees %v, %v", r.Status, err)
				}
				holders.Add(-1)
				// The runner discards the directory, and lets go of the lock when it ends.
				if err := errors.Join(atomicfile.Discard(d.Path), d.Lock.Close()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for range 300 {
				if _, err := s.Sweep(); err != nil {
					t.Error(err)
				}
				if r, err := s.Get(ref); err == nil && r.Status == sandbox.Running {
					t.Error("a reader sees a running sandbox that never was")
				}
			}
		})
	}
	wg.Wait()
	if claims.Load() < 200 {
		t.Errorf("only %d claims: the test says little", claims.Load())
	}
}
