package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/microsandbox-go/microsandbox/internal/agent"
	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentclient/agenttest"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/transfer"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// real returns a client of the real agent, whose guest is this machine itself.
func real(t *testing.T, change ...func(*agentproto.Ready)) *agentclient.Client {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	host, guest := agenttest.SocketPair(t)
	a := &agent.Agent{Conn: guest, Version: "test"}
	done := make(chan error, 1)
	go func() { done <- a.Run() }()
	c := agenttest.Connect(t, host, agenttest.Bootstrap(t, host, agentproto.Bootstrap{}, change...))
	t.Cleanup(func() {
		_ = c.Close()
		if err := <-done; err != nil {
			t.Errorf("the agent: %v", err)
		}
		goleak.VerifyNone(t, leaks)
	})
	return c
}

// original takes from an agent what only ours can do.
func original(r *agentproto.Ready) { r.Types = nil }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// makeTree makes a tree with what trees have.
func makeTree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	must(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "a", "file"), []byte("content"), 0o640))
	must(t, os.WriteFile(filepath.Join(dir, "a", "b", "tool"), []byte("#!"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "empty"), nil, 0o400))
	must(t, os.WriteFile(filepath.Join(dir, "large"), make([]byte, 3<<20+1), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "new\nline"), []byte("x"), 0o600))
	must(t, os.Symlink("a/file", filepath.Join(dir, "link")))
	must(t, os.Symlink("../file", filepath.Join(dir, "a", "b", "up")))
	must(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	must(t, os.Chmod(filepath.Join(dir, "a", "b"), 0o555))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "a", "b"), 0o755) })
	return dir
}

// shape is a tree in words: kinds, modes, contents and targets.
func shape(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		b.WriteString(rel + " " + info.Mode().String())
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			b.WriteString(" " + string(data[:min(len(data), 20)]))
			if len(data) > 20 && len(strings.Trim(string(data), "\x00")) > 0 {
				t.Errorf("%s is not what it was", p)
			}
			b.WriteString(strings.Repeat("+", len(data)>>20))
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			b.WriteString(" -> " + target)
		}
		b.WriteString("\n")
		return nil
	}))
	return b.String()
}

func TestTree(t *testing.T) {
	src := makeTree(t)
	want := shape(t, src)
	fifo := "fifo prw-------\n"
	if !strings.Contains(want, fifo) {
		t.Fatalf("the tree has no %q:\n%s", fifo, want)
	}
	want = strings.Replace(want, fifo, "", 1)
	one, two, other := real(t), real(t), real(t, original)
	for _, c := range []struct {
		name     string
		src, dst *agentclient.Client
	}{{"into a guest", nil, one}, {"out of a guest", one, nil}, {"between guests", one, two}, {"within a guest", one, one},
		{"into another make's", nil, other}, {"out of another make's", other, nil}} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			t.Cleanup(func() { // the tree's read-only directory
				_ = filepath.WalkDir(dir, func(p string, d os.DirEntry, _ error) error {
					if d != nil && d.IsDir() {
						_ = os.Chmod(p, 0o755)
					}
					return nil
				})
			})
			run := func(from, to string) {
				t.Helper()
				var left []string
				copier := transfer.Copier{Warn: func(m string) { left = append(left, m) }}
				must(t, copier.Copy(t.Context(), transfer.End{Guest: c.src, Path: from}, transfer.End{Guest: c.dst, Path: to}))
				if len(left) != 1 || !strings.Contains(left[0], "fifo is left out") {
					t.Errorf("left out: %q", left)
				}
				if files, bytes := copier.Progress(); files != 5 || bytes != 7+2+3<<20+1+1 {
					t.Errorf("copied %d files, %d bytes", files, bytes)
				}
			}
			run(src, dir)                                            // into a directory
			run(src, filepath.Join(dir, "other"))                    // by another name
			must(t, os.Mkdir(filepath.Join(dir, "third"), 0o755))    //
			run(src+"/.", filepath.Join(dir, "third"))               // what is in it
			must(t, os.Chmod(filepath.Join(dir, "tree/a/b"), 0o755)) // as it may be for a second time
			run(src, dir)                                            // over what is there
			must(t, os.Chmod(filepath.Join(dir, "tree/a/b"), 0o555)) //
			for _, name := range []string{"tree", "other", "third"} {
				if got := shape(t, filepath.Join(dir, name)); got != want {
					t.Errorf("%s is\n%swant\n%s", name, got, want)
				}
			}
		})
	}
}

