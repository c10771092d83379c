package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// entry is what matters of one entry of the tar.
type entry struct{ name, kind, op, body string }

func read(t *testing.T, b []byte) []entry {
	t.Helper()
	var all []entry
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		kind := map[byte]string{tar.TypeReg: "file", tar.TypeDir: "dir", tar.TypeSymlink: "link", tar.TypeChar: "char", tar.TypeBlock: "block"}[h.Typeflag]
		all = append(all, entry{h.Name, kind, h.PAXRecords[agentproto.FilesOpRecord], string(body) + h.Linkname})
	}
}

// TestCopyThroughLinks has sources that somebody made links of, or of a directory above.
func TestCopyThroughLinks(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "real/tree"), 0o755), os.WriteFile(filepath.Join(dir, "real/file"), []byte("hush"), 0o600),
		os.Symlink("real", filepath.Join(dir, "link")), os.Symlink("real/file", filepath.Join(dir, "flink"))); err != nil {
		t.Fatal(err)
	}
	for src, kind := range map[string]string{"link/file": sandbox.PatchCopyFile, "flink": sandbox.PatchCopyFile, "link": sandbox.PatchCopyDir, "link/tree": sandbox.PatchCopyDir} {
		var b bytes.Buffer
		err := Write(&b, nil, sandbox.Spec{Patches: []sandbox.Patch{{Type: kind, Src: filepath.Join(dir, src), Dst: "/x"}}}, Network{})
		if !errors.Is(err, sandbox.PatchFailed) || bytes.Contains(b.Bytes(), []byte("hush")) {
			t.Errorf("%s %s: %v", kind, src, err)
		}
	}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	for name, body := range map[string]string{"tree/a": "A", "tree/sub/b": "B", "one": "1"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(body), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/shadow", filepath.Join(dir, "tree", "evil")); err != nil {
		t.Fatal(err)
	}
	spec := sandbox.Spec{
		Runtime: sandbox.RuntimeOptions{Hostname: "box", Scripts: map[string]string{"go": "#!/bin/sh\n"}},
		Patches: []sandbox.Patch{
			{Type: sandbox.PatchMkdir, Path: "/m"},
			{Type: sandbox.PatchText, Path: "/t", Content: []byte("text")},
			{Type: sandbox.PatchText, Path: "/r", Content: []byte("again"), Replace: true},
			{Type: sandbox.PatchAppend, Path: "/t", Content: []byte("more")},
			{Type: sandbox.PatchRemove, Path: "/gone"},
			{Type: sandbox.PatchSymlink, Link: "/l", Target: "m"},
			{Type: sandbox.PatchCopyFile, Src: filepath.Join(dir, "one"), Dst: "/one"},
			{Type: sandbox.PatchCopyDir, Src: filepath.Join(dir, "tree"), Dst: "/tree"},
		},
	}
	at := time.Unix(1_600_000_000, 123_456_789)
	device := func(p string, inode uint64, mode fs.FileMode) *erofs.Entry {
		return &erofs.Entry{Path: p, Inode: inode, Mode: mode, Major: 4095, Minor: 1<<20 - 1,
			Attr: erofs.Attr{Mode: 0o640 | fs.ModeSticky, UID: 1<<32 - 2, GID: 7, ModTime: at}}
	}
	devices := []*erofs.Entry{
		device("c/null-\xff", 5, fs.ModeDevice|fs.ModeCharDevice), device("d", 6, fs.ModeDevice),
		device("e/other", 5, fs.ModeDevice|fs.ModeCharDevice),
	}
	var b bytes.Buffer
	if err := Write(&b, devices, spec, Network{}); err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(bytes.NewReader(b.Bytes()))
	for range devices {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode != 0o1640 || h.Uid != 1<<32-2 || h.Gid != 7 || !h.ModTime.Equal(at) || h.Devmajor != 4095 || h.Devminor != 1<<20-1 {
			t.Errorf("a device is %+v", h)
		}
	}
	got := read(t, b.Bytes())
	got = slices.Delete(got, 3, 6) // hostname, hosts and resolv.conf
	want := []entry{
		{"c/null-\xff", "char", "", ""}, {"d", "block", "", ""}, {"e/other", "char", "", "c/null-\xff"},
		{"m", "dir", "", ""}, {"t", "file", "new", "text"}, {"r", "file", "", "again"}, {"t", "file", "append", "more"},
		{"gone", "file", "remove", ""}, {"l", "link", "new", "m"}, {"one", "file", "new", "1"},
		{"tree", "dir", "new", ""}, {"tree/a", "file", "", "A"}, {"tree/evil", "link", "", "/etc/shadow"},
		{"tree/sub", "dir", "", ""}, {"tree/sub/b", "file", "", "B"}, {".msb/scripts/go", "file", "", "#!/bin/sh\n"},
	}
	for i := range got {
		got[i].name = strings.TrimSuffix(got[i].name, "/")
	}
	if !slices.Equal(got, want) {
		t.Errorf("the tar holds\n%v\nwant\n%v", got, want)
	}
}

func TestWriteRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, p := range []sandbox.Patch{
		{Type: sandbox.PatchCopyFile, Src: filepath.Join(dir, "missing"), Dst: "/x"},
		{Type: sandbox.PatchCopyFile, Src: dir, Dst: "/x"},
		{Type: sandbox.PatchCopyFile, Src: "/dev/null", Dst: "/x"},
		{Type: sandbox.PatchCopyDir, Src: filepath.Join(dir, "missing"), Dst: "/x"},
	} {
		err := Write(io.Discard, nil, sandbox.Spec{Patches: []sandbox.Patch{p}}, Network{})
		if !errors.Is(err, sandbox.PatchFailed) {
			t.Errorf("%s of %s: %v, want PatchFailed", p.Type, p.Src, err)
		}
	}
	huge := filepath.Join(dir, "huge")
	f, err := os.Create(huge)
	if err == nil {
		err = errors.Join(f.Truncate(agentproto.MaxFiles), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	err = Write(io.Discard, nil, sandbox.Spec{Patches: []sandbox.Patch{{Type: sandbox.PatchCopyFile, Src: huge, Dst: "/x"}}}, Network{})
	if !errors.Is(err, sandbox.PatchFailed) || sandbox.HintOf(err) == "" {
		t.Errorf("a copy of %d bytes: %v", agentproto.MaxFiles, err)
	}
}
