package agentclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func ptr[T any](v T) *T { return &v }

func TestFileContent(t *testing.T) {
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		ctx, c := t.Context(), g.Client
		dir := t.TempDir()
		for _, size := range []int{0, 1, 65535, 65536, 65537, 9<<20 + 5} {
			data := make([]byte, size)
			for i := range data {
				data[i] = byte(rand.Uint32())
			}
			path := filepath.Join(dir, fmt.Sprint(size))
			if n, err := c.WriteFile(ctx, path, bytes.NewReader(data), ptr(uint32(0o640))); err != nil || n != int64(size) {
				t.Fatalf("write %d bytes: %d, %v", size, n, err)
			}
			if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, data) {
				t.Fatalf("%d bytes did not arrive: %v", size, err)
			}
			var got bytes.Buffer
			if n, err := c.ReadFile(ctx, path, &got); err != nil || n != int64(size) || !bytes.Equal(got.Bytes(), data) {
				t.Fatalf("read %d bytes: %d, %v", size, n, err)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
		}

		path := filepath.Join(dir, "part")
		f, err := c.OpenFile(ctx, path, agentproto.OpenOptions{Read: true, Write: true, Create: true})
		if err != nil {
			t.Fatal(err)
		}
		w, err := f.Writer(ctx, 3)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, "abcdef"); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		r, err := f.Reader(ctx, 4, ptr(uint64(3)))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); err != nil || string(b) != "bcd" {
			t.Errorf("have %q, %v", b, err)
		}
		_ = r.Close()
		if err := f.SetStat(ctx, agentproto.FileAttrs{Size: ptr(uint64(5)), MTime: ptr(int64(1234))}); err != nil {
			t.Fatal(err)
		}
		if info, err := f.Stat(ctx); err != nil || info.Size != 5 || *info.MTime != 1234 || info.Kind != agentproto.KindFile {
			t.Errorf("have %+v, %v", info, err)
		}
		if err := f.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(ctx); !errors.Is(err, sandbox.Filesystem) || !strings.Contains(err.Error(), "invalid handle: ") {
			t.Errorf("have %v", err)
		}

		f, err = c.OpenFile(ctx, path, agentproto.OpenOptions{Append: true})
		if err != nil {
			t.Fatal(err)
		}
		if w, err = f.Writer(ctx, 0); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, "end")
		if err := errors.Join(w.Close(), f.Close(ctx)); err != nil {
			t.Fatal(err)
		}
		if b, _ := os.ReadFile(path); string(b) != "\x00\x00\x00abend" {
			t.Errorf("have %q", b)
		}
	})
}

