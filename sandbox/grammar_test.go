package sandbox

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"0": 0, "5": 5 * time.Second, "30s": 30 * time.Second, "5m": 5 * time.Minute, "2h": 2 * time.Hour, "500ms": 500 * time.Millisecond,
	} {
		if got, err := ParseDuration(in); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "s", "-1s", "+1", "1.5s", "1d", "1 s", " 1", "1S", "99999999999999999999", "9999999999999h", "1s1"} {
		if got, err := ParseDuration(in); !errors.Is(err, InvalidArgument) {
			t.Errorf("ParseDuration(%q) = %v, %v; want an InvalidArgument error", in, got, err)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int{
		"512": 512, "512M": 512, "1G": 1024, "2g": 2048, "1K": 1, "1024K": 1, "1025K": 2, "64MB": 64, "64MiB": 64, "1T": 1 << 20, "1gib": 1024,
	} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "M", "0", "0G", "-1", "1.5G", "1P", "B", "1B", "1i", "1 G", "18446744073709551615", "18446744073709551615K",
		"17592186044416G", "2147483648", "2097152G", "1MM"} {
		if got, err := ParseSize(in); !errors.Is(err, InvalidArgument) {
			t.Errorf("ParseSize(%q) = %v, %v; want an InvalidArgument error", in, got, err)
		}
	}
}

func TestParseEnvAndLabel(t *testing.T) {
	if v, err := ParseEnv("A=b=c"); err != nil || v != (EnvVar{"A", "b=c"}) {
		t.Errorf("ParseEnv = %v, %v", v, err)
	}
	if v, err := ParseEnv("A="); err != nil || v != (EnvVar{"A", ""}) {
		t.Errorf("ParseEnv = %v, %v", v, err)
	}
	for _, in := range []string{"", "A", "=b", "A=\x00"} {
		if _, err := ParseEnv(in); !errors.Is(err, InvalidArgument) {
			t.Errorf("ParseEnv(%q): %v", in, err)
		}
	}
	if k, v, err := ParseLabel("team"); err != nil || k != "team" || v != "" {
		t.Errorf("ParseLabel = %q, %q, %v", k, v, err)
	}
	if k, v, err := ParseLabel("team=a=b"); err != nil || k != "team" || v != "a=b" {
		t.Errorf("ParseLabel = %q, %q, %v", k, v, err)
	}
	if _, _, err := ParseLabel("=x"); !errors.Is(err, InvalidArgument) {
		t.Errorf("ParseLabel: %v", err)
	}
}