func TestPlaces(t *testing.T) {
	g := real(t)
	for _, toGuest := range []bool{true, false} {
		dir := t.TempDir()
		t.Chdir(dir)
		must(t, os.Mkdir("dir", 0o755))
		must(t, os.MkdirAll("tree/sub", 0o755))
		for _, f := range []string{"file", "taken", "dir/taken"} {
			must(t, os.WriteFile(f, []byte(f), 0o644))
		}
		must(t, os.Symlink("file", "link"))
		must(t, os.Symlink("dir", "dirlink"))
		must(t, os.Symlink("taken", "linkout"))
		must(t, syscall.Mkfifo("fifo", 0o600))
		ends := func(src, dst string) (transfer.End, transfer.End) {
			if toGuest {
				return transfer.End{Path: src}, transfer.End{Guest: g, Path: dir + "/" + dst}
			}
			return transfer.End{Guest: g, Path: dir + "/" + src}, transfer.End{Path: dst}
		}
		for _, c := range []struct{ src, dst, where, want string }{
			{"file", "new", "new", ""}, // a bare name: the original refuses it
			{"file", "taken", "taken", ""},
			{"file", "dir", "dir/file", ""},
			{"file", "dir/", "dir/file", ""},
			{"file", "dirlink", "dir/file", ""},
			{"file", "linkout", "linkout", ""},
			{"dirlink/taken", "through", "", ""},
			{"dirlink/", "copied", "copied/taken", ""},
			{"file", "nothing/", "", "there is no directory"},
			{"file", "nothing/x", "", "there is no directory"},
			{"file", "file/x", "", "not a directory"},
			{"file", "file/", "", "ot a directory"},
			{"file", "fifo", "", "fifo is there, and is not a file"},
			{"fifo", "x", "", "neither a file nor a directory"},
			{"link", "x", "", `link is a symbolic link, and links are not followed`},
			{"tree", "file", "", "file is there, and is not a directory"},
			{"nothing", "x", "", "no such file or directory"},
			{"file/", "x", "", "not a directory"},
		} {
			src, dst := ends(c.src, c.dst)
			err := new(transfer.Copier).Copy(t.Context(), src, dst)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("to guest %v, %s to %s: %v", toGuest, c.src, c.dst, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("to guest %v, %s to %s: %v, want %q", toGuest, c.src, c.dst, err, c.want)
			case c.want == "" && c.where != "" && !strings.HasPrefix(c.src, "dirlink"):
				if b, err := os.ReadFile(c.where); err != nil || string(b) != "file" {
					t.Errorf("%s to %s: %q, %v", c.src, c.dst, b, err)
				}
			}
		}
		if info, err := os.Lstat("linkout"); err != nil || !info.Mode().IsRegular() {
			t.Errorf("a link was written through: %v, %v", info, err)
		}
		if b, err := os.ReadFile("taken"); err != nil || string(b) != "file" {
			t.Errorf("taken holds %q, %v", b, err)
		}
		noHalves(t, dir)
	}
	if err := new(transfer.Copier).Copy(t.Context(), transfer.End{Path: "/a"}, transfer.End{Path: "/b"}); err == nil {
		t.Error("a copy that has no guest in it")
	}
}

// noHalves fails t when a copy left a file under its first name.
func noHalves(t *testing.T, dir string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if strings.Contains(p, ".msb-") {
			t.Errorf("left behind: %s", p)
		}
		return err
	}))
}

