package atomicfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
)

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestWriteReplacesWholeWithExactMode(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir := t.TempDir()
	path := filepath.Join(dir, "status.json")
	for i, write := range []func(string, []byte, fs.FileMode) error{atomicfile.Write, atomicfile.WriteSync} {
		want := []string{"first, long", "second"}[i]
		if err := write(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("read %q, %v; want %q", got, err, want)
		}
	}
	if info, _ := os.Stat(path); info.Mode() != 0o644 {
		t.Errorf("mode %v, want 0644 whatever the umask", info.Mode())
	}
	if n := names(t, dir); len(n) != 1 {
		t.Errorf("left in the directory: %v", n)
	}
}

func TestNothingIsSeenBeforeCommit(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "image")
	f, err := atomicfile.Create(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abort()
	if _, err := f.WriteString("half"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat before commit: %v, want not exist", err)
	}
	if n := names(t, dir); len(n) != 1 || !atomicfile.IsTemp(n[0]) {
		t.Errorf("in the directory: %v, want one temporary name", n)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	f.Abort()
	if err := f.Commit(); err == nil {
		t.Error("a second commit succeeded")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "half" {
		t.Errorf("after commit: %q, %v", got, err)
	}
}

func TestAbortLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	f, err := atomicfile.Create(filepath.Join(dir, "x"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f.Abort()
	f.Abort()
	if n := names(t, dir); len(n) != 0 {
		t.Errorf("left: %v", n)
	}
}

func TestFailedCommitLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(path, "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, nil, 0o600); err == nil {
		t.Fatal("a directory was replaced by a file")
	}
	if n := names(t, dir); len(n) != 1 {
		t.Errorf("left: %v", n)
	}
}

func TestSweepTakesOnlyOldTemporaries(t *testing.T) {
	dir := t.TempDir()
	hourAgo := time.Now().Add(-time.Hour)
	for name, old := range map[string]bool{".tmp-1": true, ".tmp-2": false, "kept": true} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if old {
			if err := os.Chtimes(path, hourAgo, hourAgo); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := atomicfile.Sweep(dir, time.Minute); err != nil {
		t.Fatal(err)
	}
	if n := names(t, dir); len(n) != 2 || n[0] != ".tmp-2" || n[1] != "kept" {
		t.Errorf("left %v, want .tmp-2 and kept", n)
	}
}