func TestParseTmpfs(t *testing.T) {
	tmpfs := func(guest string, size int, o MountOptions) Mount {
		return Mount{Type: MountTmpfs, Guest: guest, SizeMiB: size, Options: o}
	}
	for in, want := range map[string]Mount{
		"/a":               tmpfs("/a", 0, MountOptions{}),
		"/a:64":            tmpfs("/a", 64, MountOptions{}),
		"/a:1G:ro,noexec":  tmpfs("/a", 1024, MountOptions{ReadOnly: true, NoExec: true}),
		"/a:nosuid,nodev":  tmpfs("/a", 0, MountOptions{NoSUID: true, NoDev: true}),
		"/a::ro":           tmpfs("/a", 0, MountOptions{ReadOnly: true}),
		"/a:16M:ro,rw":     tmpfs("/a", 16, MountOptions{}),
		"relative:16M":     tmpfs("relative", 16, MountOptions{}), // for Validate to refuse
		"/with space:16M:": {},
	} {
		got, err := ParseTmpfs(in)
		if want == (Mount{}) {
			if !errors.Is(err, InvalidArgument) {
				t.Errorf("ParseTmpfs(%q): %v", in, err)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("ParseTmpfs(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", ":1G", "/a:1X", "/a:1G:ro:rw", "/a:loud", "/a:ro:1G"} {
		if got, err := ParseTmpfs(in); !errors.Is(err, InvalidArgument) {
			t.Errorf("ParseTmpfs(%q) = %v, %v", in, got, err)
		}
	}
}

// TestTexts: mounts and ports can be said in the words that they are read from, or it is known that they cannot.
func TestTexts(t *testing.T) {
	for _, s := range []string{"/a", "/a:64M", "/a:1024M:ro,noexec", "/a:nosuid,nodev"} {
		if m, err := ParseTmpfs(s); err != nil || text(m) != s {
			t.Errorf("%s: %v, %q", s, err, text(m))
		}
	}
	for _, s := range []string{"data:/d", "/h:/g:ro", "/h:/g:noexec,nosuid,nodev,follow-root-symlinks,stat-virt=relaxed,host-perms=mirror,quota=512M,uid=1,gid=0"} {
		if m, err := ParseVolume(s); err != nil || text(m) != s {
			t.Errorf("%s: %v, %q", s, err, text(m))
		}
	}
	for _, m := range []Mount{{Type: MountBind, Host: "/a:b", Guest: "/c"}, {Type: MountNamed, Host: "a", Guest: "/b:ro"}, {Type: MountTmpfs, Guest: "/a:1G"}} {
		if s, ok := m.Text(); ok {
			t.Errorf("%+v is %q", m, s)
		}
	}
	for _, s := range []string{"80:8080", "0:53/udp", "0.0.0.0:1:2", "[::1]:1:2/udp"} {
		if p, err := ParsePort(s); err != nil || p.Text() != s {
			t.Errorf("%s: %v, %q", s, err, p.Text())
		}
	}
}

func text(m Mount) string {
	s, ok := m.Text()
	if !ok {
		return "nothing"
	}
	return s
}

func TestParseRlimit(t *testing.T) {
	for in, want := range map[string]Rlimit{
		"nofile=1024":      {"nofile", 1024, 1024},
		"NOFILE=1024:4096": {"nofile", 1024, 4096},
		"core=0:unlimited": {"core", 0, RlimitUnlimited},
		"as=unlimited":     {"as", RlimitUnlimited, RlimitUnlimited},
	} {
		if got, err := ParseRlimit(in); err != nil || got != want {
			t.Errorf("ParseRlimit(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for in, kind := range map[string]Kind{
		"nofile": InvalidArgument, "nofile=": InvalidArgument, "nofile=x": InvalidArgument, "nofile=1:": InvalidArgument,
		"nofile=-1": InvalidArgument, "nofile=1:2:3": InvalidArgument, "files=1": InvalidConfig, "nofile=2:1": InvalidConfig, "=1": InvalidConfig,
	} {
		if got, err := ParseRlimit(in); !errors.Is(err, kind) {
			t.Errorf("ParseRlimit(%q) = %v, %v; want %s", in, got, err, kind)
		}
	}
}

func TestParseScripts(t *testing.T) {
	for _, c := range []struct{ in, shell, name, body string }{
		{`hi=echo hi`, "", "hi", "#!/bin/sh\necho hi\n"},
		{`hi=echo hi\n`, "/bin/bash", "hi", "#!/bin/bash\necho hi\n"},
		{`hi=a\tb\r\\\"\'\x\`, "bash", "hi", "#!/usr/bin/env bash\na\tb\r\\\"'\\x\\\n"},
		{`a=b=c`, "", "a", "#!/bin/sh\nb=c\n"},
	} {
		name, body, err := ParseScript(c.in, c.shell)
		if err != nil || name != c.name || body != c.body {
			t.Errorf("ParseScript(%q) = %q, %q, %v; want %q", c.in, name, body, err, c.body)
		}
	}
	if name, body, err := ParseScriptRaw(`x=a\n`); err != nil || name != "x" || body != `a\n` {
		t.Errorf("ParseScriptRaw = %q, %q, %v", name, body, err)
	}
	if name, file, err := ParseScriptPath("x:./a:b"); err != nil || name != "x" || file != "./a:b" {
		t.Errorf("ParseScriptPath = %q, %q, %v", name, file, err)
	}
	for _, in := range []string{"x", "=b", "../x=b", "a/b=c", ".=x", "-x=b", "a b=c"} {
		if _, _, err := ParseScriptRaw(in); err == nil {
			t.Errorf("ParseScriptRaw(%q): no error", in)
		}
	}
	for _, in := range []string{"x", "x:", ":p", "../x:p"} {
		if _, _, err := ParseScriptPath(in); err == nil {
			t.Errorf("ParseScriptPath(%q): no error", in)
		}
	}
}

func TestParseDetachKeys(t *testing.T) {
	for in, want := range map[string]string{
		"ctrl-]": "\x1d", "ctrl-[": "\x1b", `ctrl-\`: "\x1c", "ctrl-^": "\x1e", "ctrl-_": "\x1f", "ctrl-@": "\x00",
		"ctrl-a": "\x01", "Ctrl-Z": "\x1a", "ctrl-p,ctrl-q": "\x10\x11", " ctrl-p , ctrl-q ": "\x10\x11",
	} {
		if got, err := ParseDetachKeys(in); err != nil || string(got) != want {
			t.Errorf("ParseDetachKeys(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "a", "ctrl-", "ctrl-1", "ctrl-aa", "ctrl-a,", "^]", "ctrl-`", "ctrl-{", "ctrl- ", "ctrl-é", "ctrl-~", "ctrl-?"} {
		if got, err := ParseDetachKeys(in); !errors.Is(err, InvalidArgument) {
			t.Errorf("ParseDetachKeys(%q) = %q, %v", in, got, err)
		}
	}
}

func TestParseWords(t *testing.T) {
	for in, want := range map[string][]string{
		"a":                {"a"},
		" a  b\t":          {"a", "b"},
		`/bin/sh -c "a b"`: {"/bin/sh", "-c", "a b"},
		`'a\' b\ c`:        {`a\`, "b c"},
		`a'b'"c\"d"`:       {`abc"d`},
		`''`:               {""},
	} {
		if got, err := ParseWords(in); err != nil || !slices.Equal(got, want) {
			t.Errorf("ParseWords(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "  ", `a\`, `"a`, `'a`} {
		if got, err := ParseWords(in); !errors.Is(err, InvalidArgument) {
			t.Errorf("ParseWords(%q) = %q, %v", in, got, err)
		}
	}
}

// FuzzGrammar feeds every grammar with the same input: none panics, none returns a value with an error, none quotes more
// than a line.
func FuzzGrammar(f *testing.F) {
	for _, s := range []string{"", "5m", "1G", "A=b", "/tmp:1G:ro", "nofile=1:2", `x=a\n`, "x:./y", "ctrl-],ctrl-@", `a "b c" \d`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		check := func(zero bool, err error) {
			if err == nil {
				return
			}
			if k := KindOf(err); k != InvalidArgument && k != InvalidConfig {
				t.Errorf("%q: kind %s", s, k)
			}
			if len(err.Error()) > 1000 || strings.ContainsRune(err.Error(), '\n') {
				t.Errorf("%q: long error %q", s, err)
			}
			if !zero {
				t.Errorf("%q: a value with the error %v", s, err)
			}
		}
		d, err := ParseDuration(s)
		check(d == 0, err)
		n, err := ParseSize(s)
		check(n == 0, err)
		if err == nil && n < 1 {
			t.Errorf("size %q is %d", s, n)
		}
		v, err := ParseEnv(s)
		check(v == EnvVar{}, err)
		k, _, err := ParseLabel(s)
		check(k == "", err)
		m, err := ParseTmpfs(s)
		check(m == Mount{}, err)
		_, err = ParseRlimit(s)
		check(true, err)
		_, _, err = ParseScript(s, s)
		check(true, err)
		_, _, err = ParseScriptPath(s)
		check(true, err)
		keys, err := ParseDetachKeys(s)
		check(keys == nil, err)
		words, err := ParseWords(s)
		check(words == nil, err)
	})
}
