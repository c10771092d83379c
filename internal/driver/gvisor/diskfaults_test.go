package gvisor

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/driver"
)

// usage is what the driver counts on the disk.
func (g *guest) usage(t *testing.T) driver.DiskUsage {
	t.Helper()
	all := g.inst.(driver.Disks).Disks()
	if len(all) == 0 || all[0].Target != driver.DiskTarget {
		t.Fatalf("have %+v", all)
	}
	u := all[0]
	u.Read, u.Written = 0, 0 // of this run only
	return u
}

// held is what is on the disk, read from the host: file sizes, and the number of inodes.
func held(t *testing.T, dir string) (bytes, inodes uint64) {
	t.Helper()
	seen := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if seen[st.Ino] {
			return nil
		}
		seen[st.Ino] = true
		attribute(t, path)
		inodes++
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			bytes += uint64(st.Size)
		}
		if st.Mode&0o077 != 0 || int(st.Uid) != os.Getuid() {
			t.Errorf("%s has mode %o and owner %d on the host", path, st.Mode, st.Uid)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes, inodes
}

func attribute(t *testing.T, path string) []byte {
	t.Helper()
	b := make([]byte, 64)
	n, err := unix.Lgetxattr(path, "user.microsandbox.stat", b)
	if err != nil {
		t.Fatalf("%s has no attribute: %v", path, err)
	}
	return b[:n]
}

// TestDiskLimit fills a disk: to the last byte and file, with files that have no name any more, and with deletions.
func TestDiskLimit(t *testing.T) {
	const limit, inodes = 20_000_000, 200
	k := newDiskKit(t)
	k.disk.LimitBytes, k.disk.LimitInodes = limit, inodes
	g := k.up(t, nil)
	same := func(when string) {
		t.Helper()
		u := g.usage(t)
		if b, n := held(t, k.disk.Source); b != u.Bytes || n != u.Inodes {
			t.Errorf("%s: counted %d bytes, %d files; there are %d, %d", when, u.Bytes, u.Inodes, b, n)
		}
	}
	out, _ := g.run(t, 5, "dd", "if=/dev/zero", "of=/srv/a", "bs=300000")
	if !strings.Contains(out, "No space left on device") {
		t.Errorf("dd says %s", out)
	}
	if u := g.usage(t); u.Bytes != limit {
		t.Errorf("the disk holds %d bytes, want %d", u.Bytes, limit)
	}
	same("full")
	if free := strings.TrimSpace(g.sh(t, "stat -f -c '%b %a %S' /")); !strings.HasPrefix(free, fmt.Sprint(limit/4096)+" 0 ") {
		t.Errorf("statfs says %s", free)
	}
	g.sh(t, `rm /etc/group; ! test -e /etc/group; ! echo x >/srv/b; test ! -s /srv/b`) // a whiteout costs no bytes
	g.sh(t, `rm /srv/a /srv/b; head -c 100000 /dev/zero >/srv/c; ln /srv/c /srv/d; rm /srv/c; mv /srv/d /srv/e; cp /srv/e /srv/f; mv /srv/e /srv/f; truncate -s 70 /srv/f; truncate -s 80000 /srv/f`)
	same("after work")

	// A file without a name is counted until it is closed.
	before := g.usage(t).Bytes
	open := g.exec(t, 7, "sh", "-c", `read x; exec 3>/srv/gone; rm /srv/gone; head -c 5000000 /dev/zero >&3; echo written; read x; exec 3>&-; echo closed; read x`)
	open.says(t, "", "written")
	if have := g.usage(t).Bytes; have != before+5000000 {
		t.Errorf("with a file that has no name there are %d bytes, want %d", have, before+5000000)
	}
	g.send(t, 7, agentproto.TypeExecSignal, &agentproto.ExecSignal{Signal: 9})
	g.sh(t, "true")
	waitFor(t, func() bool { return g.usage(t).Bytes == before })
	same("after the file was closed")

	out = g.sh(t, `for n in $(seq 300); do echo >/srv/n$n || break; done 2>&1; rm -f /etc/hosts /srv/n1; ls /srv | wc -l`)
	if !strings.Contains(out, "No space left on device") {
		t.Errorf("300 files with a limit of %d say %s", inodes, out)
	}
	same("with many files")
	want := g.usage(t)
	want.Inodes -= 2 // the whiteouts of /srv/d and /srv/e hide nothing: a start prunes them
	for _, end := range []string{"in order", "by kill -9 of the file server"} {
		i := g.inst.(*instance)
		if end != "in order" {
			_ = unix.Kill(i.gofer, unix.SIGKILL)
		}
		if err := g.inst.Destroy(); err != nil {
			t.Fatal(err)
		}
		g = k.up(t, nil)
		if have := g.usage(t); have != want {
			t.Errorf("ended %s: counts %+v, want %+v", end, have, want)
		}
		same("ended " + end)
	}
}

// waitFor waits until something is so, which it will be soon.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not come to pass")
		}
	}
}

