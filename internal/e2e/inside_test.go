package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// secretValue must never be found in anything that a sandbox is made of.
const secretValue = "swordfish-5f1c"

// TestKernel finds that the guest's kernel is gVisor's and its machine the one that was asked for.
func TestKernel(t *testing.T) {
	each(t, func(w *world) {
		out := w.ok("run", "-m", "256", "-H", "box", "host", "--", "sh", "-c",
			"cat /proc/version; grep MemTotal /proc/meminfo; hostname; cat /etc/hostname; df -P -k /tmp | tail -1; stat -fc %T /tmp; cat /etc/hosts")
		lines := strings.Split(out, "\n")
		if len(lines) < 8 {
			w.t.Fatalf("stdout %q", out)
		}
		if !strings.Contains(lines[0], "gvisor") {
			w.t.Errorf("/proc/version: %q", lines[0])
		}
		if f := strings.Fields(lines[1]); f[1] != fmt.Sprint(256*1024) {
			w.t.Errorf("memory in the guest: %q, want 256 MiB", lines[1])
		}
		if lines[2] != "box" || lines[3] != "box" {
			w.t.Errorf("host name %q, in /etc/hostname %q", lines[2], lines[3])
		}
		if f := strings.Fields(lines[4]); f[1] != fmt.Sprint(64*1024) || lines[5] != "tmpfs" {
			w.t.Errorf("/tmp is %q of %q, want a tmpfs of a quarter of the memory", lines[5], lines[4])
		}
		hosts := strings.Join(lines[6:], "\n")
		for _, want := range []string{"127.0.0.1\tlocalhost", "::1\tlocalhost", "\tbox\n", "\thost.microsandbox.internal\n"} {
			if !strings.Contains(hosts, want) {
				w.t.Errorf("/etc/hosts has no %q:\n%s", want, hosts)
			}
		}
	})
}

// TestHostIsInvisible leaves marks on the host, of each kind that a sandbox must not see, and looks for them in a guest.
func TestHostIsInvisible(t *testing.T) {
	each(t, func(w *world) {
		const mark = "12345.67891" // a number of seconds that nobody else sleeps
		sleeper := w.command("/bin/sleep", mark)
		w.must(sleeper.Start())
		defer func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() }()
		file := filepath.Join(w.top, "marker")
		w.write(file, "mark", 0o644)
		listener, err := net.Listen("unix", filepath.Join(w.top, "socket"))
		w.must(err)
		defer listener.Close()
		w.must(os.Chmod(filepath.Join(w.top, "socket"), 0o777))

		w.env = []string{"SECRET_TOKEN=" + secretValue}
		out := w.guest("sh", "-c", `
for p in /proc/[0-9]*; do head -c 60 $p/cmdline | tr '\0\n' '  '; echo; done
echo =''= processes
cat /proc/net/unix
echo =''= sockets
env
echo =''= env
for f in `+strings.Join([]string{file, w.top, w.home, listener.Addr().String(), "/var/lib/dpkg", "/var/log/dpkg.log", "/etc/shadow",
			"/etc/ssh", "/etc/machine-id", "/run/systemd", "/proc/1/root" + w.top, "/dev/kvm", "/dev/mem",
			"/dev/vda", "/dev/sda", "/dev/kmsg", "/sys/fs/cgroup/memory/msb"}, " ")+`; do test -e $f && echo $f; done
echo =''= files
ls -A /home /root /opt /srv /mnt /media /tmp
echo =''= empty
`)
		section := func(name string) string {
			before, after, ok := strings.Cut(out, "== "+name+"\n")
			if !ok {
				w.t.Fatalf("no %s in %q", name, out)
			}
			out = after
			return before
		}
		if s := section("processes"); strings.Contains(s, mark) || strings.Count(s, "\n") > 8 {
			w.t.Errorf("processes in the guest:\n%s", s)
		}
		if s := section("sockets"); strings.Contains(s, "/tmp") || strings.Contains(s, "agent.sock") {
			w.t.Errorf("sockets in the guest:\n%s", s)
		}
		s := section("env")
		for _, kv := range strings.Fields(s) {
			if key, _, _ := strings.Cut(kv, "="); !slices.Contains([]string{"HOME", "PATH", "PWD", "OLDPWD", "SHLVL", "_"}, key) {
				w.t.Errorf("%s in the guest's environment", kv)
			}
		}
		if s := section("files"); s != "" {
			w.t.Errorf("of the host's files there are in the guest:\n%s", s)
		}
		if s := section("empty"); s != "/home:\n\n/media:\n\n/mnt:\n\n/opt:\n\n/root:\n\n/srv:\n\n/tmp:\n" {
			w.t.Errorf("directories that must be empty:\n%s", s)
		}
	})
}

