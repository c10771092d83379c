package gvisor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/driver"
)

// TestBinds mounts a directory and a file of the host in each way there is, and looks at them from both sides.
func TestBinds(t *testing.T) {
	host := func(path string) string {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%o %t", st.Mode&0o7777, int(st.Uid) == os.Getuid())
	}
	for _, c := range []struct {
		name  string
		files driver.Files
		guest string            // the guest's view of old, new, dir, link after the work
		host  map[string]string // mode, and whether it is ours
	}{
		{"strict", driver.Files{Stat: "strict"}, "old 640 0:0\nnew 4750 1000:1001\ndir 1777 33:0\nlink 777 0:0\nnull 600 0:0\nuser 644 65534:65534\n",
			map[string]string{"old": "640 true", "new": "600 true", "dir": "700 true", "user": "600 true"}},
		{"strict mirror, an owner", driver.Files{Stat: "strict", Mirror: true, UID: 500, GID: 600},
			"old 640 500:600\nnew 4750 1000:1001\ndir 1777 33:0\nlink 777 500:600\nnull 600 0:0\nuser 644 65534:65534\n",
			map[string]string{"old": "640 true", "new": "750 true", "dir": "777 true", "user": "644 true"}},
		{"relaxed", driver.Files{Stat: "relaxed"}, "old 640 0:0\nnew 4750 1000:1001\ndir 1777 33:0\nlink 777 0:0\nnull 600 0:0\nuser 644 65534:65534\n",
			map[string]string{"old": "640 true", "new": "600 true", "dir": "700 true", "user": "600 true"}},
		{"off", driver.Files{Stat: "off"}, "old 640 0:0\nnew 750 0:0\ndir 1777 0:0\nlink 777 0:0\n",
			map[string]string{"old": "640 true", "new": "750 true", "dir": "1777 true", "user": "no such file or directory"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newDiskKit(t)
			dir := filepath.Join(t.TempDir(), "src")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			write := func(name, text string) {
				t.Helper()
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
					t.Fatal(err)
				}
			}
			write("old", "old\n")
			write("single", "one\n")
			secret := filepath.Join(filepath.Dir(dir), "secret")
			if err := os.WriteFile(secret, []byte("host's"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(secret, filepath.Join(dir, "out")); err != nil {
				t.Fatal(err)
			}
			f := c.files
			ro := c.files
			g := k.up(t, func(cfg *driver.Config) {
				cfg.Binds = append(cfg.Binds, driver.Bind{Source: dir, Target: "/bind", Files: &f}, driver.Bind{Source: dir, Target: "/mnt/ro", ReadOnly: true, Files: &ro},
					driver.Bind{Source: filepath.Join(dir, "single"), Target: "/mnt/single", Files: &ro})
			})
			g.sh(t, `cd /bind; cat old; echo new >new; mkdir dir; ln -s old link; chmod 4750 new; chmod 1777 dir; rm -f gone; echo moved >m1; mv m1 m2; ln m2 m3; rm m2`)
			if c.files.Stat == "off" {
				if _, code := g.run(t, 5, "chown", "1000:1001", "/bind/new"); code == 0 && os.Getuid() != 0 {
					t.Error("an owner that the host does not have was set")
				}
				g.sh(t, "chown 0:0 /bind/new; chmod 750 /bind/new")
			} else {
				g.sh(t, `cd /bind; chown 1000:1001 new; chmod 4750 new; chown 33 dir; mknod null c 1 3; chmod 600 null; echo x >null; touch user; chown 65534:65534 user; chmod 644 user`)
			}
			have := g.sh(t, `cd /bind; for f in old new dir link null user; do test -e $f && stat -c '%n %a %u:%g' $f; done; true`)
			if have != c.guest {
				t.Errorf("the guest sees\n%swant\n%s", have, c.guest)
			}
			for name, want := range c.host {
				if have := host(filepath.Join(dir, name)); have != want {
					t.Errorf("on the host %s is %q, want %q", name, have, want)
				}
			}
			if b, err := os.ReadFile(filepath.Join(dir, "m3")); err != nil || string(b) != "moved\n" {
				t.Errorf("on the host m3 is %q, %v", b, err)
			}
			if target, err := os.Readlink(filepath.Join(dir, "link")); err != nil || target != "old" {
				t.Errorf("on the host the link leads to %q, %v", target, err)
			}
			for _, script := range []string{"cat /bind/out", "echo x >/bind/out/f", "echo x >/mnt/ro/old", "rm /mnt/ro/old", "chmod 777 /mnt/ro/old", "mkdir /mnt/ro/x"} {
				if out, code := g.run(t, 5, "sh", "-c", script); code == 0 {
					t.Errorf("%s: %s", script, out)
				}
			}
			if have := g.sh(t, "cat /mnt/ro/new; cat /mnt/single; echo two >>/mnt/single; cat /mnt/single"); have != "new\none\none\ntwo\n" {
				t.Errorf("have %q", have)
			}
			if b, err := os.ReadFile(filepath.Join(dir, "single")); err != nil || string(b) != "one\ntwo\n" {
				t.Errorf("the single file is %q, %v", b, err)
			}
			if err := g.inst.Destroy(); err != nil {
				t.Fatal(err)
			}
			g = k.up(t, func(cfg *driver.Config) {
				cfg.Binds = append(cfg.Binds, driver.Bind{Source: dir, Target: "/bind", Files: &f})
			})
			if have := g.sh(t, `cd /bind; for f in old new dir link null user; do test -e $f && stat -c '%n %a %u:%g' $f; done; true`); have != c.guest {
				t.Errorf("in the next sandbox the guest sees\n%swant\n%s", have, c.guest)
			}
		})
	}
}

// TestBindLimit fills a bind that has a limit and was not empty.
func TestBindLimit(t *testing.T) {
	k := newDiskKit(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "old"), make([]byte, 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	g := k.up(t, func(cfg *driver.Config) {
		cfg.Binds = append(cfg.Binds, driver.Bind{Source: dir, Target: "/bind", Files: &driver.Files{Stat: "strict", LimitBytes: 300_000}})
	})
	out, _ := g.run(t, 5, "dd", "if=/dev/zero", "of=/bind/a", "bs=7000")
	if st, err := os.Stat(filepath.Join(dir, "a")); err != nil || st.Size() != 200_000 || !strings.Contains(out, "No space left") {
		t.Errorf("the file is %v, %v; dd says %s", st, err, out)
	}
	g.sh(t, "rm /bind/old; head -c 100000 /dev/zero >/bind/b; rm /bind/b /bind/a")
	for _, u := range g.inst.(driver.Disks).Disks() {
		if u.Target == "/bind" && (u.Bytes != 0 || u.Inodes != 0 || u.LimitBytes != 300_000) {
			t.Errorf("have %+v", u)
		}
	}
}

// TestNoAttributes is refused in words that help.
func TestNoAttributes(t *testing.T) {
	k := newDiskKit(t)
	if err := unix.Mount("proc", k.disk.Source, "ramfs", 0, ""); err != nil {
		t.Skip("no ramfs to mount:", err)
	}
	defer unix.Unmount(k.disk.Source, unix.MNT_DETACH)
	_, err := Driver{}.Start(context.Background(), driver.Config{ID: "none", RootImage: k.root.Path, Agent: k.agent, Disk: k.disk, Control: pipe(t), MemoryBytes: 64 << 20})
	if err == nil || !strings.Contains(err.Error(), "keeps no extended attributes") {
		t.Errorf("have %v", err)
	}
}

// TestBindShared changes a bind on the host while the guest uses it, and maps and runs files there.
func TestBindShared(t *testing.T) {
	k := newDiskKit(t)
	dir := t.TempDir()
	host := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	host("script", "#!/bin/sh\necho one\n")
	g := k.up(t, func(cfg *driver.Config) {
		cfg.Binds = append(cfg.Binds, driver.Bind{Source: dir, Target: "/bind", Shared: true, Files: &driver.Files{Stat: "strict"}})
	})
	if have := g.sh(t, "cd /bind; ./script; ! cat later 2>/dev/null; chown 7:8 script; ls"); have != "one\nscript\n" {
		t.Errorf("have %q", have)
	}
	host("script", "#!/bin/sh\necho two, and longer\n")
	host("later", "later\n")
	if have := g.sh(t, "cd /bind; ./script; cat later; stat -c %u:%g script; rm later; cp /usr/bin/id copy; ./copy -u; echo mine >made"); have != "two, and longer\nlater\n7:8\n0\n" {
		t.Errorf("have %q", have)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "made")); err != nil || string(b) != "mine\n" {
		t.Errorf("on the host: %q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "later")); err == nil {
		t.Error("the file that the guest removed is there")
	}
}