// A reader that stops does not stop the others, and a FIFO that nobody writes does not either.
func TestFileStreamsDoNotBlock(t *testing.T) {
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		ctx, c := t.Context(), g.Client
		r, err := c.OpenRead(ctx, "/dev/zero")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
		if out := g.sh(t, "echo other"); out != "other\n" {
			t.Errorf("have %q", out)
		}
		fifo := filepath.Join(t.TempDir(), "fifo")
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := c.OpenFile(ctx, fifo, agentproto.OpenOptions{Write: true}); !errors.Is(err, sandbox.Filesystem) {
			t.Errorf("a FIFO without a reader: %v", err)
		}
		q, err := c.OpenRead(ctx, fifo)
		if err != nil {
			t.Fatal(err)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestFileOperations(t *testing.T) {
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		ctx, c := t.Context(), g.Client
		dir := t.TempDir()
		at := func(name string) string { return filepath.Join(dir, name) }
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(c.Mkdir(ctx, at("a/b/c"), ptr(uint32(0o750))))
		must(c.Mkdir(ctx, at("a/b/c"), nil))
		if info, err := c.Stat(ctx, at("a/b/c"), true); err != nil || info.Kind != agentproto.KindDir || info.Mode != syscall.S_IFDIR|0o750 {
			t.Errorf("have %+v, %v", info, err)
		}
		_, err := c.WriteFile(ctx, at("a/f"), strings.NewReader("text"), nil)
		must(err)
		must(c.SetStat(ctx, at("a/f"), true, agentproto.FileAttrs{Mode: ptr(uint32(0o4711)), ATime: ptr(int64(7))}))
		must(c.Symlink(ctx, "f", at("a/l")))
		if target, err := c.ReadLink(ctx, at("a/l")); err != nil || target != "f" {
			t.Errorf("have %q, %v", target, err)
		}
		if info, err := c.Stat(ctx, at("a/l"), false); err != nil || info.Kind != agentproto.KindSymlink {
			t.Errorf("have %+v, %v", info, err)
		}
		if info, err := c.Stat(ctx, at("a/l"), true); err != nil || info.Mode != syscall.S_IFREG|0o4711 || *info.ATime != 7 || info.Size != 4 {
			t.Errorf("have %+v, %v", info, err)
		}
		real, _ := filepath.EvalSymlinks(at("a"))
		for path, want := range map[string]string{"a/l": "f", "a/../a/new": "new"} {
			if p, err := c.RealPath(ctx, at(path)); err != nil || p != filepath.Join(real, want) {
				t.Errorf("real path of %s: %q, %v", path, p, err)
			}
		}
		must(c.Copy(ctx, at("a/l"), at("a/g")))
		must(c.Rename(ctx, at("a/g"), at("a/h")))
		list, err := c.List(ctx, at("a"))
		must(err)
		var names []string
		for _, info := range list {
			names = append(names, strings.TrimPrefix(info.Path, dir))
		}
		sort.Strings(names)
		if fmt.Sprint(names) != "[/a/b /a/f /a/h /a/l]" {
			t.Errorf("have %v", names)
		}
		d, err := c.OpenDir(ctx, at("a"))
		must(err)
		n := 0
		for {
			part, err := d.ReadDir(ctx, 3)
			must(err)
			if n += len(part); len(part) == 0 {
				break
			}
		}
		must(d.Close(ctx))
		if n != 4 {
			t.Errorf("read %d entries", n)
		}
		if list, err := c.List(ctx, at("a/b/c")); err != nil || len(list) != 0 {
			t.Errorf("an empty directory: %v, %v", list, err)
		}
		must(c.Remove(ctx, at("a/h")))

		for _, e := range []struct {
			err  error
			kind sandbox.Kind
			text string
		}{
			{second(c.Stat(ctx, at("x"), true)), sandbox.PathNotFound, "sandbox fs error: stat: no such file or directory"},
			{second(c.List(ctx, at("x"))), sandbox.PathNotFound, "sandbox fs error: readdir: no such file or directory"},
			{second(c.OpenRead(ctx, at("x"))), sandbox.PathNotFound, "sandbox fs error: open: no such file or directory"},
			{second(c.ReadFile(ctx, at("a"), io.Discard)), sandbox.Filesystem, "sandbox fs error: read: is a directory"},
			{c.Remove(ctx, at("a")), sandbox.Filesystem, "sandbox fs error: remove: is a directory"},
			{c.RemoveDir(ctx, at("a"), false), sandbox.Filesystem, "sandbox fs error: remove_dir: directory not empty"},
			{c.RemoveDir(ctx, at("a/f"), true), sandbox.Filesystem, "sandbox fs error: remove_dir: not a directory"},
			{c.Mkdir(ctx, at("a/f/x"), nil), sandbox.Filesystem, "sandbox fs error: mkdir: not a directory"},
			{c.Copy(ctx, at("a/f"), at("a/l")), sandbox.Filesystem, "sandbox fs error: copy: the two are the same file"},
		} {
			if !errors.Is(e.err, e.kind) || e.err.Error() != e.text {
				t.Errorf("have %v, want %s", e.err, e.text)
			}
		}
		must(c.RemoveDir(ctx, at("a"), true))
	})
}

func second[T any](_ T, err error) error { return err }

// Handles belong to their client, are bounded, and end with it.
func TestHandles(t *testing.T) {
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		ctx, c := t.Context(), g.Client
		open := func() (*agentclient.File, error) {
			return c.OpenFile(ctx, "/dev/null", agentproto.OpenOptions{Read: true})
		}
		first, err := open()
		if err != nil {
			t.Fatal(err)
		}
		for range 1023 {
			if _, err := open(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := open(); err == nil || !strings.Contains(err.Error(), "open: too many open handles") {
			t.Errorf("have %v", err)
		}
		// Another slot's request arrives on this connection: in this test nobody checks the range.
		id, _ := agentproto.IDRange(3)
		op := agentproto.FSOp{Op: agentproto.OpFStat, FSArgs: agentproto.FSArgs{Handle: 1}}
		if err := c.Send(id, agentproto.TypeFSRequest, &agentproto.FSRequest{Op: op}); err != nil {
			t.Fatal(err)
		}
		start, end := c.IDRange()
		if err := c.Send(0, agentproto.TypeClientDisconnected, &agentproto.ClientDisconnected{IDStart: start, IDEnd: end}); err != nil {
			t.Fatal(err)
		}
		if _, err := first.Stat(ctx); err == nil || !strings.Contains(err.Error(), "invalid handle: 1") {
			t.Errorf("have %v", err)
		}
		if _, err := open(); err != nil {
			t.Error(err)
		}
	})
}

func TestFileContext(t *testing.T) {
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := g.Client.OpenRead(ctx, "/dev/zero")
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
			t.Errorf("have %v", err)
		}
		_ = r.Close()
	})
}
