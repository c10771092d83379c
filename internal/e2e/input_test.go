package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// refused checks that a command failed at once, with that exit code and one line of error, and that it said all the words.
func (w *world) refused(what string, r result, code int, words ...string) {
	w.t.Helper()
	w.errorLine(r)
	if r.code != code || r.out != "" || r.took > 5*time.Second {
		w.t.Errorf("%s: exit code %d (want %d) after %v, stdout %q, stderr:\n%s", what, r.code, code, r.took, clip(r.out), clip(r.err))
	}
	for _, word := range words {
		if !strings.Contains(r.err, word) {
			w.t.Errorf("%s: no %q in:\n%s", what, word, clip(r.err))
		}
	}
}

func TestBadInput(t *testing.T) {
	each(t, func(w *world) {
		for _, c := range []struct {
			what  string
			args  string
			code  int
			words []string
		}{
			{"registry that is not there", "run 127.0.0.1:1/no-such-image:x -- true", 1, []string{"127.0.0.1:1/no-such-image"}},
			{"no name of an image", "run UPPER//case -- true", 1, []string{"UPPER//case"}},
			{"image that is not here", "run --pull never 127.0.0.1:1/no-such-image:x -- true", 1, []string{"127.0.0.1:1/no-such-image"}},
			{"unknown user", "run -u nobody-at-all host -- true", 1, []string{"nobody-at-all"}},
			{"unknown group", "run -u root:no-such-group host -- true", 1, []string{"no-such-group"}},
			{"missing directory", "run -w /no/such/dir host -- true", 1, []string{"/no/such/dir"}},
			{"directory that is none", "run -w /etc/passwd host -- true", 1, []string{"/etc/passwd"}},
			{"unknown flag", "run --no-such-flag host -- true", 2, []string{"--no-such-flag"}},
			{"bad memory", "run -m lots host -- true", 2, []string{"lots"}},
			{"bad CPUs", "run -c 0 host -- true", 2, []string{"0"}},
			{"bad variable", "run -e =x host -- true", 2, []string{"=x"}},
			{"bad limit", "run --rlimit files=1 host -- true", 2, []string{"files"}},
			{"bad duration", "run --timeout soon host -- true", 2, []string{"soon"}},
			{"bad name", "run --name a/b host -- true", 1, []string{"a/b"}},
			{"no image", "run -- true", 2, []string{"image"}},
			{"no command", "run host -- no-such-command", 127, []string{"no-such-command"}},
			{"unknown sandbox", "exec nobody -- true", 1, []string{"sandbox not found", "nobody"}},
			{"unknown command", "frobnicate", 2, []string{"frobnicate"}},
			{"unknown sandbox to inspect", "inspect nobody", 1, []string{"sandbox not found", "nobody"}},
			{"unknown sandbox to stop", "stop nobody", 1, []string{"sandbox not found", "nobody"}},
		} {
			w.refused(c.what, w.run(strings.Fields(c.args)...), c.code, c.words...)
		}
		w.refused("empty command", w.run("run", "host", "--", ""), 1)
		w.background("work")
		w.refused("name that is taken", w.run("run", "-d", "--name", "work", "host"), 1, "sandbox already exists", "work")
		w.refused("sandbox that runs", w.run("rm", "work"), 1, "sandbox still running", "work")
		w.refused("missing directory of exec", w.run("exec", "-w", "/no/such/dir", "work", "--", "true"), 1, "/no/such/dir")
		w.refused("unknown user of exec", w.run("exec", "-u", "nobody-at-all", "work", "--", "true"), 1, "nobody-at-all")
	})
}

func TestFullDisk(t *testing.T) {
	each(t, func(w *world) {
		options := "mode=0755"
		if c := w.credential(); c != nil {
			options += ",uid=12345,gid=12345"
		}
		for _, o := range []string{"size=1m", "nr_inodes=3"} {
			r := w.finish(w.on(stage{Tmpfs: w.home, Options: options + "," + o}, w.msb("run", "host", "--", "true")))
			w.refused("full disk with "+o, r, 1, "no space left on device", "→")
		}
		r := w.finish(w.on(stage{Tmpfs: w.home, Options: options, ReadOnly: true}, w.msb("run", "host", "--", "true")))
		w.refused("read-only disk", r, 1, "read-only file system", "→")
		// The same on a disk that is large enough: it is the disk that was refused.
		r = w.finish(w.on(stage{Tmpfs: w.home, Options: options + ",size=64m"}, w.msb("run", "host", "--", "echo", "hi")))
		if r.code != 0 || r.out != "hi\n" || r.err != "" {
			w.t.Errorf("on a disk of 64 MiB: exit code %d, stdout %q, stderr %q", r.code, r.out, r.err)
		}
	})
}

