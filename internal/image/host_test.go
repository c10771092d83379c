package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	reference "github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// open returns the file system in an EROFS file.
func open(t testing.TB, path string) fs.FS {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	img, err := reference.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// machine makes a small machine with a merged /usr out of a list: "dir/", "link -> target", "file = contents".
func machine(t testing.TB, entries ...string) string {
	t.Helper()
	top := t.TempDir()
	for _, e := range entries {
		name, target, link := strings.Cut(e, " -> ")
		path, contents, _ := strings.Cut(filepath.Join(top, name), " = ")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case link:
			err = os.Symlink(target, path)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, []byte(contents), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return top
}

func mustHost(t testing.TB, home, top string) *Root {
	t.Helper()
	root, err := hostOf(context.Background(), home, top)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// content returns what is in the image at path: a file's text, "-> target" of a link, "dir", or "none".
func content(img fs.FS, path string) string {
	info, err := fs.Lstat(img, path)
	switch {
	case err != nil:
		return "none"
	case info.IsDir():
		return "dir"
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := fs.ReadLink(img, path)
		if err != nil {
			return err.Error()
		}
		return "-> " + target
	}
	data, err := fs.ReadFile(img, path)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func TestHostOfThisMachine(t *testing.T) {
	home := t.TempDir()
	root, err := Host(context.Background(), home)
	if err != nil {
		t.Fatal(err)
	}
	img := open(t, root.Path)
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Skip(err)
	}
	if got := content(img, "etc/passwd"); got != string(passwd) {
		t.Errorf("/etc/passwd is %q", got)
	}
	if len(root.Binds) == 0 || root.Binds[0] != (Bind{"/usr", "/usr"}) {
		t.Errorf("binds %v", root.Binds)
	}
	if link, err := os.Readlink("/bin"); err == nil {
		if got := content(img, "bin"); got != "-> "+link || len(root.Binds) != 1 {
			t.Errorf("/bin is %q, binds %v", got, root.Binds)
		}
	}
	if !slices.Contains(root.Config.Env, defaultPath) || !slices.Equal(root.Config.Cmd, []string{"/bin/sh"}) {
		t.Errorf("config %+v", root.Config)
	}
	for _, p := range []string{"etc/shadow", "etc/gshadow", "etc/sudoers", "etc/ssh", "etc/machine-id", "etc/ssl/private"} {
		if got := content(img, p); got != "none" {
			t.Errorf("/%s is in the image", p)
		}
	}
	for _, p := range []string{"etc/hosts", "etc/hostname", "etc/resolv.conf"} {
		if got := content(img, p); got != "" {
			t.Errorf("/%s is not empty: %q", p, got)
		}
	}
	// Nothing in the image may be unreadable to others on this machine, but for /root; keys least of all.
	err = fs.WalkDir(img, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o004 == 0 && p != "root" {
			t.Errorf("/%s has mode %v", p, info.Mode())
		}
		if strings.Contains(p, "private") || strings.HasSuffix(p, ".key") {
			t.Errorf("/%s is in the image", p)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(root.Path); err != nil || info.Size() > 40<<20 {
		t.Errorf("size %d, %v", info.Size(), err)
	}
}

func TestHostPlaces(t *testing.T) {
	root := mustHost(t, t.TempDir(), machine(t, "usr/", "etc/"))
	img := open(t, root.Path)
	for p, want := range map[string]fs.FileMode{
		"tmp": 0o777 | fs.ModeSticky, "var/tmp": 0o777 | fs.ModeSticky, "root": 0o700, "home": 0o755, "proc": 0o555,
		"sys": 0o555, "dev": 0o755, "run": 0o755, ".msb": 0o755, "usr": 0o755, "etc": 0o755, "opt": 0o755, "srv": 0o755,
		"mnt": 0o755, "var/log": 0o755, "var/lib": 0o755, "var/cache": 0o755,
	} {
		info, err := fs.Stat(img, p)
		if err != nil {
			t.Error(err)
			continue
		}
		st := info.Sys().(*reference.Stat)
		if st.Mode != want|fs.ModeDir || st.UID != 0 || st.GID != 0 {
			t.Errorf("/%s: %v %d:%d, want %v of root", p, st.Mode, st.UID, st.GID, want)
		}
	}
	if got := content(img, "etc/mtab"); got != "-> ../proc/self/mounts" {
		t.Errorf("/etc/mtab: %q", got)
	}
}

func TestHostUnmerged(t *testing.T) {
	top := machine(t, "usr/", "bin/", "sbin/", "lib/", "lib64 -> lib", "etc/")
	root := mustHost(t, t.TempDir(), top)
	img := open(t, root.Path)
	real, err := filepath.EvalSymlinks(top)
	if err != nil {
		t.Fatal(err)
	}
	var want []Bind
	for _, d := range []string{"usr", "bin", "sbin", "lib"} {
		want = append(want, Bind{filepath.Join(real, d), "/" + d})
		if got := content(img, d); got != "dir" {
			t.Errorf("/%s: %q, want a mount point", d, got)
		}
	}
	if !slices.Equal(root.Binds, want) {
		t.Errorf("binds %v, want %v", root.Binds, want)
	}
	if got := content(img, "lib64"); got != "-> lib" {
		t.Errorf("/lib64: %q", got)
	}
}

func TestHostWithoutEtc(t *testing.T) {
	root := mustHost(t, t.TempDir(), machine(t, "usr/"))
	if got := content(open(t, root.Path), "etc/hosts"); got != "" {
		t.Errorf("/etc/hosts: %q", got)
	}
}

// TestHostKeepsSecrets puts secrets where a careless copy would take them.
func TestHostKeepsSecrets(t *testing.T) {
	top := machine(t, "usr/",
		"etc/passwd = root:x:0:0::/root:/bin/sh",
		"etc/shadow = SECRET", "etc/shadow- = SECRET", "etc/gshadow = SECRET", "etc/sudoers = SECRET", "etc/machine-id = SECRET",
		"etc/ssh/ssh_host_rsa_key = SECRET", "etc/npmrc = SECRET", "etc/unknown = SECRET", "etc/docker/config.json = SECRET",
		"etc/ssl/private/server.pem = SECRET", "etc/ssl/certs/server.key = SECRET",
		"etc/ssl/certs/both.pem = -----BEGIN PRIVATE KEY-----\nSECRET", "etc/ssl/certs/fine.pem = fine",
		"etc/ssl/certs/private/x = SECRET", "etc/python3/passwords = SECRET", "etc/python3/pip_credentials = SECRET",
		"etc/group -> shadow", "etc/services -> ../secret", "etc/protocols -> /etc/shadow", "secret = SECRET",
		"etc/real-perl/x = SECRET", "etc/perl -> real-perl",
		"etc/other-ssl/cert.pem = SECRET", "etc/profile.d -> ../home", "home/x = SECRET", "etc/pki -> ../pki", "pki/tls/certs/x = SECRET",
		"etc/skel/.bashrc = fine", "etc/skel/link -> /root/SECRET-but-only-a-name",
		"etc/default/locale = SECRET", "etc/profile = unreadable", "etc/xml/catalog = unreadable", "root/x = SECRET", "var/x = SECRET", "opt/x = SECRET",
	)
	for path, mode := range map[string]fs.FileMode{"etc/profile": 0o640, "etc/xml": 0o750, "etc/default": 0o750} {
		if err := os.Chmod(filepath.Join(top, path), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(top, "etc/skel/pipe"), 0o666); err != nil {
		t.Fatal(err)
	}
	root := mustHost(t, t.TempDir(), top)
	all, err := os.ReadFile(root.Path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(all), "/root/SECRET-but-only-a-name", "")
	if i := strings.Index(text, "SECRET"); i >= 0 {
		t.Errorf("a secret is in the image: …%q…", text[max(0, i-40):i+10])
	}
	img := open(t, root.Path)
	for p, want := range map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh", "etc/ssl/certs/fine.pem": "fine", "etc/skel/.bashrc": "fine",
		"etc/group": "-> shadow", "etc/services": "-> ../secret", "etc/perl": "-> real-perl", "etc/pki": "-> ../pki",
		"etc/profile": "none", "etc/xml": "none", "etc/skel/pipe": "none", "etc/profile.d": "-> ../home", "etc/shadow": "none",
	} {
		if got := content(img, p); got != want {
			t.Errorf("/%s: %q, want %q", p, got, want)
		}
	}
}

func TestHostBoundsWhatItCopies(t *testing.T) {
	top := machine(t, "usr/", "etc/skel/ok = ok", "etc/skel/huge = "+strings.Repeat("x", maxEtcFile+1))
	for i := range maxEtcTotal/maxEtcFile + 3 {
		path := filepath.Join(top, "etc/xml", string(rune('A'+i)))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, maxEtcFile); err != nil {
			t.Fatal(err)
		}
	}
	deep := filepath.Join(top, "etc/terminfo", strings.Repeat("d/", maxEtcDepth+5))
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	root := mustHost(t, t.TempDir(), top)
	img := open(t, root.Path)
	if got := content(img, "etc/skel/huge"); got != "none" {
		t.Error("a file of more than 1 MiB was copied")
	}
	if got := content(img, "etc/skel/ok"); got != "ok" {
		t.Errorf("/etc/skel/ok: %q", got)
	}
	if info, err := os.Stat(root.Path); err != nil || info.Size() > maxEtcTotal+1<<20 {
		t.Errorf("the image has %d bytes, %v", info.Size(), err)
	}
}

func TestHostIsMadeOnceAndAgainWhenTheMachineChanges(t *testing.T) {
	home := t.TempDir()
	top := machine(t, "usr/", "bin -> usr/bin", "etc/passwd = one", "etc/ssl/certs/a.pem = a", "etc/ssl/certs/ca-certificates.crt = x")
	first := mustHost(t, home, top)
	before, err := os.Stat(first.Path)
	if err != nil {
		t.Fatal(err)
	}
	if again := mustHost(t, home, top); again.Path != first.Path || again.Digest != first.Digest {
		t.Errorf("second call: %s, first %s", again.Path, first.Path)
	}
	if after, err := os.Stat(first.Path); err != nil || !os.SameFile(before, after) {
		t.Error("the second call made the image again")
	}
	if other := mustHost(t, t.TempDir(), top); other.Digest != first.Digest {
		t.Error("the digest depends on where MSB_HOME is")
	}
	last := first
	for _, change := range []func() error{
		func() error { return os.WriteFile(filepath.Join(top, "etc/passwd"), []byte("two2"), 0o644) },
		func() error { return os.Chmod(filepath.Join(top, "etc/passwd"), 0o444) },
		func() error { return os.WriteFile(filepath.Join(top, "etc/ssl/certs/b.pem"), []byte("b"), 0o644) },
		func() error {
			return os.WriteFile(filepath.Join(top, "etc/ssl/certs/ca-certificates.crt"), []byte("xy"), 0o644)
		},
		func() error { return os.WriteFile(filepath.Join(top, "etc/group"), []byte("g"), 0o644) },
		func() error { return os.Symlink("usr/lib64", filepath.Join(top, "lib64")) },
		func() error { return os.Mkdir(filepath.Join(top, "lib"), 0o755) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		next := mustHost(t, home, top)
		if next.Path == last.Path {
			t.Error("a change of the machine was not noticed")
		}
		last = next
	}
	if got := content(open(t, last.Path), "etc/passwd"); got != "two2" {
		t.Errorf("/etc/passwd: %q", got)
	}
}

func TestHostSweepsWhatIsNoLongerUsed(t *testing.T) {
	home := t.TempDir()
	top := machine(t, "usr/", "etc/passwd = one")
	first := mustHost(t, home, top)
	dir := filepath.Dir(first.Path)
	left := filepath.Join(dir, ".tmp-123")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	change := func(s string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(top, "etc/passwd"), []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	change("second")
	second := mustHost(t, home, top)
	if _, err := os.Stat(first.Path); err != nil {
		t.Errorf("an image that was just used is gone: %v", err)
	}
	old := time.Now().Add(-2 * grace)
	for _, p := range []string{first.Path, second.Path, left} {
		if err := os.Chtimes(p, old, old); err != nil {
			t.Fatal(err)
		}
	}
	mustHost(t, home, top) // uses the second
	change("third, longer")
	third := mustHost(t, home, top)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, filepath.Join(dir, e.Name()))
	}
	want := []string{second.Path, third.Path}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("left %v, want the last two %v", names, want)
	}
}

func TestHostAtOnce(t *testing.T) {
	home := t.TempDir()
	top := machine(t, "usr/", "etc/passwd = one")
	var wg sync.WaitGroup
	paths := make([]string, 8)
	for i := range paths {
		wg.Go(func() {
			root, err := hostOf(context.Background(), home, top)
			if err != nil {
				t.Error(err)
				return
			}
			paths[i] = root.Path
		})
	}
	wg.Wait()
	if len(slices.Compact(paths)) != 1 {
		t.Errorf("paths %v", paths)
	}
	entries, _ := os.ReadDir(filepath.Dir(paths[0]))
	if len(entries) != 1 {
		t.Errorf("left: %v", entries)
	}
}

func TestHostRefusesHomeInsideABind(t *testing.T) {
	top := machine(t, "usr/local/msb/", "etc/")
	link := filepath.Join(t.TempDir(), "home")
	if err := os.Symlink(filepath.Join(top, "usr/local/msb"), link); err != nil {
		t.Fatal(err)
	}
	for _, home := range []string{filepath.Join(top, "usr/local/msb/new/home"), filepath.Join(top, "usr"), link, link + "/x"} {
		_, err := hostOf(context.Background(), home, top)
		if !errors.Is(err, sandbox.InvalidConfig) || sandbox.HintOf(err) == "" {
			t.Errorf("MSB_HOME=%s: %v, want an invalid config with a hint", home, err)
		}
	}
	if err := os.Mkdir(filepath.Join(top, "usr2"), 0o755); err != nil {
		t.Fatal(err)
	}
	mustHost(t, filepath.Join(top, "usr2"), top) // only its name begins like that of a bind
}

func TestHostCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	home := t.TempDir()
	_, err := hostOf(ctx, home, machine(t, "usr/", "etc/passwd = x"))
	if !errors.Is(err, context.Canceled) || !errors.Is(err, sandbox.Cancelled) {
		t.Errorf("%v, want cancelled", err)
	}
	if left, _ := filepath.Glob(filepath.Join(home, "images/host/*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestFullDisk fills a small tmpfs, in a mount namespace of its own.
func TestFullDisk(t *testing.T) {
	home := t.TempDir()
	smallDisk(t, home, "64k")
	top := machine(t, "usr/", "etc/mime.types = "+strings.Repeat("x", 200_000))
	_, err := hostOf(context.Background(), home, top)
	fullDisk(t, err, home)
	agent := filepath.Join(top, "etc/mime.types")
	_, err = AgentImage(home, agent)
	fullDisk(t, err, home)
	var left []string
	_ = filepath.WalkDir(home, func(p string, d fs.DirEntry, _ error) error {
		if !d.IsDir() {
			left = append(left, p)
		}
		return nil
	})
	if len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func fullDisk(t *testing.T, err error, home string) {
	t.Helper()
	if !errors.Is(err, sandbox.IO) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("%v, want an I/O error: no space left", err)
	}
	if hint := sandbox.HintOf(err); !strings.Contains(hint, "free space") || !strings.Contains(hint, home) {
		t.Errorf("hint %q", hint)
	}
}

// smallDisk mounts a tmpfs at dir for this goroutine's thread only.
func smallDisk(t *testing.T, dir, size string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount in this process")
	}
	runtime.LockOSThread() // never unlocked: the thread and its namespace end with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Skip("no mount namespace: ", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
}

func TestUnwritableHome(t *testing.T) {
	top := machine(t, "usr/", "etc/passwd = x")
	if os.Geteuid() == 0 { // root may write anywhere but here
		_, err := hostOf(context.Background(), "/proc/msb", top)
		if !errors.Is(err, sandbox.IO) {
			t.Errorf("%v, want an I/O error", err)
		}
	} else {
		home := t.TempDir()
		if err := os.Chmod(home, 0o555); err != nil {
			t.Fatal(err)
		}
		_, err := hostOf(context.Background(), home, top)
		if !errors.Is(err, sandbox.IO) || !strings.Contains(sandbox.HintOf(err), "writable") {
			t.Errorf("%v, hint %q", err, sandbox.HintOf(err))
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := atomicfile.Write(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := hostOf(context.Background(), file, top)
	if !errors.Is(err, sandbox.IO) || !strings.Contains(sandbox.HintOf(err), "must be a directory") {
		t.Errorf("home is a file: %v, hint %q", err, sandbox.HintOf(err))
	}
}

// TestKilledWhileWriting kills a process in the middle of Host, at several moments, and finds that the next call mends it.
func TestKilledWhileWriting(t *testing.T) {
	if home := os.Getenv("IMAGE_TEST_HOME"); home != "" {
		_, err := Host(context.Background(), home)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	if testing.Short() {
		t.Skip("slow")
	}
	for i := range 10 {
		home := t.TempDir()
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWhileWriting$")
		cmd.Env = append(os.Environ(), "IMAGE_TEST_HOME="+home)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 4 * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		root, err := Host(context.Background(), home)
		if err != nil {
			t.Fatal(err)
		}
		if got := content(open(t, root.Path), "etc/hosts"); got != "" {
			t.Errorf("/etc/hosts: %q", got)
		}
	}
}
