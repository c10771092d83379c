package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/testimage"
)

// walkVar is set for this test's binary when it is to print what [walk] finds: in a guest, whatever image that has.
const walkVar = "E2E_WALK"

func init() {
	if dir := os.Getenv(walkVar); dir != "" {
		nodes, err := walk(dir)
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(nodes)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "walk:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// node is what there is to compare of a file.
type node struct {
	Type     fs.FileMode
	Mode     string // permissions, setuid, setgid and sticky, in octal
	UID, GID int
	Size     int64  // not of a directory
	Links    uint64 // not of a directory
	Linked   string // of several names of a file, the first
	Time     int64  // in seconds
	Hash     string // of a regular file
	Target   string // of a symbolic link, quoted
	Device   string // major:minor, of a device
}

// unseen are the paths where a guest has something else than its image: file systems of its own, and files that are written
// for each sandbox.
var unseen = []string{"proc", "sys", "dev", "tmp", ".msb", "etc/hostname", "etc/hosts", "etc/resolv.conf"}

// touched are the directories whose times a guest does not have from its image: what is unseen was made there.
var touched = []string{quote("."), quote("etc")}

// walk returns what is in a directory by quoted paths, "." among them.
func walk(dir string) (map[string]node, error) {
	nodes, inodes := map[string]node{}, map[uint64]string{}
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		if slices.Contains(unseen, rel) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := os.Lstat(file)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		n := node{Type: info.Mode().Type(), Mode: fmt.Sprintf("%04o", st.Mode&0o7777), UID: int(st.Uid), GID: int(st.Gid), Time: st.Mtim.Sec}
		if !info.IsDir() {
			n.Size, n.Links = st.Size, uint64(st.Nlink)
			if n.Links > 1 {
				if inodes[st.Ino] == "" {
					inodes[st.Ino] = quote(rel)
				}
				n.Linked = inodes[st.Ino]
			}
		}
		switch n.Type {
		case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
			n.Device = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		case 0:
			n.Hash, err = sumOf(file)
		case fs.ModeSymlink:
			n.Target, err = os.Readlink(file)
			n.Target = quote(n.Target)
		}
		nodes[quote(rel)] = n
		return err
	})
	return nodes, err
}

// quote makes of any bytes what JSON keeps.
func quote(name string) string { return fmt.Sprintf("%q", name) }

func sumOf(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// untar returns the tree that tar makes of an image's layers, one after the other. A user who may not give files away gets
// the owners from the tars themselves.
func untar(t *testing.T, img v1.Image) map[string]node {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	top := t.TempDir()
	root := filepath.Join(top, "root")
	must(os.Mkdir(root, 0o755))
	must(os.Chmod(root, 0o755))
	layers, err := img.Layers()
	must(err)
	headers := map[string]*tar.Header{} // the last of each path
	begin := time.Now().Unix()
	for i, l := range layers {
		file := filepath.Join(top, fmt.Sprintf("%d.tar", i))
		plain(t, l, file)
		// A whiteout is about the layers below, so that it comes before what its own layer has.
		must(eachHeader(file, func(h *tar.Header) error {
			name := path.Clean(h.Name)
			dir, base := path.Split(name)
			gone, ok := strings.CutPrefix(base, ".wh.")
			if !ok {
				headers[name] = h
				return nil
			}
			if gone != ".wh..opq" {
				return os.RemoveAll(filepath.Join(root, dir, gone))
			}
			below, err := os.ReadDir(filepath.Join(root, dir))
			for _, d := range below {
				err = errors.Join(err, os.RemoveAll(filepath.Join(root, dir, d.Name())))
			}
			return err
		}))
		owner := "--same-owner"
		if os.Geteuid() != 0 {
			owner = "--no-same-owner"
		}
		cmd := exec.Command("sh", "-c", `umask 022; exec tar "$@"`, "tar", "-xpf", file, "-C", root, "--numeric-owner", owner, "--exclude=.wh.*")
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("tar: %v\n%s", err, clip(string(out)))
		}
		must(os.Remove(file))
	}
	nodes, err := walk(root)
	must(err)
	for name := range headers {
		n, ok := nodes[quote(name)]
		if !ok {
			continue // unseen, or gone since
		}
		of := headers[name]
		for of.Typeflag == tar.TypeLink && headers[path.Clean(of.Linkname)] != nil {
			of = headers[path.Clean(of.Linkname)]
		}
		if os.Geteuid() != 0 {
			n.UID, n.GID = of.Uid, of.Gid
		}
		if n.Type.IsDir() && n.Time >= begin { // a later layer put something into it and does not name it
			n.Time = of.ModTime.Unix()
		}
		nodes[quote(name)] = n
	}
	for name, n := range nodes {
		if n.Time >= begin { // a directory that no tar names: of the time of its making
			n.Time = 0
			if !n.Type.IsDir() {
				t.Errorf("%s has the time of its making", name)
			}
		}
		if os.Geteuid() != 0 && n.Type.IsDir() && n.UID == os.Geteuid() {
			n.UID, n.GID = 0, 0
		}
		nodes[name] = n
	}
	return nodes
}

