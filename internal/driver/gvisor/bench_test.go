package gvisor

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/driver"
)

// BenchmarkDisk measures a start until the agent is ready, and the end, with a root in memory and with one on a disk,
// taking turns. go test -run '^$' -bench Disk -benchtime 60x ./internal/driver/gvisor
func BenchmarkDisk(b *testing.B) {
	home := b.TempDir()
	k := newGuestKit(b, home)
	dir := filepath.Join(home, "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	took, ends := map[string][]float64{}, map[string][]float64{}
	for n := 0; b.Loop(); n++ {
		name := []string{"memory", "disk"}[n%2]
		var boot agentproto.Bootstrap
		k.edit = func(cfg *driver.Config) {
			cfg.Binds = nil // no file server but ours
			if name == "disk" {
				cfg.Disk = &driver.Disk{Source: dir, LimitBytes: 4 << 30}
				boot.BlockRoot = diskRoot
			}
		}
		began := time.Now()
		g := k.start(b, func(cfg driver.Config) (driver.Instance, error) { return Driver{}.Start(context.Background(), cfg) })
		g.bringUpWith(b, boot)
		took[name] = append(took[name], time.Since(began).Seconds()*1e3)
		began = time.Now()
		if err := g.inst.Destroy(); err != nil {
			b.Fatal(err)
		}
		ends[name] = append(ends[name], time.Since(began).Seconds()*1e3)
	}
	for name, all := range took {
		slices.Sort(all)
		slices.Sort(ends[name])
		b.ReportMetric(all[len(all)/2], name+"-ms")
		b.ReportMetric(ends[name][len(all)/2], name+"-end-ms")
	}
	b.ReportMetric(0, "ns/op")
}