// TestRootIsWritable changes a guest's root and finds nothing of it anywhere afterwards.
func TestRootIsWritable(t *testing.T) {
	each(t, func(w *world) {
		const name = "/msb-e2e-written"
		if out := w.guest("sh", "-c", "echo here > "+name+" && mkdir /etc/new /var/new && echo x >> /etc/passwd && rm /etc/hosts && mv /srv /srv2 && cat "+name); out != "here\n" {
			w.t.Errorf("stdout %q", out)
		}
		out := w.guest("sh", "-c", "ls "+name+" /etc/new /var/new /srv2 2>&1 | grep -c 'No such file'; tail -1 /etc/passwd; ls -d /etc/hosts /srv")
		if lines := strings.Split(out, "\n"); lines[0] != "4" || lines[1] == "x" || !strings.HasSuffix(out, "/etc/hosts\n/srv\n") {
			w.t.Errorf("in the next sandbox: %q", out)
		}
		if _, err := os.Lstat(name); err == nil {
			w.t.Errorf("%s is on the host", name)
		}
		for _, p := range []string{"/usr/msb-e2e", "/bin/msb-e2e", "/usr/bin/sh", "/lib/msb-e2e"} {
			for _, c := range []string{"touch %[1]s", "rm -f %[1]s; test ! -e %[1]s -a -e /usr/bin/sh", "mount -o remount,rw /usr && touch %[1]s"} {
				if strings.HasPrefix(c, "rm") && p != "/usr/bin/sh" {
					continue
				}
				if r := w.run("run", "host", "--", "bash", "-c", fmt.Sprintf(c, p)); r.code == 0 {
					w.t.Errorf("%s: exit code %d, stderr %q", fmt.Sprintf(c, p), r.code, r.err)
				}
			}
			if _, err := os.Lstat(p); (err == nil) != (p == "/usr/bin/sh") {
				w.t.Fatalf("the host's %s is not as it was: %v", p, err)
			}
		}
		r := w.run("run", "host", "--", "touch", "/usr/x")
		if r.code != 1 || !strings.Contains(r.err, "Read-only file system") {
			w.t.Errorf("touch: exit code %d, stderr %q", r.code, r.err)
		}
	})
}

func TestUsers(t *testing.T) {
	each(t, func(w *world) {
		for _, c := range []struct{ user, want string }{
			{"", "0 0 0 /root"},
			{"root", "0 0 0 /root"},
			{"nobody", "65534 65534 65534 /nonexistent"},
			{"1000:1000", "1000 1000 1000 "},
			{"4242", "4242 0 0 "},
			{"daemon:sys", "1 3 3 /usr/sbin"},
		} {
			args := []string{"run"}
			if c.user != "" {
				args = append(args, "-u", c.user)
			}
			out := w.ok(append(args, "host", "--", "sh", "-c", `echo $(id -u) $(id -g) $(id -G) "$HOME"`)...)
			// An unknown user's home is for the shell to say.
			if !strings.HasPrefix(out, c.want) {
				w.t.Errorf("user %q is %q, want %q", c.user, out, c.want)
			}
		}
		out := w.ok("run", "-u", "1000", "host", "--", "sh", "-c", "touch /x 2>&1; touch /tmp/x && stat -c %u /tmp/x")
		if out != "touch: cannot touch '/x': Permission denied\n1000\n" {
			w.t.Errorf("as an ordinary user of the guest: %q", out)
		}
	})
}

