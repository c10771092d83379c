package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/testimage"
)

// TestInstall: a sandbox as a command of the host has the host's arguments, input and exit codes, keeps its files, and goes.
func TestInstall(t *testing.T) {
	each(t, func(w *world) {
		w.run("install", "-q", "-n", "box-sh", "-e", "GREETING=it's", "host", "--", "sh", "-c")
		script := filepath.Join(w.top, ".local", "bin", "box-sh")
		cmd := w.command(script, `echo "$GREETING" "$0" "$1"; cat; echo >>/root/n; wc -l </root/n; exit 3`, "a b", "c")
		cmd.Stdin = strings.NewReader("input\n")
		if r := w.finish(cmd); r.code != 3 || r.out != "it's a b c\ninput\n1\n" {
			w.t.Errorf("exit code %d, %q, %q", r.code, r.out, r.err)
		}
		if r := w.finish(w.command(script, "echo >>/root/n; wc -l </root/n")); r.code != 0 || r.out != "2\n" || r.err != "" {
			w.t.Errorf("the second time: exit code %d, %q, %q", r.code, r.out, r.err)
		}
		if r := w.run("install", "-n", "box-sh", "host"); r.code != 1 || !strings.Contains(r.err, "command already exists: box-sh") {
			w.t.Errorf("twice: exit code %d, %q", r.code, r.err)
		}
		if r := w.run("install", "-n", "sh", "host"); r.code != 1 || !strings.Contains(r.err, "command already exists: sh") {
			w.t.Errorf("over a command of the host: exit code %d, %q", r.code, r.err)
		}
		if out := w.ok("install", "-l"); !strings.Contains(out, "box-sh") || !strings.Contains(out, "host") {
			w.t.Errorf("the list: %q", out)
		}
		w.run("install", "-q", "-f", "--tmp", "-n", "box-sh", "host", "--", "sh", "-c")
		for range 2 {
			if r := w.finish(w.command(script, "echo >>/root/n; wc -l </root/n")); r.out != "1\n" {
				w.t.Errorf("with --tmp: exit code %d, %q, %q", r.code, r.out, r.err)
			}
		}
		w.ok("uninstall", "-q", "box-sh")
		if r := w.run("install", "-l"); r.out != "" || w.ok("ls", "-q") != "" {
			w.t.Errorf("after uninstall: %q", r.out)
		}
		if r := w.run("uninstall", "box-sh"); r.code != 1 {
			w.t.Errorf("uninstall of nothing: exit code %d", r.code)
		}
	})
}

// TestConf: files from left to right, and flags over them.
func TestConf(t *testing.T) {
	each(t, func(w *world) {
		a, b := filepath.Join(w.top, "a.yaml"), filepath.Join(w.top, "b.yaml")
		w.write(filepath.Join(w.top, "f"), "from here\n", 0o644)
		w.write(a, `image: host
env: {A: a, B: a, C: a}
workdir: /tmp
mounts: ["./f:/m/f:ro"]
patches: [{text: {path: /etc/patched, content: "yes\n", mode: "0600"}}]
scripts: {hello: "echo script ${WHO}"}
network: none
cmd: [cat, /m/f]
`, 0o644)
		w.write(b, "B: b\n", 0o644)
		runtime := filepath.Join(w.top, "r.yaml")
		w.write(runtime, "env: {B: b, C: b}\n", 0o644)
		w.env = append(w.env, "WHO=me")
		if out := w.ok("run", "--conf", a); out != "from here\n" {
			w.t.Errorf("its own command: %q", out)
		}
		if out := w.ok("run", "--conf", a, "--runtime-conf", runtime, "-e", "C=flag", "--", "sh", "-c", "echo $A$B$C; pwd; cat /etc/patched; stat -c %a /etc/patched; hello"); out != "abflag\n/tmp\nyes\n600\nscript me\n" {
			w.t.Errorf("all together: %q", out)
		}
		if r := w.run("run", "--script-conf", b, "--conf", a, "--env-conf", "x", "--", "true"); r.code != 2 {
			w.t.Errorf("a flag that is not there: %d", r.code)
		}
		private := testimage.Serve(w.t, testimage.Options{Username: "user", Password: "sesame", Bearer: true})
		registry := filepath.Join(w.top, "p.yaml")
		w.write(registry, "image: "+private.Push(w.t, "box", testimage.Busybox(w.t))+"\nregistry: {username: user, password_env: REGISTRY_PASSWORD}\nnetwork: none\n", 0o644)
		if r := w.run("run", "-q", "--conf", registry, "--", "true"); r.code != 1 || !strings.Contains(r.err, "the environment has no variable REGISTRY_PASSWORD") {
			w.t.Errorf("without the password: exit code %d, %q", r.code, r.err)
		}
		w.env = append(w.env, "REGISTRY_PASSWORD=wrong")
		if r := w.run("run", "-q", "--conf", registry, "--", "true"); r.code != 1 || strings.Contains(r.err, "wrong") {
			w.t.Errorf("with a wrong password: exit code %d, %q", r.code, r.err)
		}
		w.env[len(w.env)-1] = "REGISTRY_PASSWORD=sesame"
		if out := w.ok("run", "-q", "--conf", registry, "--", "sh", "-c", "echo pulled; env"); !strings.HasPrefix(out, "pulled\n") || strings.Contains(out, "sesame") {
			w.t.Errorf("with the password: %q", out)
		}
		for file, want := range map[string]string{"image: {snapshot: s}\n": "image.snapshot is not supported yet", "image: {disk: {path: /d}}\n": "image.disk is not supported: it needs a virtual machine"} {
			w.write(registry, file, 0o644)
			if r := w.run("run", "--conf", registry, "--", "true"); r.code != 1 || !strings.Contains(r.err, want) {
				w.t.Errorf("%s: exit code %d, %q", file, r.code, r.err)
			}
		}
		if r := w.run("run", "--conf", b, "--", "true"); r.code != 1 || !strings.Contains(r.err, `b.yaml:1:1: the file has no key "B"`) {
			w.t.Errorf("an unknown key: exit code %d, %q", r.code, r.err)
		}
	})
}