// plain writes a layer's tar to a file.
func plain(t *testing.T, l v1.Layer, file string) {
	t.Helper()
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(w, r)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
}

func eachHeader(file string, do func(*tar.Header) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := do(h); err != nil {
			return err
		}
	}
}

// layered is an image whose second layer changes what is in its first.
func layered(t testing.TB) v1.Image {
	at := time.Unix(1_600_000_000, 0)
	entry := func(typ byte, name, link string, mode int64, id int, body string) testimage.Entry {
		return testimage.Entry{Header: tar.Header{Typeflag: typ, Name: name, Linkname: link, Mode: mode, Uid: id, Gid: id + 1, ModTime: at}, Body: body}
	}
	dir := func(name string, mode int64, id int) testimage.Entry {
		return entry(tar.TypeDir, name, "", mode, id, "")
	}
	file := func(name string, mode int64, id int, body string) testimage.Entry {
		return entry(tar.TypeReg, name, "", mode, id, body)
	}
	link := func(typ byte, name, target string) testimage.Entry { return entry(typ, name, target, 0o777, 3, "") }
	long := strings.Repeat("long-", 40)
	lower := []testimage.Entry{
		dir("./", 0o755, 0), dir("etc/", 0o755, 0), file("etc/passwd", 0o644, 0, "root:x:0:0:root:/:/bin/sh\n"),
		dir("a/", 0o711, 3), file("a/one", 0o640, 7, "1"), file("a/two", 0o600, 70_000, "22"), link(tar.TypeLink, "a/two-too", "a/two"),
		dir("gone/", 0o755, 0), file("gone/x", 0o644, 0, "x"), dir("opaque/", 0o700, 1), file("opaque/old", 0o644, 0, "old"),
		file("opaque/both", 0o644, 0, "old"), dir("sticky/", 0o1777, 0), dir("setgid-dir/", 0o2775, 4), file("setuid", 0o4755, 0, "s"),
		file("setuid-too", 0o6711, 6, "s"),
		file("setgid", 0o2755, 5, "s"), link(tar.TypeSymlink, "dangling", "../no/where"),
		link(tar.TypeSymlink, "long-link", strings.Repeat("t/", 300)+"end"), dir(long+"/", 0o755, 0), file(long+"/"+long, 0o644, 0, "long"),
		entry(tar.TypeFifo, "pipe", "", 0o620, 9, ""), file("linked-later", 0o644, 8, "linked by the layer above"),
		file("big", 0o644, 0, strings.Repeat("0123456789abcdef", 300_000)), file("hole", 0o644, 0, strings.Repeat("\x00", 1<<20)+"end"),
		file("empty", 0o644, 0, ""), file("not-utf8-\xff\xfe", 0o644, 0, "u"), file("implied/by/path", 0o644, 0, "p"),
	}
	upper := []testimage.Entry{
		file(".wh.gone", 0o644, 0, ""), file("a/.wh.one", 0o644, 0, ""), file("opaque/new", 0o644, 2, "new"),
		file("opaque/.wh..wh..opq", 0o644, 0, ""), file("opaque/both", 0o604, 2, "new"), dir("a/", 0o750, 5), file("a/three", 0o644, 0, "3"),
		link(tar.TypeLink, "linked-now", "linked-later"), file("setuid", 0o755, 1, "no longer"),
	}
	for i := range lower {
		if strings.Contains(lower[i].Name, "\xff") {
			lower[i].Format = tar.FormatGNU
		}
	}
	if os.Geteuid() == 0 { // nobody else can make the devices, or read what nobody may
		device := func(typ byte, name string, mode int64, id int, major, minor int64) testimage.Entry {
			e := entry(typ, name, "", mode, id, "")
			e.Devmajor, e.Devminor = major, minor
			return e
		}
		char := func(name string, mode int64, id int, major, minor int64) testimage.Entry {
			return device(tar.TypeChar, name, mode, id, major, minor)
		}
		lower = append(lower, file("nothing-allowed", 0, 6, "0"), dir("dev/", 0o755, 0), char("dev/null", 0o600, 5, 1, 3),
			char("null", 0o666, 0, 1, 3), device(tar.TypeBlock, "disk", 0o660, 6, 8, 1), dir("nodes/", 0o751, 2), dir("nodes/deep/", 0o700, 70_000),
			dir("nodes/none/", 0o755, 0), char("nodes/deep/zero", 0o1620, 70_000, 1, 5), link(tar.TypeLink, "nodes/zero-too", "nodes/deep/zero"),
			device(tar.TypeBlock, "nodes/large", 0o6060, 9, 4095, 1<<20-1), link(tar.TypeLink, "nodes/deep/large-too", "nodes/large"),
			char("setgid-dir/c", 0o644, 0, 10, 229), char("implied/too/c", 0, 1, 5, 1), char("nodes/linked-later", 0o640, 8, 4, 64),
			device(tar.TypeBlock, "nodes/gone", 0o640, 8, 7, 0), char("gone/c", 0o640, 8, 7, 0), char("nodes/now-a-file", 0o640, 8, 7, 0),
			file("nodes/now-a-device", 0o640, 8, "file"), char("nodes/"+long, 0o640, 8, 7, 0), char("a/four", 0o640, 8, 7, 0))
		upper = append(upper, link(tar.TypeLink, "nodes/deep/linked-now", "nodes/linked-later"), file("nodes/.wh.gone", 0o644, 0, ""),
			file("nodes/now-a-file", 0o644, 3, "file"), char("nodes/now-a-device", 0o600, 1, 7, 7))
	}
	return testimage.Image(t, v1.Config{}, testimage.Layer(t, testimage.Tar(t, lower...), testimage.Gzip),
		testimage.Layer(t, testimage.Tar(t, upper...), testimage.Zstd))
}

