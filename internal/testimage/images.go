package testimage

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Busybox returns an image of about 2 MB: a static busybox and a name for each of its commands.
func Busybox(t testing.TB) v1.Image {
	t.Helper()
	debs := packages(t, "busybox", func() ([]string, error) { return []string{"busybox-static"}, nil })
	return built(t, "busybox", func() (v1.Image, error) {
		bin, commands, err := busybox(debs)
		if err != nil {
			return nil, err
		}
		entries := []Entry{{Header: tar.Header{Name: "bin/"}}, {Header: tar.Header{Name: "bin/busybox", Mode: 0o755}, Body: string(bin)}}
		for i, c := range commands {
			h := tar.Header{Name: "bin/" + c, Typeflag: tar.TypeSymlink, Linkname: "busybox"}
			if i%2 == 0 {
				h.Typeflag, h.Linkname = tar.TypeLink, "bin/busybox"
			}
			entries = append(entries, Entry{Header: h})
		}
		entries = append(entries, skeleton()...)
		l, err := layerOf(func(w *tar.Writer) error { return writeAll(w, entries) })
		if err != nil {
			return nil, err
		}
		return image(v1.Config{Env: []string{defaultPath}, Cmd: []string{"sh"}}, l)
	})
}

// busybox returns the binary and the names of its commands.
func busybox(debs []string) ([]byte, []string, error) {
	dir, err := os.MkdirTemp("", "busybox-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	for _, deb := range debs {
		if out, err := exec.Command("dpkg-deb", "-x", deb, dir).CombinedOutput(); err != nil {
			return nil, nil, fmt.Errorf("dpkg-deb: %w: %s", err, out)
		}
	}
	found, _ := filepath.Glob(filepath.Join(dir, "*bin", "busybox"))
	if usr, _ := filepath.Glob(filepath.Join(dir, "usr", "*bin", "busybox")); len(found) == 0 {
		found = usr
	}
	if len(found) == 0 {
		return nil, nil, errors.New("the package busybox-static has no busybox")
	}
	bin, err := os.ReadFile(found[0])
	if err != nil {
		return nil, nil, err
	}
	out, err := exec.Command(found[0], "--list").Output()
	if err != nil {
		return nil, nil, err
	}
	var commands []string
	for c := range strings.FieldsSeq(string(out)) {
		if c != "busybox" && !strings.Contains(c, "/") {
			commands = append(commands, c)
		}
	}
	return bin, commands, nil
}

// skeleton is what every image has besides programs.
func skeleton() []Entry {
	dir := func(name string, mode int64) Entry { return Entry{Header: tar.Header{Name: name, Mode: mode}} }
	file := func(name, body string) Entry { return Entry{Header: tar.Header{Name: name}, Body: body} }
	return []Entry{
		dir("dev/", 0o755), dir("etc/", 0o755), dir("home/", 0o755), dir("proc/", 0o555), dir("root/", 0o700), dir("run/", 0o755),
		dir("sys/", 0o555), dir("tmp/", 0o1777), dir("usr/", 0o755), dir("var/", 0o755), dir("var/tmp/", 0o1777),
		file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\nuser:x:1000:1000:user:/home/user:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
		file("etc/group", "root:x:0:\ndaemon:x:1:\nuser:x:1000:\nnogroup:x:65534:\n"),
		file("etc/hosts", ""), file("etc/resolv.conf", ""), file("etc/hostname", ""),
		{Header: tar.Header{Name: "home/user/", Uid: 1000, Gid: 1000, Mode: 0o750}},
	}
}

// essential is what a Debian image has whatever it is for.
var essential = []string{"base-files", "bash", "coreutils", "dash", "findutils", "grep", "libc-bin", "sed", "util-linux"}

