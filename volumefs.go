package microsandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// VolumeFs is the files of a volume, on this machine or in a cloud. Paths are relative to the volume; nothing, no symbolic link that a
// sandbox made either, leads out of it.
type VolumeFs struct{ v backend.Volume }

// Root is the directory of the volume's files; "" where they are in a cloud.
func (f *VolumeFs) Root() string { return f.v.Path }

// withinVolume makes a path one that begins at the volume.
func withinVolume(path string) (string, error) {
	p := filepath.Clean(path)
	if filepath.IsAbs(path) || p == ".." || strings.HasPrefix(p, "../") {
		return "", fmt.Errorf("%w: %.200q", ErrPathEscape, path)
	}
	return p, nil
}

// do calls one of two: with the volume's directory, beneath which everything stays, or with the cloud that has it.
func (f *VolumeFs) do(ctx context.Context, path string, here func(root *os.Root, path string) error, there func(b backend.VolumeFiles, path string) error) error {
	if err := ctx.Err(); err != nil {
		return wrap(err)
	}
	p, err := withinVolume(path)
	if err != nil {
		return err
	}
	if f.v.Path == "" {
		e, err := open()
		if err != nil {
			return wrap(err)
		}
		b, ok := e.manage().(backend.VolumeFiles)
		if !ok {
			return unsupported("VolumeFs", "use a cloud backend, or that of the volume's machine")
		}
		return wrap(there(b, p))
	}
	root, err := os.OpenRoot(f.v.Path)
	if err != nil {
		return err
	}
	defer root.Close()
	err = here(root, p)
	if err != nil && strings.Contains(err.Error(), "path escapes from parent") { // os.Root has no error to compare with
		return fmt.Errorf("%w: %.200q: %w", ErrPathEscape, path, err)
	}
	return err
}

// Read returns a file.
func (f *VolumeFs) Read(ctx context.Context, path string) (data []byte, err error) {
	err = f.do(ctx, path, func(root *os.Root, path string) (err error) {
		data, err = root.ReadFile(path)
		return err
	}, func(b backend.VolumeFiles, path string) error {
		r, err := b.ReadVolume(ctx, f.v, path)
		if err != nil {
			return err
		}
		defer r.Close()
		if data, err = io.ReadAll(r); err != nil {
			return &sandbox.Error{Op: "read", Kind: sandbox.Runtime, Message: "the cloud's answer ended early", Err: err}
		}
		return nil
	})
	return data, err
}

// ReadString returns a file.
func (f *VolumeFs) ReadString(ctx context.Context, path string) (string, error) {
	data, err := f.Read(ctx, path)
	return string(data), err
}

// Write makes a file hold data.
func (f *VolumeFs) Write(ctx context.Context, path string, data []byte) error {
	return f.do(ctx, path, func(root *os.Root, path string) error { return root.WriteFile(path, data, 0o644) },
		func(b backend.VolumeFiles, path string) error {
			return b.WriteVolume(ctx, f.v, path, bytes.NewReader(data))
		})
}

// WriteString makes a file hold content.
func (f *VolumeFs) WriteString(ctx context.Context, path, content string) error {
	return f.Write(ctx, path, []byte(content))
}

// Mkdir makes a directory and those above it; one that is there is fine.
func (f *VolumeFs) Mkdir(ctx context.Context, path string) error {
	return f.do(ctx, path, func(root *os.Root, path string) error { return root.MkdirAll(path, 0o755) },
		func(b backend.VolumeFiles, path string) error { return b.MkdirVolume(ctx, f.v, path) })
}

// Remove removes a file or an empty directory.
func (f *VolumeFs) Remove(ctx context.Context, path string) error {
	return f.do(ctx, path, func(root *os.Root, path string) error { return root.Remove(path) },
		func(b backend.VolumeFiles, path string) error { return b.RemoveVolumeFile(ctx, f.v, path, false) })
}

// RemoveAll removes what is there, with all that is in it. That nothing is there is fine.
func (f *VolumeFs) RemoveAll(ctx context.Context, path string) error {
	return f.do(ctx, path, func(root *os.Root, path string) error { return root.RemoveAll(path) },
		func(b backend.VolumeFiles, path string) error {
			err := b.RemoveVolumeFile(ctx, f.v, path, true)
			if sandbox.KindOf(err) == sandbox.PathNotFound {
				return nil
			}
			return err
		})
}

// Exists reports whether something is there.
func (f *VolumeFs) Exists(ctx context.Context, path string) (there bool, err error) {
	err = f.do(ctx, path, func(root *os.Root, path string) error {
		_, err := root.Stat(path)
		there = err == nil
		return err
	}, func(b backend.VolumeFiles, path string) (err error) {
		there, err = b.ExistsVolume(ctx, f.v, path)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return there, err
}
