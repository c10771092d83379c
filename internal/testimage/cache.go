// Package testimage makes small OCI images for tests out of Debian packages, without root and without a container tool,
// and serves them from registries on loopback.
//
// What is downloaded and built is kept in a cache of the user's, os.UserCacheDir()/msb-testimage, and made again when it is
// missing. A machine that has no apt-get, or whose apt-get reaches no mirror, skips the test.
package testimage

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// format changes whenever images are built differently.
const format = "1"

// cached returns the path of the cache entry name, which make fills when it is missing: a directory, published by rename.
func cached(t testing.TB, name string, make func(dir string) error) string {
	t.Helper()
	top, err := os.UserCacheDir()
	if err != nil {
		t.Skip("no cache directory: ", err)
	}
	top = filepath.Join(top, "msb-testimage")
	path := filepath.Join(top, name+"-"+format)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := os.MkdirAll(top, 0o755); err != nil {
		t.Skip("no cache directory: ", err)
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		return path // another test made it meanwhile
	}
	temp := path + ".tmp" // only the owner of the lock has it
	if err := os.RemoveAll(temp); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(temp, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := make(temp); err != nil {
		_ = os.RemoveAll(temp)
		t.Skipf("cannot make the test image %s: %v", name, err)
	}
	if err := os.Rename(temp, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// packages returns the .deb files of the named packages, in the order of the names of their files.
func packages(t testing.TB, name string, of func() ([]string, error)) []string {
	t.Helper()
	dir := cached(t, "debs-"+name, func(dir string) error {
		names, err := of()
		if err != nil {
			return err
		}
		if names, err = ofDebian(names); err != nil {
			return err
		}
		// As root apt-get downloads as another user, who may not write here; it says so and goes on.
		_, err = run(dir, "apt-get", append([]string{"-q", "download"}, names...)...)
		return err
	})
	debs, _ := filepath.Glob(filepath.Join(dir, "*.deb"))
	return debs
}

func run(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, args[0], err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// closure returns the packages and all that they depend on. Of alternatives it takes the first.
func closure(names ...string) ([]string, error) {
	known := map[string]bool{}
	var all []string
	for len(names) > 0 {
		var next []string
		for _, n := range names {
			if !known[n] {
				known[n] = true
				next = append(next, n)
			}
		}
		if len(next) == 0 {
			break
		}
		all = append(all, next...)
		versions, err := ofDebian(next)
		if err != nil {
			return nil, err
		}
		out, err := run(".", "apt-cache", append([]string{"depends", "--no-recommends", "--no-suggests", "--no-conflicts",
			"--no-breaks", "--no-replaces", "--no-enhances"}, versions...)...)
		if err != nil {
			return nil, err
		}
		names = dependencies(out)
	}
	return all, nil
}

// dependencies reads what apt-cache depends prints.
func dependencies(out string) []string {
	var names []string
	inGroup, virtual := false, false
	for line := range strings.Lines(out) {
		field, name, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok {
			// The name of a package begins a list; an indented one provides the virtual package before it.
			if virtual && strings.HasPrefix(line, "    ") {
				names = append(names, strings.TrimSpace(line))
			}
			virtual = false
			continue
		}
		alternative := strings.HasPrefix(field, "|")
		if !inGroup {
			if virtual = strings.HasPrefix(name, "<"); !virtual {
				names = append(names, name)
			}
		}
		inGroup = alternative
	}
	return names
}

// ofDebian adds to each name the version that the archives have: this machine may prefer one that cannot be had any more.
func ofDebian(names []string) ([]string, error) {
	out, err := run(".", "apt-cache", append([]string{"madison"}, names...)...)
	if err != nil {
		return nil, err
	}
	version := map[string]string{}
	for line := range strings.Lines(out) {
		f := strings.Split(line, "|")
		if len(f) == 3 && strings.Contains(f[2], "Packages") && version[strings.TrimSpace(f[0])] == "" {
			version[strings.TrimSpace(f[0])] = strings.TrimSpace(f[1])
		}
	}
	full := make([]string, len(names))
	for i, n := range names {
		if full[i] = n; version[n] != "" {
			full[i] = n + "=" + version[n]
		}
	}
	return full, nil
}