// inside are programs for the guest, each of which prints ok at its end.
var inside = map[string]string{
	"setuid": `cp /usr/bin/id /id && chmod 4755 /id && test "$(setpriv --reuid 1000 --regid 1000 --clear-groups /id -u)" = 0 &&
		test "$(setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs /id -u)" = 1000`,
	"chown": `touch /f && chown 1234:4321 /f && chmod 2640 /f && test "$(stat -c '%u %g %a' /f)" = "1234 4321 2640"`,
	"mknod": `mknod /null c 1 3 && echo x > /null && test ! -s /null && python3 -c '
import os
d = os.stat("/null").st_rdev; assert (os.major(d), os.minor(d)) == (1, 3)'`,
	"mkfifo":  `mkfifo /p && { echo through > /p & } && test "$(cat /p)" = through`,
	"symlink": `ln -s /etc /l && test "$(readlink /l)" = /etc && test -d /l && ln -s loop /loop && ! cat /loop 2>/dev/null`,
	"hard link": `echo a > /a && ln /a /b && echo b >> /b && test "$(stat -c %h /a)" = 2 && test "$(cat /a)" = "a
b"`,
	"unix sockets": `python3 -c '
import os, socket, threading
for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
    s = socket.socket(socket.AF_UNIX, kind); s.bind("/s%d" % kind); s.listen()
    c = socket.socket(socket.AF_UNIX, kind); c.connect("/s%d" % kind)
    a, _ = s.accept(); r, w = os.pipe()
    socket.send_fds(c, [b"hello"], [w]); m, fds, _, _ = socket.recv_fds(a, 10, 1)
    assert m == b"hello"; os.write(fds[0], b"x"); assert os.read(r, 1) == b"x"
'`,
	"shared memory": `test "$(stat -fc %T /dev/shm)" = tmpfs && test "$(stat -c %a /dev/shm)" = 1777 && python3 -c '
from multiprocessing import shared_memory, Process
s = shared_memory.SharedMemory(create=True, size=1 << 20)
def child(n): c = shared_memory.SharedMemory(n); c.buf[7] = 42; c.close()
p = Process(target=child, args=(s.name,)); p.start(); p.join()
assert s.buf[7] == 42; s.close(); s.unlink()'`,
	"devices": `for d in null zero full random urandom tty ptmx; do test -c /dev/$d || exit 1; done; head -c 4096 /dev/urandom | wc -c | grep -q 4096 &&
		test -L /dev/fd && test -L /dev/stdin && test -d /dev/pts && ! echo x > /dev/full`,
	"proc":       `test $$ -lt 100 && test "$(cat /proc/self/comm)" = cat && test -r /proc/self/maps && grep -q processor /proc/cpuinfo && test -d /proc/self/fd`,
	"namespaces": `unshare -m -p -f --mount-proc sh -c 'test $$ = 1 && test $(ls -d /proc/[0-9]* | wc -l) -le 4'`,
	"mount":      `mkdir /m && mount -t tmpfs -o size=1m tmpfs /m && head -c 2000000 /dev/zero > /m/x 2>/dev/null; test $(stat -c %s /m/x) -le 1048576 && umount /m && test ! -e /m/x`,
	"loopback": `python3 -c '
import socket
for family, addr in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    s = socket.socket(family); s.bind((addr, 0)); s.listen(); c = socket.create_connection(s.getsockname()[:2], 5)
    a, _ = s.accept(); c.sendall(b"hi"); assert a.recv(2) == b"hi"'`,
	"locks and inotify": `python3 -c '
import ctypes, fcntl, os, select
f = open("/lock", "w"); fcntl.flock(f, fcntl.LOCK_EX)
if os.fork() == 0:
    try: fcntl.flock(open("/lock", "w"), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError: os._exit(0)
    os._exit(1)
assert os.wait()[1] == 0
l = ctypes.CDLL(None); n = l.inotify_init1(0); os.mkdir("/watched"); l.inotify_add_watch(n, b"/watched", 0x100)
open("/watched/new", "w"); assert b"new" in os.read(n, 4096)'`,
}

// TestInside uses a guest's kernel from many sides.
func TestInside(t *testing.T) {
	each(t, func(w *world) {
		w.background("guest")
		for what, script := range inside {
			r := w.run("exec", "guest", "--", "sh", "-c", script+" && echo ok")
			if r.code != 0 || !strings.HasSuffix(r.out, "ok\n") {
				w.t.Errorf("%s: exit code %d, stdout %q, stderr %q", what, r.code, clip(r.out), clip(r.err))
			}
		}
		r := w.run("exec", "-e", "COLOUR=blue", "-e", "EMPTY=", "-w", "/usr/share", "guest", "--", "sh", "-c", `echo "$COLOUR" "${EMPTY-unset}" "$(pwd)"`)
		if r.out != "blue  /usr/share\n" {
			w.t.Errorf("env and cwd: exit code %d, stdout %q, stderr %q", r.code, r.out, r.err)
		}
	})
}

