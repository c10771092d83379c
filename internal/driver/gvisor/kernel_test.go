package gvisor

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/leakcheck"
)

// cell runs a cell and returns what it prints and the text of what it shows.
func (g *guest) cell(t testing.TB, id uint32, lang, code string) (said string) {
	t.Helper()
	g.send(t, id, agentproto.TypeKernelRun, &agentproto.KernelRun{Language: lang, Code: code})
	return g.rest(t, id)
}

// rest is what a cell says from now on to its end.
func (g *guest) rest(t testing.TB, id uint32) (said string) {
	t.Helper()
	for {
		got, m := g.next(t)
		if got != id {
			continue
		}
		switch m.Type {
		case agentproto.TypeKernelStarted:
		case agentproto.TypeKernelStdout, agentproto.TypeKernelStderr:
			b, err := agentproto.DecodeData(m.Payload)
			if err != nil {
				t.Fatal(err)
			}
			said += string(b)
		case agentproto.TypeKernelResult:
			var r agentproto.KernelResult
			if err := agentproto.Decode(m.Payload, &r); err != nil {
				t.Fatal(err)
			}
			said += string(r.Data)
		case agentproto.TypeKernelDone:
			return said
		default:
			t.Fatalf("cell %d: %s %q", id, m.Type, m.Payload)
		}
	}
}

// TestCheckpointInterpreters saves a sandbox with interpreters, one of which is in the middle of a cell. In each restored
// sandbox their state is there, and the cell goes on.
func TestCheckpointInterpreters(t *testing.T) {
	for _, program := range []string{"/usr/bin/python3", "/usr/bin/node"} {
		if _, err := os.Stat(program); err != nil {
			t.Skip("needs ", program)
		}
	}
	home := t.TempDir()
	leakcheck.Check(t, leakcheck.Home(home, "images", "bin", "checkpoint", "msb-agent"), leakcheck.Within(5*time.Second))
	kit := newGuestKit(t, home)
	ctx := context.Background()
	original := kit.start(t, func(cfg driver.Config) (driver.Instance, error) { return Driver{}.Start(ctx, cfg) })
	original.bringUp(t)
	original.cell(t, 1, "python", "state = [1]")
	original.cell(t, 2, "node", "let state = 2")
	original.cell(t, 3, "bash", "state=3")
	original.send(t, 4, agentproto.TypeKernelRun, &agentproto.KernelRun{Language: "python", Code: "import os, time\nwhile not os.path.exists('/tmp/go'): time.sleep(0.01)\nprint('went on')"})
	if id, m := original.next(t); id != 4 || m.Type != agentproto.TypeKernelStarted {
		t.Fatalf("cell %d: %s", id, m.Type)
	}
	dir := filepath.Join(home, "checkpoint")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := original.inst.(driver.Checkpointer).Checkpoint(ctx, dir); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		g := original
		if n > 0 {
			g = kit.start(t, func(cfg driver.Config) (driver.Instance, error) { return Driver{}.Restore(ctx, cfg, dir) })
		}
		g.send(t, 5, agentproto.TypeKernelRun, &agentproto.KernelRun{Language: "bash", Code: "touch /tmp/go"})
		if said := g.rest(t, 4); said != "went on\n" {
			t.Errorf("sandbox %d: the cell said %q", n, said)
		}
		if said := g.cell(t, 6, "python", "state.append(4)\nstr(state)"); said != "'[1, 4]'" {
			t.Errorf("sandbox %d: python says %q", n, said)
		}
		if said := g.cell(t, 7, "node", "state += 2; String(state)"); said != "'4'" {
			t.Errorf("sandbox %d: node says %q", n, said)
		}
		if said := g.cell(t, 8, "bash", "echo $((state++))"); said != "3\n" {
			t.Errorf("sandbox %d: bash says %q", n, said)
		}
	}
}

// BenchmarkInterpreters: begin is a session's first cell, with the start of its interpreter; cell is one more; output is what one
// prints.
func BenchmarkInterpreters(b *testing.B) {
	home := b.TempDir()
	kit := newGuestKit(b, home)
	ctx := context.Background()
	g := kit.start(b, func(cfg driver.Config) (driver.Instance, error) { return Driver{}.Start(ctx, cfg) })
	g.bringUpWith(b, agentproto.Bootstrap{})
	id := uint32(0)
	cell := func(b *testing.B, m *agentproto.KernelRun) (size int) {
		id++
		g.send(b, id, agentproto.TypeKernelRun, m)
		for {
			_, m := g.next(b)
			switch m.Type {
			case agentproto.TypeKernelStdout:
				size += len(m.Payload)
			case agentproto.TypeKernelFailed, agentproto.TypeError:
				b.Fatalf("%s %q", m.Type, m.Payload)
			case agentproto.TypeKernelDone:
				return size
			}
		}
	}
	for _, l := range []struct{ lang, code, print string }{
		{"python", "1", "for _ in range(64): print('x' * (1 << 20), end='')"},
		{"node", "1", "for (let i = 0; i < 64; i++) process.stdout.write('x'.repeat(1 << 20)); undefined"},
		{"bash", "echo 1", "head -c 67108864 /dev/zero"},
	} {
		b.Run("begin/"+l.lang, func(b *testing.B) {
			for b.Loop() {
				cell(b, &agentproto.KernelRun{Language: l.lang, Session: "new", Code: l.code})
				b.StopTimer()
				id++
				g.send(b, id, agentproto.TypeKernelRequest, &agentproto.KernelRequest{Op: agentproto.KernelClose, Language: l.lang, Session: "new"})
				if _, m := g.next(b); m.Type != agentproto.TypeKernelResponse {
					b.Fatalf("%s %q", m.Type, m.Payload)
				}
				b.StartTimer()
			}
		})
		b.Run("cell/"+l.lang, func(b *testing.B) {
			cell(b, &agentproto.KernelRun{Language: l.lang, Code: l.code})
			for b.Loop() {
				cell(b, &agentproto.KernelRun{Language: l.lang, Code: l.code})
			}
		})
		b.Run("output/"+l.lang, func(b *testing.B) {
			b.SetBytes(64 << 20)
			for b.Loop() {
				if n := cell(b, &agentproto.KernelRun{Language: l.lang, Code: l.print, MaxOutput: 1 << 30}); n < 64<<20 {
					b.Fatalf("%d bytes", n)
				}
			}
		})
	}
}
