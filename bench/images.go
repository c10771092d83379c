package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// layerDirs become one layer each of the image, about a gigabyte in all. What this machine does not have is left out.
var layerDirs = []string{"usr/bin", "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/share"}

// images loads an image of large layers, and again when it is known, against tar xzf of the same layers one after another.
func images(o options) error {
	msb, err := filepath.Abs(o.msb)
	if err != nil {
		return err
	}
	archive, layers, size, err := bigImage(o.work)
	if err != nil {
		return err
	}
	fmt.Printf("%d layers, %d MB unpacked\n", len(layers), size/1_000_000)
	home, out := filepath.Join(o.work, "home"), filepath.Join(o.work, "out")
	load := []string{msb, "load", "-i", archive, "-t", "bench:1"}
	var first, again, untar []time.Duration
	var memory int64
	for range min(o.rounds, 5) {
		if err := errors.Join(os.RemoveAll(home), os.RemoveAll(out), os.Mkdir(out, 0o755), settle()); err != nil {
			return err
		}
		took, most, err := timed(home, load...)
		if err != nil {
			return err
		}
		first, memory = append(first, took), max(memory, most)
		if took, _, err = timed(home, load...); err != nil {
			return err
		}
		again = append(again, took)
		if err := settle(); err != nil {
			return err
		}
		var sum time.Duration
		for _, l := range layers {
			took, _, err := timed(home, "tar", "xzf", l, "-C", out)
			if err != nil {
				return err
			}
			sum += took
		}
		untar = append(untar, sum)
	}
	middle := func(d []time.Duration) float64 {
		slices.Sort(d)
		return d[len(d)/2].Seconds()
	}
	a, b, c := middle(first), middle(again), middle(untar)
	fmt.Printf("msb load %.2f s (%.0f MB/s), peak memory %d MiB; tar xzf %.2f s; known image %.0f ms (n=%d)\n",
		a, float64(size)/1e6/a, memory>>20, c, b*1000, len(first))
	fmt.Printf("images vs tar xzf: %.2f x\nimages vs first load, when known: %.0f x\n", c/a, a/b)
	return nil
}

// settle waits until the disk has all that was written, so that nobody pays for another.
func settle() error { return exec.Command("sync").Run() }

// timed runs a command and returns how long it took and the most memory it had.
func timed(home string, args ...string) (time.Duration, int64, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "MSB_HOME="+home)
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, 0, fmt.Errorf("%v: %w\n%s", args, err, out)
	}
	return time.Since(began), cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10, nil
}

// bigImage makes the tar of an OCI layout of this machine's files, with tar and gzip, and returns it, its layers and how
// many bytes they have unpacked.
func bigImage(work string) (archive string, layers []string, size int64, err error) {
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int64  `json:"size"`
	}
	layout := filepath.Join(work, "layout")
	blobs := filepath.Join(layout, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return "", nil, 0, err
	}
	store := func(b []byte) (descriptor, error) {
		digest := fmt.Sprintf("%x", sha256.Sum256(b))
		return descriptor{Digest: "sha256:" + digest, Size: int64(len(b))}, os.WriteFile(filepath.Join(blobs, digest), b, 0o644)
	}
	var list []descriptor
	var diffs []string
	for _, dir := range layerDirs {
		if _, err := os.Stat(filepath.Join("/", dir)); err != nil {
			continue
		}
		plain, packed := filepath.Join(work, "layer.tar"), filepath.Join(work, "layer.tar.gz")
		if out, err := exec.Command("tar", "cf", plain, "-C", "/", dir).CombinedOutput(); err != nil {
			return "", nil, 0, fmt.Errorf("tar: %w\n%s", err, out)
		}
		diff, n, err := digest(plain)
		if err != nil {
			return "", nil, 0, err
		}
		size += n
		if out, err := exec.Command("gzip", "-f", plain).CombinedOutput(); err != nil {
			return "", nil, 0, fmt.Errorf("gzip: %w\n%s", err, out)
		}
		sum, n, err := digest(packed)
		if err != nil {
			return "", nil, 0, err
		}
		blob := filepath.Join(blobs, sum)
		if err := os.Rename(packed, blob); err != nil {
			return "", nil, 0, err
		}
		layers, diffs = append(layers, blob), append(diffs, "sha256:"+diff)
		list = append(list, descriptor{"application/vnd.oci.image.layer.v1.tar+gzip", "sha256:" + sum, n})
	}
	encode := func(v any) []byte {
		b, e := json.Marshal(v)
		err = errors.Join(err, e)
		return b
	}
	config, e := store(encode(map[string]any{"os": "linux", "architecture": runtime.GOARCH, "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs}}))
	config.MediaType = "application/vnd.oci.image.config.v1+json"
	m, e2 := store(encode(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": list}))
	m.MediaType = "application/vnd.oci.image.manifest.v1+json"
	index := encode(map[string]any{"schemaVersion": 2, "manifests": []descriptor{m}})
	if err := errors.Join(err, e, e2, os.WriteFile(filepath.Join(layout, "index.json"), index, 0o644)); err != nil {
		return "", nil, 0, err
	}
	archive = filepath.Join(work, "image.tar")
	if out, err := exec.Command("tar", "cf", archive, "-C", layout, "index.json", "blobs").CombinedOutput(); err != nil {
		return "", nil, 0, fmt.Errorf("tar: %w\n%s", err, out)
	}
	return archive, layers, size, nil
}

func digest(path string) (string, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return fmt.Sprintf("%x", h.Sum(nil)), n, err
}