// Small files take the place of files and links, and of nothing else; one that is made has no other name first.
func TestSmall(t *testing.T) {
	g := real(t)
	src, dst := t.TempDir(), t.TempDir()
	for _, name := range []string{"new", "file", "link", "dir"} {
		must(t, os.WriteFile(filepath.Join(src, name), []byte(name), 0o664))
		must(t, os.Chmod(filepath.Join(src, name), 0o664))
	}
	must(t, os.WriteFile(filepath.Join(dst, "file"), []byte("old"), 0o600))
	must(t, os.Symlink("away", filepath.Join(dst, "link")))
	must(t, os.Mkdir(filepath.Join(dst, "dir"), 0o755))
	umask := syscall.Umask(0o077)
	defer syscall.Umask(umask)
	for _, name := range []string{"new", "file", "link"} {
		must(t, new(transfer.Copier).Copy(t.Context(), transfer.End{Path: filepath.Join(src, name)}, transfer.End{Guest: g, Path: filepath.Join(dst, name)}))
		info, err := os.Lstat(filepath.Join(dst, name))
		must(t, err)
		if b, err := os.ReadFile(filepath.Join(dst, name)); string(b) != name || err != nil || info.Mode() != 0o664 {
			t.Errorf("%s holds %q, %v, with %v", name, b, err, info.Mode())
		}
	}
	err := new(transfer.Copier).Copy(t.Context(), transfer.End{Path: filepath.Join(src, "dir")}, transfer.End{Guest: g, Path: dst})
	if !errors.Is(err, sandbox.InvalidArgument) || !strings.Contains(err.Error(), "dir is there, and is not a file") {
		t.Errorf("onto a directory: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dst, "away")); err == nil {
		t.Error("a link was written through")
	}
	for _, size := range []int{0, 1, agentproto.MaxSmall - 1, agentproto.MaxSmall, agentproto.MaxSmall + 1} {
		want := bytes.Repeat([]byte{'x'}, size)
		must(t, os.WriteFile(filepath.Join(src, "sized"), want, 0o600))
		there, back := transfer.End{Guest: g, Path: filepath.Join(dst, "sized")}, transfer.End{Path: filepath.Join(dst, "back")}
		must(t, new(transfer.Copier).Copy(t.Context(), transfer.End{Path: filepath.Join(src, "sized")}, there))
		must(t, new(transfer.Copier).Copy(t.Context(), there, back))
		if b, err := os.ReadFile(back.Path); err != nil || !bytes.Equal(b, want) {
			t.Errorf("of %d bytes came %d, %v", size, len(b), err)
		}
	}
	must(t, new(transfer.Copier).Copy(t.Context(), transfer.End{Guest: g, Path: "/proc/self/status"}, transfer.End{Path: filepath.Join(dst, "status")}))
	if b, err := os.ReadFile(filepath.Join(dst, "status")); err != nil || !strings.Contains(string(b), "Umask:") {
		t.Errorf("a file that says it has nothing: %q, %v", b, err)
	}
	noHalves(t, dst)
}

// A link in the destination is not gone through, whoever made it.
func TestThroughLink(t *testing.T) {
	g := real(t)
	src, dst, out := t.TempDir(), t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(src, "a", "b"), 0o755))
	must(t, os.WriteFile(filepath.Join(src, "a", "b", "f"), []byte("x"), 0o644))
	must(t, os.Mkdir(filepath.Join(dst, "a"), 0o755))
	must(t, os.Symlink(out, filepath.Join(dst, "a", "b")))
	for _, to := range []*agentclient.Client{nil, g} {
		from := g
		if to != nil {
			from = nil
		}
		err := new(transfer.Copier).Copy(t.Context(), transfer.End{Guest: from, Path: src + "/."}, transfer.End{Guest: to, Path: dst})
		if err == nil || !strings.Contains(err.Error(), "is not a directory") {
			t.Errorf("through a link: %v", err)
		}
		if left, _ := os.ReadDir(out); len(left) > 0 {
			t.Errorf("written through a link: %v", left)
		}
	}
}

func TestIntoItself(t *testing.T) {
	g := real(t)
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "a"), 0o755))
	must(t, os.Symlink("a", filepath.Join(dir, "l")))
	for _, dst := range []string{"a", "a/b", "l", "l/x"} {
		err := new(transfer.Copier).Copy(t.Context(), transfer.End{Guest: g, Path: dir + "/a"}, transfer.End{Guest: g, Path: dir + "/" + dst})
		if !errors.Is(err, sandbox.InvalidArgument) {
			t.Errorf("a to %s: %v", dst, err)
		}
	}
	must(t, os.WriteFile(filepath.Join(dir, "ab"), nil, 0o644))
	must(t, new(transfer.Copier).Copy(t.Context(), transfer.End{Guest: g, Path: dir + "/ab"}, transfer.End{Guest: g, Path: dir + "/a"}))
}

func TestBrokenOff(t *testing.T) {
	g := real(t)
	for _, toGuest := range []bool{true, false} {
		dir := t.TempDir()
		big := filepath.Join(dir, "big")
		must(t, os.WriteFile(big, nil, 0o644))
		must(t, os.Truncate(big, 1<<40)) // sparse: it takes no room, and no copy of it ends soon
		must(t, os.WriteFile(filepath.Join(dir, "out"), []byte("before"), 0o644))
		src, dst := transfer.End{Path: big}, transfer.End{Guest: g, Path: filepath.Join(dir, "out")}
		if !toGuest {
			src, dst = transfer.End{Guest: g, Path: big}, transfer.End{Path: filepath.Join(dir, "out")}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var c transfer.Copier
		done := make(chan error, 1)
		go func() { done <- c.Copy(ctx, src, dst) }()
		for {
			if _, bytes := c.Progress(); bytes > 1<<20 {
				break
			}
		}
		cancel()
		if err := <-done; !errors.Is(err, sandbox.Cancelled) {
			t.Errorf("to guest %v: %v", toGuest, err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "out")); err != nil || string(b) != "before" {
			t.Errorf("to guest %v: what was there is %q, %v", toGuest, b, err)
		}
		noHalves(t, dir)
	}
}
