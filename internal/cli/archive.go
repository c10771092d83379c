package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (a *app) loadCommand() *cobra.Command {
	var (
		input, tag string
		quiet      bool
	)
	c := a.command(&cobra.Command{Use: "load", Short: "Read images from an archive",
		Long:    "Reads what docker save or msb save wrote, and OCI layouts in a tar, also if they are compressed.",
		Example: "msb load -i python.tar\ndocker save tools | msb load -t tools:mine"})
	f := flagsOf(c, false)
	f.value("i", "input", "PATH", "Read this file instead of standard input", setString(&input))
	f.value("t", "tag", "REFERENCE", "Name the first image so, too", setString(&tag))
	f.quiet(&quiet)
	c.RunE = func(c *cobra.Command, _ []string) error {
		in := a.in
		if input != "" && input != "-" {
			file, err := os.Open(input)
			if err != nil {
				return ioError("load", "read the archive", err)
			}
			defer file.Close()
			in = file
		} else if isTerminal(a.in) {
			return usageErrorf("name a file, or give the archive on standard input: msb load -i FILE", "there is no archive to read")
		}
		b, err := capable[backend.ImageArchives](a, "Image::load")
		if err != nil {
			return err
		}
		return a.interruptible(c, func(ctx context.Context) error {
			a.spinFor(quiet, "Loading images")
			images, err := b.LoadImages(ctx, archiveReader(ctx, in), tag, a.viewPull(quiet, loading, "the archive"))
			if err != nil {
				return err
			}
			for _, i := range images {
				a.did(quiet, "Loaded", i.Short)
			}
			return nil
		})
	}
	return c
}

// interruptedReader reads no more once its context has ended. A read that waits goes on in the background: what it reads
// from ends with this process.
type interruptedReader struct {
	ctx context.Context
	in  io.Reader
}

// archiveReader is in so that it can be interrupted, which a file need not.
func archiveReader(ctx context.Context, in *os.File) io.Reader {
	if info, err := in.Stat(); err == nil && info.Mode().IsRegular() {
		return in
	}
	return &interruptedReader{ctx, in}
}

func (r *interruptedReader) Read(p []byte) (int, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	buf := make([]byte, min(len(p), 1<<20))
	go func() {
		n, err := r.in.Read(buf)
		done <- result{buf[:n], err}
	}()
	select {
	case got := <-done:
		return copy(p, got.data), got.err
	case <-r.ctx.Done():
		return 0, r.ctx.Err()
	}
}

func (a *app) saveCommand() *cobra.Command {
	var (
		output string
		format = string(backend.ArchiveDocker)
		quiet  bool
	)
	c := a.command(&cobra.Command{Use: "save", Short: "Write images to an archive",
		Example: "msb save -o python.tar python:3.12\nmsb save --format oci python alpine | zstd > images.tar.zst"},
		positional{"<REFERENCES...>", "Images to write"})
	f := flagsOf(c, false)
	f.words("", "format", "FORMAT", "docker (default), which docker load reads, or oci", &format, string(backend.ArchiveDocker), string(backend.ArchiveOCI))
	f.value("o", "output", "PATH", "Write this file instead of standard output", setString(&output))
	f.quiet(&quiet)
	c.ValidArgsFunction = a.completeImages
	c.RunE = func(c *cobra.Command, args []string) error {
		if output == "" && isTerminal(a.out) {
			return usageErrorf("name a file: msb save -o FILE "+strings.Join(args, " "), "an archive is nothing for a terminal")
		}
		b, err := capable[backend.ImageArchives](a, "Image::save")
		if err != nil {
			return err
		}
		return a.interruptible(c, func(ctx context.Context) error {
			a.spinFor(quiet, "Saving "+strings.Join(args, ", "))
			if err := a.writeTo(output, func(w io.Writer) error { return b.SaveImages(ctx, w, args, backend.ArchiveFormat(format)) }); err != nil {
				return err
			}
			for _, ref := range args {
				a.did(quiet, "Saved", ref)
			}
			return nil
		})
	}
	return c
}

// writeTo writes a file whole or not at all, or standard output when path is "" or "-". What is there already and is no file,
// such as a pipe, is written to as it is.
func (a *app) writeTo(path string, write func(io.Writer) error) error {
	if path == "" || path == "-" {
		return write(a.out)
	}
	const op, doing = "save", "write the archive"
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		if info.IsDir() {
			return &sandbox.Error{Op: op, Kind: sandbox.IO, Message: fmt.Sprintf("%s: %s is a directory", doing, path), Hint: "name a file in it"}
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return ioError(op, doing, err)
		}
		return errors.Join(write(f), f.Close())
	}
	f, err := atomicfile.Create(path, 0o666&^umask())
	if err != nil {
		return ioError(op, doing, err)
	}
	defer f.Abort()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Commit(); err != nil {
		return ioError(op, doing, err)
	}
	return nil
}

// umask is what this process takes from the modes of new files.
func umask() fs.FileMode {
	mask := syscall.Umask(0)
	syscall.Umask(mask)
	return fs.FileMode(mask)
}

func ioError(op, doing string, err error) error {
	return &sandbox.Error{Op: op, Kind: sandbox.IO, Message: doing, Err: err}
}
