package gvisor

import (
	"context"
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
