package gvisor

import (
	"context"
	_ "embed"
	"fmt"
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

// diskKit starts guests that have their root on a disk.
type diskKit struct {
	*guestKit
	disk *driver.Disk
}

func newDiskKit(t *testing.T) *diskKit {
	t.Helper()
	home := t.TempDir()
	leakcheck.Check(t, leakcheck.Home(home, "images", "bin", "disk", "msb-agent"), leakcheck.Within(5*time.Second))
	k := &diskKit{guestKit: newGuestKit(t, home), disk: &driver.Disk{Source: filepath.Join(home, "disk")}}
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
	g.bringUpWith(t, agentproto.Bootstrap{BlockRoot: &agentproto.BlockRoot{Kind: agentproto.RootOCI, Lower: "/",
		Upper: &agentproto.BlockUpper{Kind: agentproto.UpperDirectory, Device: driver.DiskTarget}}})
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
