package cli

import (
	"bufio"
	"cmp"
	"context"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// treeFile lists the commands, arguments and flags of the msb that we are to be like.
const treeFile = "testdata/tree-0.6.18.txt"

// theirs is a command of treeFile.
type theirs struct {
	path    string // without "msb "
	aliases []string
	args    []string
	flags   []theirFlag
}

type theirFlag struct {
	short, name string
	value       bool
}

func readTree(t *testing.T) []theirs {
	t.Helper()
	f, err := os.Open(treeFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []theirs
	for in := bufio.NewScanner(f); in.Scan(); {
		line := in.Text()
		switch {
		case strings.HasPrefix(line, "#"):
		case !strings.HasPrefix(line, " "):
			path, aliases, _ := strings.Cut(strings.TrimSuffix(line, ")"), " (")
			c := theirs{path: strings.TrimPrefix(strings.TrimPrefix(path, "msb"), " ")}
			if aliases != "" {
				c.aliases = strings.Split(aliases, ", ")
			}
			all = append(all, c)
		default:
			c := &all[len(all)-1]
			words := strings.Fields(line)
			if !strings.HasPrefix(words[0], "-") {
				c.args = append(c.args, strings.TrimSpace(line))
				continue
			}
			f := theirFlag{value: words[len(words)-1] == "<VALUE>"}
			for _, w := range words {
				if name, long := strings.CutPrefix(w, "--"); long {
					f.name = name
				} else if short, ok := strings.CutPrefix(w, "-"); ok {
					f.short = short
				}
			}
			c.flags = append(c.flags, f)
		}
	}
	if len(all) < 60 {
		t.Fatalf("%s has only %d commands", treeFile, len(all))
	}
	return all
}

// TestTreeShape compares names: every command, argument and flag is there, with the same letter, and has a value or has not.
func TestTreeShape(t *testing.T) {
	root := (&app{}).root(nil)
	for _, want := range readTree(t) {
		c, rest, err := root.Find(strings.Fields(want.path))
		if err != nil || len(rest) > 0 {
			t.Errorf("there is no msb %s", want.path)
			continue
		}
		if c.Hidden {
			t.Errorf("msb %s is hidden", want.path)
		}
		for _, alias := range want.aliases {
			if !slices.Contains(c.Aliases, alias) {
				t.Errorf("msb %s has the aliases %q, want %s", want.path, c.Aliases, alias)
			}
		}
		compareArgs(t, c, want)
		for _, f := range want.flags {
			have := lookup(c, f.name)
			switch {
			case have == nil:
				t.Errorf("msb %s has no --%s", want.path, f.name)
			case have.Hidden:
				t.Errorf("msb %s hides --%s", want.path, f.name)
			case have.Shorthand != f.short:
				t.Errorf("msb %s --%s has the letter %q, want %q", want.path, f.name, have.Shorthand, f.short)
			case (have.NoOptDefVal == "") != f.value:
				t.Errorf("msb %s --%s takes a value: %v, want %v", want.path, f.name, have.NoOptDefVal == "", f.value)
			}
		}
		if c.Short == "" || c.Example == "" && c.Long == "" && !c.HasSubCommands() && c.HasParent() && c.Parent() == root {
			t.Errorf("msb %s has no help, or no example", want.path)
		}
	}
}

func lookup(c *cobra.Command, name string) *pflag.Flag {
	if f := c.Flags().Lookup(name); f != nil {
		return f
	}
	return c.Root().PersistentFlags().Lookup(name)
}

// compareArgs compares which arguments are needed and which follow "--"; what they are called in help is ours.
func compareArgs(t *testing.T, c *cobra.Command, want theirs) {
	t.Helper()
	form := func(name string) string {
		if strings.HasPrefix(name, "[-- ") {
			return "[--]"
		}
		return name[:1]
	}
	have := each(positionals(c), func(p positional) string { return form(p.name) })
	if wanted := each(want.args, form); !slices.Equal(have, wanted) {
		t.Errorf("msb %s has the arguments %q, want %q", want.path, each(positionals(c), func(p positional) string { return p.name }), want.args)
	}
}

// The command lines below are run against a backend that notes what is asked of it. Those of base work as they are; what is
// in values is what a flag is given where that is not "1". A key is a flag, or a command and a flag. ARGS of a command line that
// has what follows "--" come before that.
var (
	base = map[string]string{
		"": "", "context": "context", "run": "run host -- true", "create": "create host", "start": "start s", "stop": "stop s", "restart": "restart s",
		"list": "list", "status": "status", "remove": "remove s", "exec": "exec s -- true", "copy": "copy FILE s:/x", "inspect": "inspect s",
		"image pull": "image pull x", "image list": "image list", "image inspect": "image inspect x", "image load": "image load -i FILE", "image save": "image save x",
		"image remove": "image remove x", "image prune": "image prune -y", "pull": "pull x", "load": "load -i FILE", "save": "save x",
		"registry login": "registry login --username u --password-stdin r", "registry logout": "registry logout r", "registry list": "registry list",
		"modify": "modify s --env B=2", "ping": "ping s", "touch": "touch s", "metrics": "metrics", "logs": "logs s", "volume create": "volume create v",
		"volume list": "volume list", "volume inspect": "volume inspect v", "volume remove": "volume remove v",
		"doctor": "doctor", "self doctor": "self doctor", "completion": "completion bash",
		"ssh": "ssh s -- true", "ssh connect": "ssh connect s -- true", "ssh serve": "ssh serve s --stdio", "ssh authorize": "ssh authorize",
		"install": "install someimage", "uninstall": "uninstall gone",
	}
	values = map[string]string{
		"format": "json", "from-snapshot": "x", "exec --timeout": "1ms", "run --timeout": "1ms", "rlimit": "nofile=64",
		"name": "x", "cpus": "2", "max-cpus": "4", "cpu-placement": "spread", "memory": "256M", "max-memory": "4G", "thp": "never",
		"volume": "DIR:/m", "mount-dir": "DIR:/m", "mount-file": "FILE:/m", "mount-disk": "./d.raw:/m", "mount-named": "v:/m",
		"workdir": "/w", "shell": "/bin/zsh", "env": "A=1", "label": "k=v", "replace-with-timeout": "3s", "tmpfs": "/t", "security": "restricted",
		"deployment-profile": "multi-tenant", "script": "a=b", "script-raw": "a=#!/bin/sh", "script-path": "a:FILE", "copy": "FILE:/m", "copy-file": "FILE:/m",
		"copy-dir": "DIR:/m", "mkdir": "/m", "rm": "/m", "entrypoint": "/bin/e", "init": "auto", "init-env": "A=1", "hostname": "h", "user": "nobody",
		"pull": "always", "root-disk": "tmpfs:64M", "log-level": "debug", "max-duration": "1h", "idle-timeout": "1h", "vsock": "/s:5000", "port": "8080:80",
		"net": "private", "dns-nameserver": "192.0.2.1", "net-ipv4-pool": "10.9.0.0/16", "net-ipv6-pool": "fd00:1::/48", "net-rule": "deny@10.0.0.0/8",
		"net-default": "deny", "net-default-egress": "allow", "net-default-ingress": "deny", "net-egress-bandwidth": "1M/1s",
		"net-egress-bandwidth-burst": "512K", "net-egress-ops": "1000/1s", "net-ingress-bandwidth": "1M/1s", "net-ingress-bandwidth-burst": "512K",
		"net-ingress-ops": "1000/1s", "proxy": "socks5://192.0.2.1:1080", "socks4-user-id": "u", "socks5-username": "u", "socks5-password-env": "SECRET",
		"tls-intercept-port": "8443", "tls-bypass": "*.example.com", "tls-intercept-ca-cert": "FILE", "tls-intercept-ca-key": "FILE", "tls-upstream-ca-cert": "FILE",
		"tls-upstream-ca-cert-for": "*.example.com=FILE", "tls-no-verify-upstream-for": "*.example.com", "secret": "SECRET@example.com",
		"on-secret-violation": "block", "ca-certs": "FILE", "materialize": "layered", "input": "FILE", "output": "OUT", "tag": "t", "username": "v",
		"env-rm": "K", "label-rm": "k", "modify --root-disk": "8G", "modify --secret": "SECRET@example.com", "modify --secret-rm": "SECRET",
		"sort": "cpu", "since": "2026-01-02T03:04:05Z", "until": "2026-01-02T03:04:05Z", "source": "stderr", "grep": "nothing", "color": "always",
		"volume create --name": "w", "kind": "disk", "volume create --size": "1G", "image save --format": "oci", "save --format": "oci", "stop --timeout": "3", "restart --timeout": "3", "conf": "FILE", "net-conf": "FILE", "resource-conf": "FILE",
		"inactivity-timeout": "1m", "file": "FILE", "key": "x", "runtime-conf": "FILE", "fs-conf": "FILE", "secret-conf": "FILE", "script-conf": "FILE",
	}
	// with is what a flag needs beside it, also for the comparison.
	with = map[string]string{
		"replace": "--name s", "replace-with-timeout": "--name s", "run --detach": "--name x",
		"deployment-profile": "--max-connections 300 --dns-nameserver 192.0.2.1", "security": "--tmpfs /t",
		"net-egress-bandwidth-burst": "--net-egress-bandwidth 1M", "net-egress-ops-burst": "--net-egress-ops 10",
		"net-ingress-bandwidth-burst": "--net-ingress-bandwidth 1M", "net-ingress-ops-burst": "--net-ingress-ops 10",
		"socks4-user-id": "--proxy socks4://192.0.2.1:1080", "socks5-username": "--proxy socks5://192.0.2.1:1080 --socks5-password-env SECRET",
		"socks5-password-env": "--proxy socks5://192.0.2.1:1080 --socks5-username u",
		"tls-intercept-port":  "--tls-intercept", "tls-bypass": "--tls-intercept", "no-block-quic": "--tls-intercept",
		"tls-intercept-ca-cert": "--tls-intercept --tls-intercept-ca-key FILE", "tls-intercept-ca-key": "--tls-intercept --tls-intercept-ca-cert FILE",
		"init-arg": "--init /sbin/init", "init-env": "--init /sbin/init",
		"tls-upstream-ca-cert": "--tls-intercept", "tls-upstream-ca-cert-for": "--tls-intercept", "tls-no-verify-upstream-for": "--tls-intercept",
		"no-color": "--color always", "on-secret-violation": "--secret SECRET@example.com",
		// What is no terminal has no use for these: they are seen to be there by what they exclude, and cmd/msb tries them on one.
		"no-tty": "--tty", "stream": "--tty",
	}
	// instead is another command line to try a flag on.
	instead = map[string]string{
		"exec --quiet": "exec s", "exec --timeout": "exec s -- hang", "run --timeout": "run host -- hang", "registry login --username": "registry login --password-stdin r",
		"image load --input": "image load", "load --input": "load", "image prune --yes": "image prune", "registry login --password-stdin": "registry login --username u r",
		"metrics --watch": "metrics s", "metrics --follow": "metrics s", "ping --label": "ping", "touch --label": "touch", "volume create --name": "volume create",
		"image list --quiet": "image list", "start --label": "start", "stop --label": "stop", "restart --label": "restart", "remove --label": "remove",
		"ssh --name": "ssh -- true", "ssh connect --name": "ssh connect -- true",
	}
	// told is what a flag has printed where nothing is there to compare with.
	told = map[string]string{"exec --timeout": "exec timed out after 1ms", "run --timeout": "exec timed out after 1ms"}
	// provenBy are flags whose effect is seen elsewhere.
	provenBy = map[string]string{
		" --error": "TestLogLevels", " --warn": "TestLogLevels", " --info": "TestLogLevels", " --debug": "TestLogLevels", " --trace": "TestLogLevels",
		"run --detach-keys":  "cmd/msb TestTerminal",
		"metrics --interval": "TestMetricsInterval",
		"ssh serve --host":   "microsandbox TestOpenSSH", "ssh serve --port": "microsandbox TestOpenSSH", "ssh serve --stdio": "microsandbox TestOpenSSH",
		"ssh serve --inactivity-timeout": "TestInactivityFlags", "ssh serve --no-inactivity-timeout": "TestInactivityFlags",
		"doctor --yes": "nothing is ever asked", "self doctor --yes": "nothing is ever asked",
	}
)

// TestTreeEffects gives every command every one of its flags: each changes what is done or said, or is refused by name with a
// reason and a hint. None is ignored.
func TestTreeEffects(t *testing.T) {
	used := map[string]bool{}
	find := func(table map[string]string, path, flag string) (string, bool) {
		for _, key := range []string{path + " --" + flag, flag} {
			if v, ok := table[key]; ok {
				used[key] = true
				return v, true
			}
		}
		return "", false
	}
	refused := 0
	for _, c := range readTree(t) {
		for _, f := range c.flags {
			key := c.path + " --" + f.name
			t.Run(strings.TrimSpace(key), func(t *testing.T) {
				if where, ok := provenBy[key]; ok {
					t.Log("see " + where)
					return
				}
				line, known := instead[key]
				if !known {
					line, known = base[c.path]
				}
				if !known { // it is refused as a whole
					line = c.path + strings.Repeat(" x", needed(c.args))
				}
				extra, _ := find(with, c.path, f.name)
				given := "--" + f.name
				if f.value {
					v, ok := find(values, c.path, f.name)
					if !ok {
						v = "1"
					}
					given += " " + v
				}
				var without outcome
				if told[key] == "" {
					without = play(t, insert(line, extra))
					if needs, _, _ := strings.Cut(extra, " "); needs != "" && without.refuses(needs) { // what it needs beside it is not there
						extra, without = "", play(t, line)
					}
				}
				got := play(t, insert(line, extra+" "+given))
				if !known {
					if !got.refuses("msb " + c.path) {
						t.Errorf("it is neither there nor refused:\n%s", got)
					}
					refused++
					return
				}
				switch want := told[key]; {
				case got.refuses("--" + f.name):
					refused++
				case got.code == exitUsage && !strings.Contains(got.stderr, "--"+f.name):
					t.Errorf("the command line is wrong:\n%s", got)
				case want != "":
					if !strings.Contains(got.stderr, want) {
						t.Errorf("it does not say %q:\n%s", want, got)
					}
				case got.code == exitUsage && without.code != exitUsage && !slices.Contains([]string{"no-tty", "stream"}, f.name):
					t.Errorf("it is not understood:\n%s", got)
				case got.String() == without.String():
					t.Errorf("it changes nothing:\n%s", got)
				}
			})
		}
	}
	t.Logf("%d flags are refused", refused)
	for _, table := range []map[string]string{values, with} {
		for key := range table {
			if !used[key] {
				t.Errorf("nothing is tried with the entry %q", key)
			}
		}
	}
}

// needed is how many arguments are needed.
func needed(args []string) (n int) {
	for _, a := range args {
		if a[0] == '<' {
			n++
		}
	}
	return n
}

// insert puts flags before "--".
func insert(line, flags string) string {
	before, after, dash := strings.Cut(line, " -- ")
	line = strings.TrimSpace(before + " " + strings.TrimSpace(flags))
	if dash {
		line += " -- " + after
	}
	return line
}

// outcome is all that is seen of a command.
type outcome struct {
	line           string
	stdout, stderr string
	asked          []string // of the backend and the guest
	code           int
}

// made is what differs between runs: names that were made up, and times.
var made = regexp.MustCompile(`(msb|vol)-[0-9a-f]{8}|\([0-9.]+[µm]?s\)`)

func (o outcome) String() string {
	return made.ReplaceAllString(cmp.Or(strings.Join(o.asked, "\n"), "nothing is asked")+"\nstdout: "+o.stdout+"\nstderr: "+o.stderr+"\ncode: "+string(rune('0'+o.code%10)), "NAME")
}

// refuses reports whether the command was refused in an error that begins with those words, with a reason and a hint, and did
// nothing else.
func (o outcome) refuses(words string) bool {
	first, rest, _ := strings.Cut(o.stderr, "\n")
	before, why, named := strings.Cut(first, " not supported")
	return o.code == exitError && o.stdout == "" && len(o.asked) == 0 && named && strings.HasPrefix(before, "error: "+words+" ") && len(why) > 10 &&
		strings.HasPrefix(rest, "  → ") && len(rest) > 12
}

// play runs a command line.
func play(t *testing.T, line string) outcome {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"FILE", "stdin"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("MSB_HOME", filepath.Join(dir, "home"))
	for _, name := range []string{"MSB_CONFIG_PATH", "OCI_REGISTRY_DOMAIN", "MSB_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("MSB_BACKEND", "local")
	t.Setenv("HOME", dir)
	programs := filepath.Join(dir, ".local", "bin")
	if err := os.MkdirAll(programs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(programs, "gone"), []byte("#!/bin/sh\n"+aliasMark+"gone\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SECRET", "s")
	line = regexp.MustCompile(`\b(FILE|OUT)\b`).ReplaceAllString(line, "./$1")
	line = regexp.MustCompile(`\bDIR\b`).ReplaceAllString(line, "./sub")
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	var files [3]*os.File
	for i, name := range []string{"stdin", "stdout", "stderr"} {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	notes := &notes{}
	o := outcome{line: line}
	o.code = Main(Env{Stdin: files[0], Stdout: files[1], Stderr: files[2], Backend: notes.backend(t)}, strings.Fields(line))
	stdout, err := os.ReadFile("stdout")
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := os.ReadFile("stderr")
	if err != nil {
		t.Fatal(err)
	}
	o.stdout, o.stderr, o.asked = string(stdout), strings.ReplaceAll(string(stderr), dir, "DIR"), notes.all()
	for i := range o.asked {
		o.asked[i] = strings.ReplaceAll(o.asked[i], dir, "DIR")
	}
	made, err := os.ReadDir(programs)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range made {
		text, err := os.ReadFile(filepath.Join(programs, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if f.Name() != "gone" {
			o.asked = append(o.asked, "installed "+f.Name()+": "+strings.ReplaceAll(string(text), dir, "DIR"))
		}
	}
	if written, err := os.ReadFile("OUT"); err == nil {
		o.asked = append(o.asked, "wrote "+string(written))
	}
	return o
}

// TestBase sees to it that the command lines do what the flags are to change.
func TestBase(t *testing.T) {
	for _, path := range slices.Sorted(maps.Keys(base)) {
		if o := play(t, base[path]); o.code != 0 && !strings.HasSuffix(path, "doctor") && path != "ssh authorize" { // which needs one of its flags
			t.Errorf("msb %s:\n%s", base[path], o)
		}
	}
}

// TestLogLevels: what the flags for diagnostics show is up to what happens; they differ in what they let through.
func TestLogLevels(t *testing.T) {
	var levels []string
	for _, flag := range []string{"", "--error", "--warn", "--info", "--debug", "--trace"} {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		a := &app{out: null, err: null}
		args := strings.Fields(flag + " version")
		root := a.root(args)
		root.SetArgs(args)
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
		level := "off"
		if a.level.on {
			level = a.level.level.String()
		}
		levels = append(levels, level)
	}
	if got, want := strings.Join(levels, " "), "off ERROR WARN INFO DEBUG DEBUG-4"; got != want {
		t.Errorf("levels %s, want %s", got, want)
	}
}

// TestMetricsInterval: the flag says how long it is between two looks, and is refused where there is only one.
func TestMetricsInterval(t *testing.T) {
	if o := play(t, "metrics --interval 1s"); o.code != exitUsage || !strings.Contains(o.stderr, "--interval needs --watch or --follow") {
		t.Errorf("without a use for it:\n%s", o)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	synctest.Test(t, func(t *testing.T) {
		var looks []time.Time
		a := &app{out: null, err: null}
		err := a.metrics(t.Context(), &metricsFlags{follow: true, interval: 7 * time.Second}, true, func(context.Context) ([]sandbox.Metrics, error) {
			looks = append(looks, time.Now())
			state := sandbox.MetricsRunning
			if len(looks) == 3 {
				state = sandbox.MetricsExited
			}
			return []sandbox.Metrics{{State: state}}, nil
		})
		if err != nil || len(looks) != 3 || looks[2].Sub(looks[0]) != 14*time.Second {
			t.Errorf("looked at %v: %v", looks, err)
		}
	})
}
