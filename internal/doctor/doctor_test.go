package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/leakcheck"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func TestMain(m *testing.M) {
	Child()
	if len(os.Args) == 2 && os.Args[1] == roleHangs {
		time.Sleep(time.Hour)
	}
	os.Exit(m.Run())
}

// roleHangs is a child that says nothing.
const roleHangs = "__msb-doctor-test-hangs"

func find(t *testing.T, r Report, name string) Check {
	t.Helper()
	for _, c := range r.Checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("there is no check %q in %+v", name, r)
	return Check{}
}

func TestExamine(t *testing.T) {
	leakcheck.Check(t)
	begin := time.Now()
	home := filepath.Join(t.TempDir(), "not", "there", "yet")
	r := Examine(t.Context(), Machine{Home: home})
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	for _, c := range r.Checks {
		t.Logf("%-4s %-15s %s [%s]", c.Status, c.Name, c.Detail, c.Remedy)
		if c.Name == "" || c.Detail == "" || c.Status != OK && c.Remedy == "" {
			t.Errorf("%+v says too little", c)
		}
	}
	if _, err := os.Stat(home); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it made the home: %v", err)
	}
	for _, name := range []string{"binaries", "kernel", "namespaces", "isolation", "kvm", "memory limit", "cpu limit", "socket buffers", "images", "disk", "open files", "clock"} {
		find(t, r, name)
	}
}

func TestMissing(t *testing.T) {
	r := Examine(t.Context(), Machine{HomeErr: errors.New("no home"), Missing: []error{&sandbox.Error{Kind: sandbox.LibraryNotLoaded, Message: "no runner", Hint: "get one"}}})
	if r.Ready() {
		t.Error("it can run without a runner")
	}
	if c := find(t, r, "binaries"); c.Status != Fail || c.Detail != "no runner" || c.Remedy != "get one" {
		t.Errorf("binaries: %+v", c)
	}
	if c := find(t, r, "disk"); c.Status != Fail || c.Detail != "no home" {
		t.Errorf("disk: %+v", c)
	}
}

func TestDisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if c := disk(Machine{Home: file}); c.Status != Fail || !strings.Contains(c.Detail, "not a directory") {
		t.Errorf("a file as home: %+v", c)
	}
	if os.Geteuid() != 0 {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		if c := disk(Machine{Home: filepath.Join(dir, "home")}); c.Status != Fail || !strings.Contains(c.Detail, "cannot be written") {
			t.Errorf("a home in a directory of others: %+v", c)
		}
	}
}

// A child that hangs is killed at the deadline, and gone when play returns.
func TestHangs(t *testing.T) {
	leakcheck.Check(t)
	begin := time.Now()
	if err := play(t.Context(), roleHangs, syscall.SysProcAttr{}); !errors.Is(err, errHangs) {
		t.Errorf("play: %v", err)
	}
	if took := time.Since(begin); took < hangTimeout || took > hangTimeout+time.Second {
		t.Errorf("it took %v", took)
	}
}
