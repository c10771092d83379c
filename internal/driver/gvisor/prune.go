package gvisor

import (
	"errors"
	"io/fs"
	"os"

	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer"
	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
)

// pruneDisk makes room on a disk that fills up with whiteouts. A disk that cannot be pruned is used as it is. One that a checkpoint is
// restored with stays as the guest's kernel knows it.
func pruneDisk(cfg driver.Config) {
	if cfg.Disk == nil || cfg.Disk.LimitInodes == 0 {
		return
	}
	img, err := os.Open(cfg.RootImage)
	if err != nil {
		return // the start will say so
	}
	defer img.Close()
	n, err := gofer.Prune(cfg.Disk.Source, cfg.Disk.LimitInodes, func(dir string) (map[string]bool, error) {
		names, err := erofs.Names(img, dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return names, err
	})
	if cfg.Log != nil && (n > 0 || err != nil) {
		cfg.Log.Info("pruned the disk", "whiteouts", n, "error", err)
	}
}
