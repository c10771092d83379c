package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

func TestHome(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, c := range []struct{ msbHome, home, want string }{
		{"/a/b", "/h", "/a/b"},
		{"", "/h", "/h/.microsandbox"},
		{"rel", "/h", filepath.Join(dir, "rel")},
	} {
		t.Setenv(HomeVar, c.msbHome)
		t.Setenv("HOME", c.home)
		if got, err := Home(); err != nil || got != c.want {
			t.Errorf("Home with %q and %q = %q, %v; want %q", c.msbHome, c.home, got, err, c.want)
		}
	}
	t.Setenv(HomeVar, "")
	for _, home := range []string{"", "rel"} {
		t.Setenv("HOME", home)
		if got, err := Home(); !errors.Is(err, sandbox.InvalidConfig) || !strings.Contains(sandbox.HintOf(err), HomeVar) {
			t.Errorf("Home with HOME=%q = %q, %v", home, got, err)
		}
	}
}

func TestFindBinary(t *testing.T) {
	home := t.TempDir()
	t.Setenv(RunnerVar, "")
	if got, err := FindBinary(Runner, home); !errors.Is(err, sandbox.LibraryNotLoaded) || !strings.Contains(sandbox.HintOf(err), "make build") {
		t.Fatalf("a missing runner: %q, %v", got, err)
	}

	inHome := filepath.Join(home, "bin", Runner)
	write(t, inHome, 0o755)
	if got, err := FindBinary(Runner, home); err != nil || got != inHome {
		t.Errorf("a runner in the home: %q, %v; want %s", got, err, inHome)
	}

	named := filepath.Join(home, "other")
	t.Setenv(RunnerVar, named)
	if got, err := FindBinary(Runner, home); !errors.Is(err, sandbox.LibraryNotLoaded) || !strings.Contains(err.Error(), named) {
		t.Errorf("a named runner that is missing: %q, %v", got, err)
	}
	write(t, named, 0o644)
	if _, err := FindBinary(Runner, home); err == nil || !strings.Contains(err.Error(), "not executable") {
		t.Errorf("a named runner that is not executable: %v", err)
	}
	if err := os.Chmod(named, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := FindBinary(Runner, home); err != nil || got != named {
		t.Errorf("a named runner: %q, %v; want %s", got, err, named)
	}

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	beside := filepath.Join(filepath.Dir(self), Agent)
	write(t, beside, 0o755)
	defer os.Remove(beside)
	write(t, filepath.Join(home, "bin", Agent), 0o755)
	if got, err := FindBinary(Agent, home); err != nil || got != beside {
		t.Errorf("an agent beside the program: %q, %v; want %s", got, err, beside)
	}
}

func write(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), mode); err != nil {
		t.Fatal(err)
	}
}
