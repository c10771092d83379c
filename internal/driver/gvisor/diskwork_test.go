package gvisor

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/driver"
)

// work is what people do with a machine of their own. It is run once; works says afterwards that all of it is there.
const work = `
install -m 755 /usr/bin/su /srv/su; su() { /srv/su "$@"; } # that of the host is nobody's, set-user-id, where a user runs the sandbox
mkdir -p /etc/pam.d; for t in auth account session; do echo "$t required pam_permit.so"; done >/etc/pam.d/su
groupadd team; useradd -m -G team -s /bin/sh bob; printf 'SUB_UID_MIN 1\n' >>/etc/login.defs
su bob -c 'cd; umask 027; mkdir work; echo mine >work/f; ln -s f work/l; chmod 2750 work'
! su bob -c 'cat /etc/shadow' 2>/dev/null; ! su bob -c 'rm -rf /etc/passwd /home/bob/../../srv/x' 2>/dev/null
mkdir -p /srv/x; chown bob:team /srv/x; chmod 2775 /srv/x; su bob -c 'touch /srv/x/inherits; mkdir /srv/x/sub; ln -s a /srv/x/link'
cd /srv; python3 -c "
import sqlite3, mmap, os
c = sqlite3.connect('db'); c.execute('pragma journal_mode=wal'); c.execute('pragma synchronous=full'); c.execute('create table t(n integer)')
for n in range(100):
    c.execute('insert into t values(?)', (n,)); c.commit()
f = open('mapped', 'w+b'); f.truncate(8192); m = mmap.mmap(f.fileno(), 8192); m[5000:5005] = b'mmap!'; m.flush(); os.fsync(f.fileno())
d = sqlite3.connect('db'); assert d.execute('select count(*), sum(n) from t').fetchone() == (100, 4950)
"
if command -v git >/dev/null; then
  export HOME=/root; git init -q repo; cd repo; git config user.email a@b; git config user.name a; git config gc.auto 0
  for n in 1 2 3; do mkdir -p d$n; for f in $(seq 60); do echo $n $f >d$n/f$f; done; git add .; git commit -qm $n; done; git mv d1 moved; git rm -rq d2; git commit -qm 4; git gc -q; git fsck --strict; cd ..
fi
tar cf t.tar -C /etc .; mkdir untar; tar xpf t.tar -C untar; rm /etc/hostname || true; rm -rf /mnt; mkdir /mnt; echo new >/mnt/new
cp /usr/bin/id /usr/local/id 2>/dev/null || cp /usr/bin/id /srv/id; ln /srv/t.tar /srv/t2.tar; rm /srv/t.tar; mv /srv/t2.tar /srv/t.tar
`

const works = `
id bob | grep -q team; stat -c '%n %a %U:%G' /home/bob /home/bob/work /home/bob/work/f /srv/x /srv/x/inherits /srv/x/sub
/srv/su bob -c 'cat ~/work/l'; cd /srv; /srv/id -u
python3 -c "
import sqlite3
c = sqlite3.connect('db'); assert c.execute('select count(*), sum(n) from t').fetchone() == (100, 4950); assert c.execute('pragma integrity_check').fetchone() == ('ok',)
assert open('mapped', 'rb').read()[5000:5005] == b'mmap!'"
if command -v git >/dev/null; then export HOME=/root; cd repo; git fsck --strict; git status --porcelain; git log --oneline | wc -l; cd ..; fi
test ! -e /etc/hostname; ls /mnt; tar tf t.tar >/dev/null; find / -xdev | wc -l
find / -xdev -path /tmp -prune -o -type f ! -name 'db*' ! -path '*/.git/index' -print0 | sort -z | xargs -0 md5sum | md5sum; find / -xdev -printf '%p %m %U:%G %y %l\n' | sort | grep -v db- | md5sum
`

// TestDiskWork lives on a disk for a while, ends by kill -9, and goes on.
func TestDiskWork(t *testing.T) {
	for _, p := range []string{"/usr/bin/python3", "/usr/sbin/useradd"} {
		if _, err := os.Stat(p); err != nil {
			t.Skip("needs " + p)
		}
	}
	k := newDiskKit(t)
	g := k.up(t, nil)
	if out, code := g.run(t, 5, "sh", "-ec", work+"\nsync"); code != 0 {
		t.Fatal("the work ended early: ", tail(out))
	}
	want := g.sh(t, works)
	for _, line := range []string{"/home/bob/work 2750 bob:bob", "/srv/x/inherits 644 bob:team", "/srv/x/sub 2755 bob:team", "mine", "new"} {
		if !strings.Contains(want, line) {
			t.Errorf("there is no %q in\n%s", line, want)
		}
	}
	g.inst.Kill()
	if err := g.inst.Destroy(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		g = k.up(t, nil)
		if d := difference(g.sh(t, works), want); d != "" {
			t.Errorf("in the next sandbox: %s", d)
		}
		if err := g.inst.Destroy(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTmpfsRoot has a root in memory that is no larger than it may be.
func TestTmpfsRoot(t *testing.T) {
	k := newDiskKit(t)
	g := k.start(t, func(cfg driver.Config) (driver.Instance, error) { return Driver{}.Start(context.Background(), cfg) })
	g.bringUpWith(t, agentproto.Bootstrap{BlockRoot: &agentproto.BlockRoot{Kind: agentproto.RootOCI, Lower: "/",
		Upper: &agentproto.BlockUpper{Kind: agentproto.UpperTmpfs, SizeMiB: 8}}})
	g.sh(t, "chown 1000:1001 /srv; chmod 1700 /srv; rm /etc/group; ! test -e /etc/group")
	out, code := g.run(t, 5, "dd", "if=/dev/zero", "of=/srv/a", "bs=1M", "count=20")
	if size := g.sh(t, "stat -c %s /srv/a"); code == 0 || !strings.Contains(out, "No space left on device") || size != "8384512\n" && size != "8388608\n" && size != "8380416\n" {
		t.Errorf("with 8 MiB, dd says %s and the file has %s", out, size)
	}
}