// TestDiskKill kills a sandbox's processes while it writes, and finds all that it had synced.
func TestDiskKill(t *testing.T) {
	k := newDiskKit(t)
	script := `mkdir -p /data/$1; n=0; while :; do n=$((n+1)); d=/data/$1/d$((n%7)); mkdir -p $d; echo "$n of $1" >$d/.tmp; chown $n:7 $d/.tmp; chmod 4711 $d/.tmp
mv $d/.tmp $d/f$n; ln -s f$n $d/l$n; sync $d/f$n; echo $n; done`
	synced := map[string]int{}
	for round := range 6 {
		g := k.up(t, nil)
		for name, last := range synced {
			have := g.sh(t, fmt.Sprintf(`cd /data/%s; for n in $(seq %d); do echo d$((n%%7))/f$n; done >/tmp/names; xargs cat </tmp/names; xargs stat -c %%u:%%g:%%a </tmp/names`, name, last))
			var want, owners strings.Builder
			for n := range last {
				fmt.Fprintf(&want, "%d of %s\n", n+1, name)
				fmt.Fprintf(&owners, "%d:7:4711\n", n+1)
			}
			want.WriteString(owners.String())
			if d := difference(have, want.String()); d != "" {
				t.Errorf("round %d, what %s wrote: %s", round, name, d)
			}
		}
		held(t, k.disk.Source) // every file has an attribute
		name := fmt.Sprintf("r%d", round)
		g.send(t, 9, agentproto.TypeExecRequest, &agentproto.ExecRequest{Cmd: "sh", Args: []string{"-c", script, "sh", name}})
		want, last, out := 3+rand.IntN(30), 0, ""
		for last < want {
			id, m := g.next(t)
			if id != 9 || m.Type != agentproto.TypeExecStdout {
				continue
			}
			b, err := agentproto.DecodeData(m.Payload)
			if err != nil {
				t.Fatal(err)
			}
			out += string(b)
			last = strings.Count(out, "\n")
		}
		synced[name] = last
		i := g.inst.(*instance)
		switch round % 3 {
		case 0:
			i.Kill()
		case 1:
			_ = unix.Kill(i.gofer, unix.SIGKILL)
		case 2:
			_ = unix.Kill(i.gofer, unix.SIGKILL)
			i.Kill()
		}
		if err := g.inst.Destroy(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDiskInUse starts a second sandbox with the disk of a running one.
func TestDiskInUse(t *testing.T) {
	k := newDiskKit(t)
	k.up(t, nil)
	_, err := Driver{}.Start(context.Background(), driver.Config{ID: "second", RootImage: k.root.Path, Agent: k.agent, Disk: k.disk, Control: pipe(t), MemoryBytes: 64 << 20})
	if err == nil || !strings.Contains(err.Error(), "another sandbox is using the disk") {
		t.Errorf("have %v", err)
	}
}

func pipe(t *testing.T) *os.File {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	return r
}

// TestDiskPlanted puts links to the host into a disk, before a start and under the eyes of a running guest.
func TestDiskPlanted(t *testing.T) {
	k := newDiskKit(t)
	g := k.up(t, nil)
	g.sh(t, "mkdir -p /srv/d/sub; echo mine >/srv/d/sub/f; sync")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("host's"), 0o600); err != nil {
		t.Fatal(err)
	}
	srv := filepath.Join(k.disk.Source, "srv")
	plant := func() {
		t.Helper()
		for name, target := range map[string]string{"file": secret, "dir": filepath.Dir(secret), "up": "../../..", "proc": "/proc/self/root"} {
			if err := os.Symlink(target, filepath.Join(srv, name)); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range []func() error{
			func() error { return os.Rename(srv+"/d/sub", srv+"/d/moved") },
			func() error { return os.Symlink(filepath.Dir(secret), srv+"/d/sub") },
		} {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}
	}
	// In the guest they are links as any others, and lead to where they lead there: nowhere, or to its own root.
	attack := `cd /srv; for p in file dir/secret d/sub/secret; do
cat $p && echo "read $p"; echo x >>$p && echo "wrote $p"; chmod 777 $p && echo "changed $p"; mv $p /srv/got 2>/dev/null && test "$(cat /srv/got)" && echo "moved $p"; done 2>/dev/null
for p in file dir up proc d/sub; do ls $p/ | grep -q secret && echo "saw into $p"; ln $p /srv/hard$$ && cat /srv/hard$$ && echo "linked $p"; rm -f /srv/hard$$; done 2>/dev/null; true`
	check := func(when string) {
		t.Helper()
		out := g.sh(t, attack)
		if when == "while it runs" { // the guest has the directory that it was, wherever that is in the disk
			out = strings.Join(slices.DeleteFunc(strings.SplitAfter(out, "\n"), func(l string) bool { return strings.HasSuffix(l, " d/sub/secret\n") }), "")
		}
		if out != "" {
			t.Errorf("%s: %s", when, out)
		}
		b, err := os.ReadFile(secret)
		st, e := os.Stat(secret)
		if err != nil || e != nil || string(b) != "host's" || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: the host's file is %q, %v, %v", when, b, st.Mode(), err)
		}
		if names, err := os.ReadDir(filepath.Dir(secret)); err != nil || len(names) != 1 {
			t.Errorf("%s: beside the host's file there are %v, %v", when, names, err)
		}
	}
	plant()
	check("while it runs")
	if err := g.inst.Destroy(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "dir", "up", "proc", "d/sub"} {
		_ = os.Remove(filepath.Join(srv, name))
	}
	if err := os.Rename(srv+"/d/moved", srv+"/d/sub"); err != nil {
		t.Fatal(err)
	}
	plant()
	g = k.up(t, nil)
	check("before it started")
	g.sh(t, "rm -r /srv/d /srv/up; rm -f /srv/file /srv/dir; ls /srv; ! test -e /srv/d") // the guest can be rid of them
}
