package image

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
)

// side is what is known of an image besides what EROFS holds.
type side struct {
	Layers []sideLayer                  `json:"layers"`
	Xattrs map[string]map[string][]byte `json:"xattrs,omitempty"` // by path, by name; gVisor refuses files that have some
}

type sideLayer struct {
	TarBytes  int64 `json:"tar_bytes"`  // unpacked
	DataBytes int64 `json:"data_bytes"` // in the EROFS file
}

// convert makes one EROFS file of the layers, lowest first, and returns it open, written but not synced.
//
// All layers are read at once, as many as are allowed: the data of files goes to the image as it comes, whatever layer it is
// of, and names and attributes to a tree per layer. When all are there, the trees are put one over the other in the
// manifest's order, and the result is written. Data that does not show in the end was written for nothing; it becomes holes.
func (s *Store) convert(ctx context.Context, path string, layers []source, plain bool, progress func(p Phase, layer int, done int64)) (*os.File, *side, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, nil, err
	}
	side, err := s.convertTo(ctx, f, layers, plain, progress)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, side, nil
}

func (s *Store) convertTo(ctx context.Context, f *os.File, sources []source, plain bool, progress func(Phase, int, int64)) (*side, error) {
	out := &early{File: f}
	w := erofs.NewWriter(out)
	used := &usage{limits: s.cfg.Limits}
	layers := make([]*layer, len(sources))
	side := &side{Layers: make([]sideLayer, len(sources))}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(s.cfg.Parallel)
	for i, src := range sources {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			l := &layer{index: int32(i), plain: plain, used: used, data: w.Stream()}
			during := Downloading
			if src.stored {
				during = Unpacking
				progress(Cached, i, 0)
			}
			n, err := l.unpack(ctx, src, func(done int64) { progress(during, i, done) })
			if e := l.data.Close(); err == nil {
				err = e
			}
			if err != nil {
				return fmt.Errorf("layer %d of %d (%s): %w", i+1, len(sources), src.Digest, err)
			}
			l.data = nil
			if !src.stored {
				progress(Downloaded, i, src.Size)
			}
			progress(Unpacked, i, src.Size)
			layers[i], side.Layers[i].TarBytes = l, n
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	progress(Writing, 0, 0)
	root := newDirNode(0)
	for i, l := range layers {
		layers[i] = nil
		root.overlay(l.root)
		if err := root.settle(l.links, used); err != nil {
			return nil, fmt.Errorf("layer %d of %d (%s): %w", i+1, len(sources), sources[i].Digest, err)
		}
	}
	e := &emitter{w: w, xattrs: map[string]map[string]string{}, data: make([]int64, max(1, len(sources)))}
	if err := e.emit(".", root); err != nil {
		return nil, err
	}
	end := w.DataEnd()
	if err := w.Close(); err != nil {
		return nil, err
	}
	for i := range side.Layers {
		side.Layers[i].DataBytes = e.data[i]
	}
	side.Xattrs = bytesOf(e.xattrs)
	punch(f, e.live, end)
	return side, nil
}

func bytesOf(in map[string]map[string]string) map[string]map[string][]byte {
	out := make(map[string]map[string][]byte, len(in))
	for p, m := range in {
		out[p] = make(map[string][]byte, len(m))
		for k, v := range m {
			out[p][k] = []byte(v)
		}
	}
	return out
}

// punch gives back the disk space of data that does not show. A file system that cannot keeps it.
func punch(f *os.File, live [][2]int64, end int64) {
	slices.SortFunc(live, func(a, b [2]int64) int { return cmp.Compare(a[0], b[0]) })
	at := int64(erofs.DataStart)
	for _, l := range append(live, [2]int64{end, end}) {
		if l[0] > at {
			_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, l[0]-at)
		}
		at = max(at, l[1])
	}
}

// early has the kernel begin to write to the disk what was written to the file, so that little is left to wait for in Sync.
type early struct {
	*os.File
	written atomic.Int64
}

const earlyStep = 16 << 20

func (e *early) WriteAt(b []byte, off int64) (int, error) {
	n, err := e.File.WriteAt(b, off)
	if total := e.written.Add(int64(n)); total/earlyStep != (total-int64(n))/earlyStep {
		_ = unix.SyncFileRange(int(e.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	return n, err
}

func (s *side) encode() ([]byte, error) { return json.Marshal(s) }
