package e2e

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/testimage"
)

// in runs a script in a sandbox, which has to succeed, and returns its output.
func (w *world) in(name, script string) string {
	w.t.Helper()
	r := w.run("exec", "-q", name, "--", "bash", "-ec", script)
	if r.code != 0 {
		w.t.Fatalf("exit code %d of %s\nstdout: %s\nstderr: %s", r.code, script, clip(r.out), clip(r.err))
	}
	return r.out
}

// configure does what the maintainer scripts of the image's packages would have done.
const configure = `printf 'auth required pam_unix.so\n' >/etc/pam.d/common-auth
	printf 'account required pam_unix.so\n' >/etc/pam.d/common-account
	printf 'session required pam_unix.so\n' >/etc/pam.d/common-session
	printf 'password required pam_unix.so\n' >/etc/pam.d/common-password
	cut -d: -f1 /etc/passwd | sed 's/$/:*:19000:0:99999:7:::/' >/etc/shadow; chmod 640 /etc/shadow
	mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates /var/lib/dpkg/triggers /var/lib/apt/lists /var/cache/apt/archives /etc/apt/apt.conf.d /var/log/apt
	touch /var/lib/dpkg/status /var/lib/dpkg/available; ldconfig`

// TestMachine makes of a sandbox what people make of a machine: users, packages, a database. All of it is there after each end,
// and of the database what was committed.
func TestMachine(t *testing.T) {
	img := testimage.Server(t)
	deb := testimage.BusyboxPackage(t)
	each(t, func(w *world) {
		ref := testimage.Serve(w.t, testimage.Options{}).Push(w.t, "server", img)
		w.ok("create", "-q", "--name", "server", "-m", "1G", ref)
		w.in("server", configure)

		// Users.
		w.in("server", "useradd -m -s /bin/bash alice; useradd -r -m -d /pg postgres")
		users := `su - alice -c 'whoami; pwd; umask 027; test -e f || echo hers >f; cat f; stat -c %U:%G:%a f'; su alice -c 'cat /etc/shadow' 2>&1 | tail -1; stat -c %U:%G /home/alice`
		const want = "alice\n/home/alice\nhers\nalice:alice:640\ncat: /etc/shadow: Permission denied\nalice:alice\n"
		if out := w.in("server", users); out != want {
			w.t.Errorf("users: %q", out)
		}

		// A package, from a repository.
		w.in("server", "mkdir /repo")
		for name, body := range repository(w, deb) {
			path := filepath.Join(w.top, name)
			w.write(path, body, 0o644)
			w.ok("cp", "-q", path, "server:/repo/"+name)
		}
		w.in("server", `echo 'deb [trusted=yes] file:/repo ./' >/etc/apt/sources.list; echo '_apt:x:42:65534::/nonexistent:/usr/sbin/nologin' >>/etc/passwd
			chmod 755 /repo; export DEBIAN_FRONTEND=noninteractive; apt-get -q update; apt-get -q install -y --no-install-recommends busybox-static`)
		installed := func() {
			w.t.Helper()
			if out := w.in("server", "dpkg-query -W -f '${db:Status-Status}' busybox-static; dpkg -V busybox-static; busybox echo ' here'"); out != "installed here\n" {
				w.t.Errorf("the package: %q", out)
			}
		}
		installed()

		// A database.
		pg := func(command string) string {
			return "su postgres -c \"PATH=/usr/lib/postgresql/15/bin:$PATH; cd /pg; " + command + "\""
		}
		up := pg("pg_ctl -D data -l log -w -s -t 120 -o \\\"-k /pg -c listen_addresses=\\\" start") + " || { cat /pg/log; exit 1; }"
		w.in("server", pg("initdb -D data -E UTF8 --locale=C")+"; "+up+"; "+pg(`psql -h /pg -q -c 'CREATE TABLE t (n int PRIMARY KEY, text text)'`))
		count := func() int {
			w.t.Helper()
			n, err := strconv.Atoi(strings.TrimSpace(w.in("server", pg("psql -h /pg -At -c 'SELECT count(*) FROM t WHERE length(text) = 100'"))))
			w.must(err)
			return n
		}
		w.in("server", pg(`psql -h /pg -q -c 'INSERT INTO t SELECT n, repeat(chr(120), 100) FROM generate_series(1, 1000) n'`))
		w.ok("stop", "-q", "server")
		w.ok("start", "-q", "server")
		if out := w.in("server", users); out != want {
			w.t.Errorf("users after a stop: %q", out)
		}
		installed()
		w.in("server", up)
		if n := count(); n != 1000 {
			w.t.Errorf("after a stop there are %d rows of 1000", n)
		}

		for round := range 2 {
			// One transaction after the other, until all is killed: what was said to be committed is there.
			first := 10000 * (round + 1)
			insert := fmt.Sprintf(`for n in $(seq %d %d); do echo "INSERT INTO t VALUES ($n, repeat('x', 100)) RETURNING n;"; done | su postgres -c '/usr/lib/postgresql/15/bin/psql -h /pg -At -q'`, first, first+9999)
			before, committed := count(), 0
			cmd := w.msb("exec", "-q", "server", "--", "bash", "-c", insert)
			stdout, err := cmd.StdoutPipe()
			w.must(err)
			w.must(cmd.Start())
			runner := w.runner("server")
			sentry := descendant(runner, sentryName)
			for lines := bufio.NewScanner(stdout); lines.Scan(); {
				if committed++; committed == 200 {
					w.must(unix.Kill([]int{runner, sentry}[round], unix.SIGKILL))
					_ = unix.Kill([]int{sentry, runner}[round], unix.SIGKILL) // it may have gone with the other
				}
			}
			_ = cmd.Wait()
			w.released("server")
			w.ok("start", "-q", "server")
			w.in("server", "rm -f /pg/data/postmaster.pid; "+up)
			if n := count(); n < before+committed || committed < 200 {
				w.t.Errorf("%d rows were there, %d more were committed, and after the kill there are %d", before, committed, n)
			} else {
				w.t.Logf("%d rows were there, %d more were committed, and after the kill there are %d", before, committed, n)
			}
			if out := w.in("server", pg("psql -h /pg -At -c 'REINDEX TABLE t' -c 'SELECT 1'")); !strings.HasSuffix(out, "1\n") {
				w.t.Errorf("reindex: %q", out)
			}
		}
		installed()
		w.ok("rm", "-f", "-q", "server")
	})
}

// repository is the files of one for apt with that package.
func repository(w *world, deb string) map[string]string {
	w.t.Helper()
	control, err := exec.Command("dpkg-deb", "-f", deb).Output()
	w.must(err)
	body, err := os.ReadFile(deb)
	w.must(err)
	index := fmt.Sprintf("%sFilename: ./package.deb\nSize: %d\nSHA256: %x\n\n", control, len(body), sha256.Sum256(body))
	return map[string]string{"package.deb": string(body), "Packages": index}
}