func TestUnwritableHome(t *testing.T) {
	each(t, func(w *world) {
		homes := []string{}
		if w.user { // for root nothing is unwritable
			dir := filepath.Join(w.top, "r")
			w.mkdir(dir)
			w.must(os.Chmod(dir, 0o555))
			homes = append(homes, dir, filepath.Join(dir, "h"))
		}
		file := filepath.Join(w.top, "file")
		w.write(file, "", 0o644)
		for _, home := range append(homes, file, filepath.Join(file, "h")) {
			w.env = []string{"MSB_HOME=" + home}
			w.refused("home "+home, w.run("run", "host", "--", "true"), 1, home, "→")
		}
		w.env = []string{"MSB_HOME=", "HOME="}
		w.refused("no home at all", w.run("run", "host", "--", "true"), 1, "MSB_HOME")
	})
}

// TestLongHome uses a home whose sockets have paths that are too long for the kernel.
func TestLongHome(t *testing.T) {
	each(t, func(w *world) {
		w.home = filepath.Join(w.top, strings.Repeat("long-", 18), strings.Repeat("longer-", 20))
		w.mkdir(filepath.Dir(w.home))
		w.mkdir(w.home)
		w.check(w.home)
		if out := w.guest("echo", "hi"); out != "hi\n" {
			w.t.Errorf("stdout %q", out)
		}
		w.background("far")
		if out := w.ok("exec", "far", "--", "echo", "there"); out != "there\n" {
			w.t.Errorf("exec: stdout %q", out)
		}
		w.ok("stop", "-q", "far")
	})
}

// TestOddHome uses homes that are relative, behind a link, with a slash at the end and with names that need quoting.
func TestOddHome(t *testing.T) {
	each(t, func(w *world) {
		real := w.home
		w.must(os.Symlink(real, filepath.Join(w.top, "link")))
		odd := filepath.Join(w.top, "a b,c:d=e\"f\\g\nh")
		w.mkdir(odd)
		w.check(odd)
		for _, home := range []string{filepath.Join(w.top, "link"), real + "/", "./" + filepath.Base(real), odd} {
			w.env = []string{"MSB_HOME=" + home}
			cmd := w.msb("run", "host", "--", "echo", "hi")
			cmd.Dir = w.top
			if r := w.finish(cmd); r.code != 0 || r.out != "hi\n" || r.err != "" {
				w.t.Errorf("home %q: exit code %d, stdout %q, stderr %q", home, r.code, r.out, r.err)
			}
		}
	})
}

func TestNoUserNamespaces(t *testing.T) {
	each(t, func(w *world) {
		if !w.user {
			return // root needs none
		}
		r := w.finish(w.on(stage{NoUserNS: true}, w.msb("run", "host", "--", "true")))
		w.refused("no user namespaces", r, 1, "user namespace", "msb doctor")
	})
}

func TestMissingRunner(t *testing.T) {
	each(t, func(w *world) {
		missing := filepath.Join(w.top, "missing")
		w.env = []string{"MSB_RUNNER=" + missing}
		w.refused("MSB_RUNNER names nothing", w.run("run", "host", "--", "true"), 1, "MSB_RUNNER", missing)
		w.env = []string{"MSB_AGENT=" + missing}
		w.refused("MSB_AGENT names nothing", w.run("run", "host", "--", "true"), 1, "MSB_AGENT", missing)
		w.env = nil

		alone := filepath.Join(w.top, "alone", "msb")
		w.mkdir(filepath.Dir(alone))
		b, err := os.ReadFile(filepath.Join(bin, "msb"))
		w.must(err)
		w.write(alone, string(b), 0o755)
		w.refused("msb alone", w.finish(w.command(alone, "run", "host", "--", "true")), 1, "msb-runner", "make build")

		for what, body := range map[string]string{
			"a text":           "this is no program\n",
			"nothing":          "",
			"half a program":   string(b[:len(b)/2]),
			"another program":  string(b),
			"a failing script": "#!/bin/sh\necho oops >&2\nexit 3\n",
			"a silent script":  "#!/bin/sh\nexit 0\n",
		} {
			corrupt := filepath.Join(w.top, "corrupt")
			w.write(corrupt, body, 0o755)
			w.must(os.Chmod(corrupt, 0o755))
			w.env = []string{"MSB_RUNNER=" + corrupt}
			w.refused("a runner that is "+what, w.run("run", "host", "--", "true"), 1)
		}
		corrupt := filepath.Join(w.top, "agent")
		w.write(corrupt, "this is no program\n", 0o755)
		w.env = []string{"MSB_AGENT=" + corrupt}
		w.refused("an agent that is a text", w.run("run", "host", "--", "true"), 1)
	})
}