// Debian returns an image of the essential packages, and with them those that are named and all that they depend on, in a
// layer of its own. No maintainer script has run in it.
func Debian(t testing.TB, name string, c v1.Config, names ...string) v1.Image {
	t.Helper()
	base := packages(t, "debian", func() ([]string, error) { return closure(essential...) })
	var more []string
	if len(names) > 0 {
		more = packages(t, name, func() ([]string, error) { return closure(names...) })
	}
	return built(t, name, func() (v1.Image, error) {
		seen := map[string]bool{}
		var layers []v1.Layer
		l, err := layerOf(func(w *tar.Writer) error {
			links := []Entry{{Header: tar.Header{Name: "usr/"}}}
			for _, d := range mergedDirs {
				links = append(links, Entry{Header: tar.Header{Name: "usr/" + d + "/"}},
					Entry{Header: tar.Header{Name: d, Typeflag: tar.TypeSymlink, Linkname: "usr/" + d}})
				seen["usr/"+d] = true
			}
			// base-files has its own idea of some of these, which is as good.
			entries := append(links, skeleton()...)
			for _, e := range entries {
				seen[strings.TrimSuffix(e.Name, "/")] = true
			}
			entries = append(entries, Entry{Header: tar.Header{Name: "usr/bin/sh", Typeflag: tar.TypeSymlink, Linkname: "dash"}})
			seen["usr/bin/sh"] = true
			return errors.Join(writeAll(w, entries), unpack(w, base, seen))
		})
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
		if len(more) > 0 {
			if l, err = layerOf(func(w *tar.Writer) error { return unpack(w, more, seen) }); err != nil {
				return nil, err
			}
			layers = append(layers, l)
		}
		if c.Env == nil {
			c.Env = []string{defaultPath}
		}
		if c.Cmd == nil {
			c.Cmd = []string{"bash"}
		}
		return image(c, layers...)
	})
}

// Python returns a Debian image with python3.
func Python(t testing.TB) v1.Image {
	t.Helper()
	return Debian(t, "python", v1.Config{Cmd: []string{"python3"}, Env: []string{defaultPath, "LANG=C.UTF-8"}}, "python3")
}

// Requests returns a Debian image with Python's requests.
func Requests(t testing.TB) v1.Image {
	t.Helper()
	return Debian(t, "requests", v1.Config{Cmd: []string{"python3"}, Env: []string{defaultPath, "LANG=C.UTF-8"}}, "python3-requests")
}

// Node returns a Debian image with nodejs.
func Node(t testing.TB) v1.Image {
	t.Helper()
	return Debian(t, "node", v1.Config{Cmd: []string{"node"}, Env: []string{defaultPath}}, "nodejs")
}

// Server returns a Debian image in which one can add users, install packages and run PostgreSQL. As no maintainer script has run
// in it, PAM has no common configuration and dpkg no records yet.
func Server(t testing.TB) v1.Image {
	t.Helper()
	return Debian(t, "server", v1.Config{}, serverPrograms...)
}

// Packagers returns a Debian image with apt and pip. As no maintainer script has run in it, dpkg has no records yet.
func Packagers(t testing.TB) v1.Image {
	t.Helper()
	return Debian(t, "packagers", v1.Config{}, "apt", "diffutils", "dpkg", "gzip", "python3-pip", "tar")
}

// PostgresPackages returns the .deb files that PostgreSQL takes beside those of the image Builder, but for the compilers of its queries and
// the scripts of its administration.
func PostgresPackages(t testing.TB) []string {
	t.Helper()
	have := map[string]bool{}
	for _, deb := range append(packages(t, "debian", func() ([]string, error) { return closure(essential...) }), builderPackages(t)...) {
		have[filepath.Base(deb)] = true
	}
	var debs []string
	for _, deb := range packages(t, "server", func() ([]string, error) { return closure(serverPrograms...) }) {
		name := filepath.Base(deb)
		unneeded := slices.ContainsFunc([]string{"libllvm", "libz3", "perl", "libperl", "apt_", "libapt"}, func(p string) bool { return strings.HasPrefix(name, p) })
		if !have[name] && !unneeded {
			debs = append(debs, deb)
		}
	}
	return debs
}

// Builder returns a Debian image in which packages can be unpacked and users made.
func Builder(t testing.TB) v1.Image {
	t.Helper()
	return Debian(t, "builder", v1.Config{}, builderPrograms...)
}

var builderPrograms = []string{"dpkg", "gzip", "login", "passwd", "tar"}

func builderPackages(t testing.TB) []string {
	return packages(t, "builder", func() ([]string, error) { return closure(builderPrograms...) })
}

// serverPrograms are those of Server.
var serverPrograms = []string{"apt", "diffutils", "dpkg", "gzip", "login", "passwd", "postgresql-15", "tar"}

// BusyboxPackage returns the .deb file of a package that depends on none.
func BusyboxPackage(t testing.TB) string {
	t.Helper()
	return packages(t, "busybox", func() ([]string, error) { return []string{"busybox-static"}, nil })[0]
}

func layerOf(fill func(*tar.Writer) error) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(fill(w), w.Close()); err != nil {
		return nil, err
	}
	return layer(b.Bytes(), Gzip)
}

func writeAll(w *tar.Writer, entries []Entry) error {
	for _, e := range entries {
		if err := writeEntry(w, e); err != nil {
			return err
		}
	}
	return nil
}