// TestImages pulls images from a registry and compares every file that a guest sees with what tar makes of the layers.
func TestImages(t *testing.T) {
	walker := static(t)
	for _, c := range []struct {
		name  string
		large bool
		make  func(testing.TB) v1.Image
	}{
		{"layered", false, layered},
		{"busybox", false, testimage.Busybox},
		{"debian", true, func(t testing.TB) v1.Image { return testimage.Debian(t, "debian", v1.Config{}) }},
		{"python", true, testimage.Python},
		{"node", true, testimage.Node},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.large {
				t.Skip("a large image")
			}
			img := c.make(t)
			ref := testimage.Serve(t, testimage.Options{}).Push(t, c.name, img)
			want := untar(t, img)
			each(t, func(w *world) {
				file := filepath.Join(w.top, "walker")
				w.write(file, string(walker), 0o755)
				w.ok("pull", "-q", ref)
				out := w.ok("run", "--pull", "never", "-e", walkVar+"=/", "-v", file+":/dev/walker:ro", ref, "--", "/dev/walker")
				var got map[string]node
				w.must(json.NewDecoder(strings.NewReader(out)).Decode(&got))
				if len(got) < 20 {
					t.Errorf("the guest sees %d files", len(got))
				}
				compare(w.t, got, want)
			})
		})
	}
}

