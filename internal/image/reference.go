package image

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Digest names contents by their hash: "sha256:" or "sha512:" and lower-case hexadecimal digits.
type Digest string

// Reference names an image in a registry (contract server-v0.2 §3.1, with the sets of letters of the OCI distribution spec).
// All fields but Digest are set. Two references name the same image when they are equal.
type Reference struct {
	Registry   string // host or host:port, lower case
	Repository string // at least one element; on Docker Hub at least two
	Tag        string
	Digest     Digest // wins over Tag when there is one
}

const (
	dockerHub      = "docker.io"
	officialImages = "library/" // the repositories of Docker Hub that have one element
	defaultTag     = "latest"
	maxRepository  = 255
	maxRegistry    = 255 + len(":65535")
)

var (
	registryPattern   = lazily(`^[a-z0-9]+(-+[a-z0-9]+)*(\.[a-z0-9]+(-+[a-z0-9]+)*)*(:[0-9]{1,5})?$`)
	repositoryPattern = lazily(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern        = lazily(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	digestPattern     = lazily(`^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$`)
)

// lazily compiles a pattern when it is first used: most starts of msb use none.
func lazily(pattern string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(pattern) })
}

// ParseReference reads [registry/]repository[:tag][@digest]. The first element is a registry when it has a dot or a colon or is
// "localhost". Otherwise the registry is defaultRegistry, or Docker Hub when that is empty. The tag is "latest" by default.
//
// A repository of one element gets "library/" in front of it on Docker Hub and on the default registry, which stands in for
// Docker Hub. (microsandbox 0.2 did so on a registry that was written, too, so localhost:5000/tool could not be named.)
func ParseReference(s, defaultRegistry string) (Reference, error) {
	bad := func(format string, args ...any) (Reference, error) {
		return Reference{}, &sandbox.Error{Op: "parse image reference", Kind: sandbox.InvalidArgument,
			Message: fmt.Sprintf("invalid image reference: %.300q: %s", s, fmt.Sprintf(format, args...)),
			Hint:    "write [registry/]name[:tag][@sha256:…], for example python:3.12 or ghcr.io/owner/name"}
	}
	rest, digest, pinned := strings.Cut(s, "@")
	if pinned && !digestPattern().MatchString(digest) {
		return bad("the digest after @ is not sha256: and 64 (or sha512: and 128) lower-case hexadecimal digits")
	}
	r := Reference{Registry: defaultRegistry, Tag: defaultTag, Digest: Digest(digest)}
	official := true
	if first, more, ok := strings.Cut(rest, "/"); ok && isRegistry(first) {
		r.Registry, rest, official = first, more, false
	}
	r.Registry = strings.ToLower(r.Registry)
	if r.Registry == "" || r.Registry == "index.docker.io" {
		r.Registry = dockerHub
	}
	if !isRegistry(r.Registry) || len(r.Registry) > maxRegistry || !registryPattern().MatchString(r.Registry) || !portIsRight(r.Registry) {
		return bad("the registry %.100q is not localhost, a host with a dot, or host:port", r.Registry)
	}
	// A colon behind the last slash begins the tag: the registry's is gone.
	name, tag, tagged := strings.Cut(rest, ":")
	if tagged {
		if r.Tag = tag; !tagPattern().MatchString(tag) {
			return bad("the tag %.150q is not made of 1 to 128 letters, digits, _ . -", tag)
		}
	}
	if !repositoryPattern().MatchString(name) {
		return bad("the name %.150q is not made of lower-case letters and digits, joined by / . _ -", name)
	}
	if (official || r.Registry == dockerHub) && !strings.Contains(name, "/") {
		name = officialImages + name
	}
	if r.Repository = name; len(name) > maxRepository {
		return bad("the name is longer than %d letters", maxRepository)
	}
	return r, nil
}

// isRegistry tells a registry from the first element of a repository.
func isRegistry(s string) bool { return s == "localhost" || strings.ContainsAny(s, ".:") }

// portIsRight reports whether the port of host:port, if it has one, is 1 to 65535.
func portIsRight(registry string) bool {
	_, port, ok := strings.Cut(registry, ":")
	n, err := strconv.ParseUint(port, 10, 16)
	return !ok || err == nil && n > 0
}

// String returns the whole reference: registry/repository:tag[@digest]. Parsed again it gives r, whatever the default registry is.
func (r Reference) String() string {
	s := r.Registry + "/" + r.Repository + ":" + r.Tag
	if r.Digest != "" {
		s += "@" + string(r.Digest)
	}
	return s
}

// Short returns what a person would write: without Docker Hub, and without the tag when a digest says all.
func (r Reference) Short() string {
	s := r.Registry + "/" + r.Repository
	if r.Registry == dockerHub {
		s = strings.TrimPrefix(r.Repository, officialImages)
	}
	if r.Digest != "" {
		return s + "@" + string(r.Digest)
	}
	return s + ":" + r.Tag
}
