package image

import (
	"errors"
	"strings"
	"testing"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

var aDigest = "sha256:" + strings.Repeat("0123456789abcdef", 4)

func TestParseReference(t *testing.T) {
	for _, c := range []struct{ in, registry, want, short string }{
		{"python", "", "docker.io/library/python:latest", "python:latest"},
		{"python:3.12", "", "docker.io/library/python:3.12", "python:3.12"},
		{"microsandbox/python", "", "docker.io/microsandbox/python:latest", "microsandbox/python:latest"},
		{"docker.io/python", "", "docker.io/library/python:latest", "python:latest"},
		{"index.docker.io/python", "", "docker.io/library/python:latest", "python:latest"},
		{"python", "mirror.example:5000", "mirror.example:5000/library/python:latest", "mirror.example:5000/library/python:latest"},
		{"docker.io/a/b", "mirror.example", "docker.io/a/b:latest", "a/b:latest"},
		{"localhost/tool", "", "localhost/tool:latest", "localhost/tool:latest"},
		{"localhost:5000/tool:v1", "", "localhost:5000/tool:v1", "localhost:5000/tool:v1"},
		{"localhost", "", "docker.io/library/localhost:latest", "localhost:latest"},
		{"GHCR.io/owner/name", "", "ghcr.io/owner/name:latest", "ghcr.io/owner/name:latest"},
		{"127.0.0.1:5000/a__b/c-d.e_f/g--h:_T.x-1", "", "127.0.0.1:5000/a__b/c-d.e_f/g--h:_T.x-1", "127.0.0.1:5000/a__b/c-d.e_f/g--h:_T.x-1"},
		{"python@" + aDigest, "", "docker.io/library/python:latest@" + aDigest, "python@" + aDigest},
		{"python:3@" + aDigest, "", "docker.io/library/python:3@" + aDigest, "python@" + aDigest},
	} {
		r, err := ParseReference(c.in, c.registry)
		if err != nil || r.String() != c.want || r.Short() != c.short {
			t.Errorf("%s: %s, %s, %v; want %s, %s", c.in, r, r.Short(), err, c.want, c.short)
		}
	}
}

func TestParseReferenceRefuses(t *testing.T) {
	for _, in := range []string{
		"", ":", "/", "@", "@" + aDigest, "Python", "a//b", "/a", "a/", "a:", "a:b:c", "a b", "a\n", "-a", "a-", "a..b", "a___b", "é",
		"../a", "a/../b", "./a", "https://docker.io/a", "host:/a", "host:port/a", "host:0/a", "host:65536/a", "host.:1/a", "a..b/c",
		".example/a", "-x.y/a", "[::1]:5000/a", "localhost/", "a:" + strings.Repeat("t", 129), "a:.t", "a:-t", "a:é",
		"a@sha256:", "a@sha256:xyz", "a@md5:" + strings.Repeat("0", 32), "a@" + strings.ToUpper(aDigest), "a@" + aDigest + "0",
		"a@" + aDigest + "@" + aDigest, "a@latest", strings.Repeat("a", 256), "docker.io/" + strings.Repeat("a", 250),
	} {
		r, err := ParseReference(in, "")
		if !errors.Is(err, sandbox.InvalidArgument) || !strings.Contains(err.Error(), "invalid image reference") || sandbox.HintOf(err) == "" {
			t.Errorf("%q: %v, %v; want a refusal with a hint", in, r, err)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\r\x1b") {
			t.Errorf("%q: the message is not one line", in)
		}
	}
	for _, registry := range []string{"bad registry", "nodot", "host:0", "https://x.y", "x.y/path"} {
		if _, err := ParseReference("python", registry); err == nil {
			t.Errorf("the default registry %q was accepted", registry)
		}
	}
}

func FuzzReference(f *testing.F) {
	for _, s := range []string{"python", "localhost:5000/a/b:c@" + aDigest, "GHCR.io/x/y", "a:b", "a/b/c__d:_", "x.y/z@" + aDigest, "://"} {
		f.Add(s, "")
		f.Add(s, "mirror.example:5000")
	}
	f.Fuzz(func(t *testing.T, s, registry string) {
		r, err := ParseReference(s, registry)
		if err != nil {
			return
		}
		for _, other := range []string{"", "elsewhere.example"} {
			if again, err := ParseReference(r.String(), other); err != nil || again != r {
				t.Errorf("%q became %q, and that %q, %v", s, r, again, err)
			}
		}
		// Names of references go into paths and URLs.
		if strings.Contains(r.String(), "..") || strings.ContainsAny(r.String(), " \\?#%\x00\n") || len(r.String()) > 2000 && len(registry) < 1000 && len(s) < 1000 {
			t.Errorf("%q became %q", s, r)
		}
	})
}