// TestImageDevices uses the devices of an image, and finds them nowhere but in the image: not in what is mounted over it.
func TestImageDevices(t *testing.T) {
	var entries []testimage.Entry
	for _, d := range []struct {
		typ          byte
		name         string
		mode         int64
		major, minor int64
	}{
		{tar.TypeChar, "jail/null", 0o666, 1, 3}, {tar.TypeChar, "jail/zero", 0o666, 1, 5}, {tar.TypeBlock, "jail/disk", 0o600, 8, 1},
		{tar.TypeChar, "jail/whiteout", 0o666, 0, 0}, {tar.TypeChar, "dev/own", 0o666, 1, 3}, {tar.TypeChar, "etc/hosts", 0o666, 1, 3},
		{tar.TypeBlock, "etc/resolv.conf", 0o666, 8, 2},
	} {
		entries = append(entries, testimage.Entry{Header: tar.Header{Typeflag: d.typ, Name: d.name, Mode: d.mode, Devmajor: d.major, Devminor: d.minor}})
	}
	img, err := mutate.AppendLayers(testimage.Busybox(t), testimage.Layer(t, testimage.Tar(t, entries...), testimage.Gzip))
	if err != nil {
		t.Fatal(err)
	}
	ref := testimage.Serve(t, testimage.Options{}).Push(t, "devices", img)
	each(t, func(w *world) {
		w.ok("pull", "-q", ref)
		guest := func(want string, args ...string) {
			w.t.Helper()
			if got := w.ok(append([]string{"run", "--pull", "never"}, args...)...); got != want {
				w.t.Errorf("%q: %q, want %q", args, got, want)
			}
		}
		const list = `cd /jail; for f in *; do stat -c '%n %F %t:%T' $f; done`
		guest("disk block special file 8:1\nnull character special file 1:3\nzero character special file 1:5\n", ref, "--", "sh", "-c", list)
		guest("3\n", ref, "--", "sh", "-c", "echo gone >/jail/null; head -c 3 /jail/zero | wc -c; cat /jail/null; test ! -e /dev/own; cat /etc/hosts >/jail/null")
		guest("changed\n", "--rm", "/jail/disk", "--copy-file", "/etc/passwd:/jail/copy", ref, "--", "sh", "-c", "test -s /jail/copy && test ! -e /jail/disk && echo changed")
		guest("", "--tmpfs", "/jail", ref, "--", "ls", "/jail")
		dir := filepath.Join(w.top, "mounted")
		w.mkdir(dir)
		w.write(filepath.Join(dir, "disk"), "of this machine", 0o644)
		guest("disk", "-v", dir+":/jail", ref, "--", "sh", "-c", "cd /jail; printf %s *")
		guest("of this machine", "-v", filepath.Join(dir, "disk")+":/jail/null", ref, "--", "cat", "/jail/null")
		if b, err := os.ReadFile(filepath.Join(dir, "disk")); string(b) != "of this machine" {
			w.t.Errorf("a file of the mounted directory: %q, %v", b, err)
		}
		if names, err := filepath.Glob(dir + "/*"); len(names) != 1 {
			w.t.Errorf("the mounted directory has %v, %v", names, err)
		}
	})
}

// compare reports the first differences.
func compare(t *testing.T, got, want map[string]node) {
	t.Helper()
	var diffs []string
	for name, n := range want {
		g, ok := got[name]
		if n.Time == 0 || slices.Contains(touched, name) { // no tar says
			g.Time, n.Time = 0, 0
		}
		if !ok {
			diffs = append(diffs, name+": missing in the guest")
		} else if g != n {
			diffs = append(diffs, fmt.Sprintf("%s:\n  guest %+v\n  tar   %+v", name, g, n))
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			diffs = append(diffs, fmt.Sprintf("%s: only in the guest: %+v", name, got[name]))
		}
	}
	slices.Sort(diffs)
	const most = 20
	for _, d := range diffs[:min(most, len(diffs))] {
		t.Error(d)
	}
	if len(diffs) > most {
		t.Errorf("and %d differences more", len(diffs)-most)
	}
	t.Logf("%d files", len(want))
}

// static returns this test's binary, or one made without cgo if it needs libraries that an image does not have.
func static(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	exe, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(exe.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return b
	}
	file := filepath.Join(t.TempDir(), "walker")
	cmd := exec.Command("go", "test", "-c", "-o", file, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the walker: %v\n%s", err, out)
	}
	if b, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	return b
}
