package gvisor

import (
	"archive/tar"
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/leakcheck"
)

// run runs a command to its end and returns what it printed, with its errors.
func (g *guest) run(t *testing.T, id uint32, cmd string, args ...string) (string, int) {
	t.Helper()
	g.send(t, id, agentproto.TypeExecRequest, &agentproto.ExecRequest{Cmd: cmd, Args: args})
	var out strings.Builder
	for {
		got, m := g.next(t)
		if got != id {
			continue
		}
		switch m.Type {
		case agentproto.TypeExecStdout, agentproto.TypeExecStderr:
			b, err := agentproto.DecodeData(m.Payload)
			if err != nil {
				t.Fatal(err)
			}
			out.Write(b)
		case agentproto.TypeExecExited:
			var e agentproto.ExecExited
			if err := agentproto.Decode(m.Payload, &e); err != nil {
				t.Fatal(err)
			}
			return out.String(), int(e.Code)
		case agentproto.TypeExecFailed, agentproto.TypeError:
			t.Fatalf("%s did not start: %s %q", cmd, m.Type, m.Payload)
		}
	}
}

// sh runs a script that has to succeed.
func (g *guest) sh(t *testing.T, script string) string {
	t.Helper()
	out, code := g.run(t, 5, "sh", "-ec", script)
	if code != 0 {
		t.Fatalf("%s\nended with %d:\n%s", script, code, out)
	}
	return out
}

// diskRoot asks the agent for a root on the disk.
var diskRoot = &agentproto.BlockRoot{Kind: agentproto.RootOCI, Lower: "/",
	Upper: &agentproto.BlockUpper{Kind: agentproto.UpperDirectory, Device: driver.DiskTarget}}

// diskKit starts guests that have their root on a disk.
type diskKit struct {
	*guestKit
	home string
	disk *driver.Disk
}

func newDiskKit(t *testing.T) *diskKit {
	t.Helper()
	home := t.TempDir()
	leakcheck.Check(t, leakcheck.Home(home, "images", "bin", "disk", "msb-agent", "checkpoint"), leakcheck.Within(5*time.Second))
	k := &diskKit{guestKit: newGuestKit(t, home), home: home, disk: &driver.Disk{Source: filepath.Join(home, "disk")}}
	if err := os.Mkdir(k.disk.Source, 0o700); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *diskKit) up(t *testing.T, edit func(*driver.Config)) *guest {
	t.Helper()
	k.edit = func(cfg *driver.Config) {
		cfg.Disk = k.disk
		if edit != nil {
			edit(cfg)
		}
	}
	began := time.Now()
	g := k.start(t, func(cfg driver.Config) (driver.Instance, error) { return Driver{}.Start(context.Background(), cfg) })
	booted := time.Since(began)
	g.bringUpWith(t, agentproto.Bootstrap{BlockRoot: diskRoot})
	t.Logf("start: %v, ready after %v", booted, time.Since(began))
	return g
}

// TestDisk writes files of all kinds to a disk and finds them as they were in the next sandbox.
func TestDisk(t *testing.T) {
	k := newDiskKit(t)
	g := k.up(t, nil)
	if have := g.sh(t, "ls -A /dev"); strings.Contains(have, ".msb") {
		t.Errorf("/dev has what the agent built the root in:\n%s", have)
	}
	g.sh(t, `mkdir -p /srv/a; echo hello >/srv/a/f; chown 1000:1001 /srv/a/f; chmod 4751 /srv/a/f; ln -s f /srv/a/l; ln /srv/a/f /srv/a/h; mknod /srv/a/null c 1 3; sync`)
	want := g.sh(t, `cd /srv/a; stat -c '%n %F %a %u:%g %h %t,%T %s' *; cat f l h; readlink l; echo x >null`)
	t.Log(want, g.inst.(driver.Disks).Disks())
	if err := g.inst.Destroy(); err != nil {
		t.Fatal(err)
	}
	g = k.up(t, nil)
	if have := g.sh(t, `cd /srv/a; stat -c '%n %F %a %u:%g %h %t,%T %s' *; cat f l h; readlink l; echo x >null`); have != want {
		t.Errorf("have %s\nwant %s", have, want)
	}
}