// TestConfinement looks at the processes of a sandbox from the host.
func TestConfinement(t *testing.T) {
	each(t, func(w *world) {
		w.env = []string{"SECRET_TOKEN=" + secretValue}
		w.background("box", "-e", "GUEST_TOKEN="+secretValue+"-guest")
		runner := w.runner("box")
		below := descendants(runner)
		for _, pid := range append(below, runner) {
			for _, file := range []string{"environ", "cmdline"} {
				b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
				if err != nil {
					w.t.Errorf("%s of %s: %v", file, argv(pid)[0], err)
				}
				if strings.Contains(string(b), "swordfish") || strings.Contains(string(b), "MSB_") {
					w.t.Errorf("the %s of %s holds what is not its business: %q", file, argv(pid)[0], b)
				}
			}
			if fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)); argv(pid)[0] == sentryName {
				for _, fd := range fds {
					if target, _ := os.Readlink(fd); strings.HasPrefix(target, "/") && !strings.HasPrefix(target, "/memfd:") && !known(target) {
						w.t.Errorf("the sentry has %s open", target)
					}
				}
			}
		}
		host, _ := os.Readlink("/proc/self/ns/user")
		for _, name := range []string{sentryName, goferName} {
			pid := descendant(runner, name)
			if pid == 0 {
				w.t.Fatalf("there is no %s", name)
			}
			caps, uid := status(pid, "CapEff"), strings.Fields(status(pid, "Uid"))[1]
			userNS, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", pid))
			w.t.Logf("%s: uid %s, CapEff %s, CapBnd %s, own user namespace: %v", name, uid, caps, status(pid, "CapBnd"), userNS != host)
			if status(pid, "Seccomp") != "2" || status(pid, "NoNewPrivs") != "1" {
				w.t.Errorf("%s: Seccomp %s, NoNewPrivs %s", name, status(pid, "Seccomp"), status(pid, "NoNewPrivs"))
			}
			if name == sentryName && userNS == host && (uid == "0" || caps != "0000000000000000") {
				w.t.Errorf("the sentry is uid %s of the host with capabilities %s", uid, caps)
			}
			// What it could see of the host's files, if it were taken over.
			entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", pid))
			w.must(err)
			for _, e := range entries {
				n := e.Name()
				programs := n == "usr" || n == "bin" || n == "sbin" || strings.HasPrefix(n, "lib")
				if name == goferName && n == "dev" {
					w.disksOnly(fmt.Sprintf("/proc/%d/root/dev", pid))
				} else if name == goferName && !programs || name == sentryName && n != "proc" && n != "etc" {
					w.t.Errorf("the root of %s has %s", name, n)
				}
			}
			for _, ns := range []string{"mnt", "net", "ipc", "pid", "uts"} {
				theirs, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
				ours, _ := os.Readlink("/proc/self/ns/" + ns)
				if theirs == ours && (name == sentryName || ns == "mnt" || ns == "net") {
					w.t.Errorf("%s is in the host's %s namespace", name, ns)
				}
			}
		}
		// What the runner needs for the start it gives up then.
		frugal := until(5*time.Second, func() bool {
			return capabilities(runner)&(1<<unix.CAP_SYS_ADMIN|1<<unix.CAP_SYS_PTRACE|1<<unix.CAP_SETUID) == 0
		})
		w.t.Logf("runner: uid %s, CapEff %s, NoNewPrivs %s", strings.Fields(status(runner, "Uid"))[1], status(runner, "CapEff"), status(runner, "NoNewPrivs"))
		if !frugal || status(runner, "NoNewPrivs") != "1" {
			w.t.Error("the runner keeps its privileges")
		}
		st, err := os.Stat(filepath.Join(w.runDir("box"), "agent.sock"))
		w.must(err)
		if st.Mode().Perm() != 0o600 {
			w.t.Errorf("agent.sock has mode %v", st.Mode())
		}
		if st, err = os.Stat(w.runDir("box")); err != nil || st.Mode().Perm() != 0o700 {
			w.t.Errorf("the run directory has mode %v, %v", st.Mode(), err)
		}
	})
}

// disksOnly fails the test when there is anything in a gofer's /dev but the place of the sandbox's disk.
func (w *world) disksOnly(dev string) {
	w.t.Helper()
	for dir, only := range map[string]string{dev: ".msb", dev + "/.msb": "upper"} {
		entries, err := os.ReadDir(dir)
		w.must(err)
		if len(entries) != 1 || entries[0].Name() != only {
			w.t.Errorf("%s holds %v", dir, entries)
		}
	}
}

// capabilities are the effective ones of a process.
func capabilities(pid int) (caps uint64) {
	caps, _ = strconv.ParseUint(status(pid, "CapEff"), 16, 64)
	return caps
}

// known are files of the host that the sentry may have open: images, read-only, and nothing.
func known(path string) bool { return strings.HasSuffix(path, ".erofs") || path == os.DevNull }
