package gvisor

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/driver"
)

// TestSources finds what is to be served, and refuses a path on which somebody put a link.
func TestSources(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "a"), 0o755), os.Mkdir(filepath.Join(dir, "a/b"), 0o755), os.Symlink("a", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	bind := func(path, stat string) driver.Config {
		return driver.Config{Binds: []driver.Bind{{Source: filepath.Join(dir, path), Target: "/x", Files: &driver.Files{Stat: stat}}}}
	}
	for _, stat := range []string{"strict", "off"} {
		served, err := servedMounts(bind("a/b", stat))
		var st unix.Stat_t
		if serr := unix.Stat(filepath.Join(dir, "a/b"), &st); err != nil || serr != nil || *served[0].Source != [2]uint64{st.Dev, st.Ino} {
			t.Errorf("%s: %+v, %v", stat, served, err)
		}
		for _, path := range []string{"link", "link/b"} {
			if served, err := servedMounts(bind(path, stat)); !errors.Is(err, unix.ELOOP) {
				t.Errorf("%s %s: %+v, %v", stat, path, served, err)
			}
		}
	}
}