// TestDiskPruned renames until a disk is full of whiteouts. The next sandbox has room again, and what was deleted of the image is not back.
func TestDiskPruned(t *testing.T) {
	k := newDiskKit(t)
	k.disk.LimitInodes = 80
	g := k.up(t, nil)
	const replace = `cd /srv; for i in $(seq %d %d); do echo $i >new$i && mv new$i file || exit 7; done`
	deleted := strings.TrimSpace(g.sh(t, `mkdir -p /srv; f=$(find /etc -xdev -type f | sort | head -1); rm "$f"; echo "$f"`))
	if deleted == "" {
		t.Fatal("the image has no file in /etc")
	}
	if out, code := g.run(t, 5, "sh", "-c", fmt.Sprintf(replace, 1, 1000)); code != 7 || !strings.Contains(out, "No space left on device") {
		t.Fatalf("it ended with %d:\n%s", code, tail(out))
	}
	for round := range 2 {
		if err := g.inst.Destroy(); err != nil {
			t.Fatal(err)
		}
		g = k.up(t, nil)
		from := 10_000 * (round + 1)
		g.sh(t, fmt.Sprintf(replace, from+1, from+60))
		if have := g.sh(t, `cat /srv/file; [ -e '`+deleted+`' ] || echo deleted; ls /srv | wc -l`); !strings.HasPrefix(have, fmt.Sprint(from+60, "\ndeleted\n")) {
			t.Errorf("round %d: %q", round, have)
		}
	}
}

// fuzzSteps are how many things one round of TestDiskFuzz does, and fuzzSeeds how many rounds there are.
const (
	fuzzSteps = 1500
	fuzzSeeds = 6
)

//go:embed testdata/fuzz.py
var fuzzProgram string

// fuzz has a guest do random work in a directory and returns what it says.
func (g *guest) fuzz(t *testing.T, dir string, seed, steps, links int) string {
	t.Helper()
	out, code := g.run(t, 5, "python3", "-c", fuzzProgram, dir, fmt.Sprint(seed), fmt.Sprint(steps), fmt.Sprint(links))
	if code != 0 {
		t.Fatalf("the program ended with %d:\n%s", code, tail(out))
	}
	return out
}

func tail(s string) string { return s[max(0, len(s)-2000):] }

// difference returns the first line in which two texts differ.
func difference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for n := range x {
		if n >= len(y) || x[n] != y[n] {
			return fmt.Sprintf("line %d: %q, want %q", n, x[n], append(y, "the end")[min(n, len(y))])
		}
	}
	if len(y) > len(x) {
		return fmt.Sprintf("%d lines, want %d", len(x), len(y))
	}
	return ""
}

// TestDiskFuzz does random work on a tmpfs, on the root that has a disk as its upper layer, and on a disk itself, in one
// sandbox. All three come to the same, and a disk has the same tree in the next sandbox.
func TestDiskFuzz(t *testing.T) {
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skip("needs /usr/bin/python3")
	}
	for _, c := range []struct {
		name, dir string
		root      bool
	}{{"overlay", "/fuzz", true}, {"direct", driver.DiskTarget + "/fuzz", false}} {
		t.Run(c.name, func(t *testing.T) {
			k := newDiskKit(t)
			start := func() *guest {
				if c.root {
					return k.up(t, nil)
				}
				return k.upBare(t)
			}
			g := start()
			trees := map[int]string{}
			for seed := range fuzzSeeds {
				mine, its := fmt.Sprintf("%s%d", c.dir, seed), fmt.Sprintf("/tmp/fuzz%d", seed)
				g.sh(t, "mkdir "+mine+" "+its)
				links := seed % 2
				have, want := g.fuzz(t, mine, seed, fuzzSteps, links), g.fuzz(t, its, seed, fuzzSteps, links)
				if d := difference(have, want); d != "" {
					t.Errorf("seed %d: %s", seed, d)
				}
				trees[seed] = g.fuzz(t, its, seed, 0, 0)
				if n := strings.Count(trees[seed], "\n"); n < 10 {
					t.Errorf("seed %d left only %d entries: it says nothing", seed, n)
				}
			}
			if err := g.inst.Destroy(); err != nil {
				t.Fatal(err)
			}
			g = start()
			for seed := range fuzzSeeds {
				if d := difference(g.fuzz(t, fmt.Sprintf("%s%d", c.dir, seed), seed, 0, 0), trees[seed]); d != "" {
					t.Errorf("seed %d, after a restart: %s", seed, d)
				}
			}
		})
	}
}

// upBare starts a guest that has the disk beside its root.
func (k *diskKit) upBare(t *testing.T) *guest {
	t.Helper()
	k.edit = func(cfg *driver.Config) { cfg.Disk = k.disk }
	g := k.start(t, func(cfg driver.Config) (driver.Instance, error) { return Driver{}.Start(context.Background(), cfg) })
	g.bringUp(t)
	return g
}

// TestDiskCheckpoint saves a sandbox that has a disk, ends it, and goes on from there with the disk as it is.
func TestDiskCheckpoint(t *testing.T) {
	k := newDiskKit(t)
	g := k.up(t, nil)
	program := g.exec(t, 7, "sh", "-c", `mkdir /srv/d; echo before >/srv/d/f; exec 3>>/srv/d/f; while read x; do echo $x >&3; cat /srv/d/f | tr '\n' ' '; echo; done`)
	program.says(t, "one", "before one ")
	dir := filepath.Join(k.home, "checkpoint")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := g.inst.(driver.Checkpointer).Checkpoint(context.Background(), dir); err != nil {
		t.Fatal(err)
	}
	if err := g.inst.Destroy(); err != nil {
		t.Fatal(err)
	}
	g = k.start(t, func(cfg driver.Config) (driver.Instance, error) {
		return Driver{}.Restore(context.Background(), cfg, dir)
	})
	again := &session{g: g, id: 7}
	again.says(t, "two", "before one two ")
	if u := g.usage(t); u.Bytes != uint64(len("before\none\ntwo\n")) {
		t.Errorf("have %+v", u)
	}
	if have := g.sh(t, "cat /srv/d/f; chown 5:6 /srv/d/f; stat -c %u:%g /srv/d/f"); have != "before\none\ntwo\n5:6\n" {
		t.Errorf("have %q", have)
	}
}

// TestDiskFiles sends files with the bootstrap, as patches and scripts come: they are on the disk, and a script is not.
func TestDiskFiles(t *testing.T) {
	k := newDiskKit(t)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for name, text := range map[string]string{"etc/patched": "patch\n", "usr.d/new/file": "deep\n", ".msb/scripts/hello": "#!/bin/sh\necho hello from a script\n"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o751, Uid: 3, Gid: 4, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	k.edit = func(cfg *driver.Config) { cfg.Disk = k.disk }
	g := k.start(t, func(cfg driver.Config) (driver.Instance, error) { return Driver{}.Start(context.Background(), cfg) })
	g.send(t, 0, agentproto.TypeBootstrap, &agentproto.Bootstrap{Files: true, Scripts: true, BlockRoot: diskRoot,
		DefaultEnv: []agentproto.EnvVar{{Key: "PATH", Value: "/usr/bin:/bin"}}})
	for _, b := range [][]byte{archive.Bytes(), nil} {
		if _, err := g.conn.Write(agentproto.AppendData(nil, 0, agentproto.TypeFiles, b)); err != nil {
			t.Fatal(err)
		}
	}
	g.send(t, 0, agentproto.TypeInitAck, nil)
	for {
		_, m := g.next(t)
		if m.Type == agentproto.TypeError {
			t.Fatalf("the agent refuses: %q", m.Payload)
		}
		if m.Type == agentproto.TypeReady {
			break
		}
	}
	if have := g.sh(t, "cat /etc/patched /usr.d/new/file; stat -c '%a %u:%g' /etc/patched; hello"); have != "patch\ndeep\n751 3:4\nhello from a script\n" {
		t.Errorf("have %q", have)
	}
	if _, err := os.Stat(filepath.Join(k.disk.Source, "etc", "patched")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(k.disk.Source, ".msb", "scripts")); err == nil {
		t.Error("the scripts are on the disk")
	}
}
