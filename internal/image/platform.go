package image

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// platform is what an image runs on.
type platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

// parsePlatform reads os/architecture[/variant].
func parsePlatform(s string) (platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return platform{}, &sandbox.Error{Op: "parse platform", Kind: sandbox.InvalidConfig,
			Message: fmt.Sprintf("%q is not a platform", s), Hint: "write os/architecture, for example linux/" + runtime.GOARCH}
	}
	p := platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

func (p platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// runs reports whether an image for q is good for p. A variant that one of them does not say is the usual one.
func (p platform) runs(q platform) bool {
	return p.OS == q.OS && p.Architecture == q.Architecture && (p.usual() == q.usual() || p.Variant == "" && p.Architecture != "arm")
}

func (p platform) usual() string {
	if p.Variant == "" {
		switch p.Architecture {
		case "arm64":
			return "v8"
		case "arm":
			return "v7"
		case "amd64":
			return "v1"
		}
	}
	return p.Variant
}

// choose returns the first of an index's manifests that is for p.
func (m *manifest) choose(p platform) (descriptor, error) {
	var there []string
	best := -1
	for i, d := range m.Manifests {
		if d.Platform == nil || d.Annotations["vnd.docker.reference.type"] != "" || d.Platform.OS == "unknown" {
			continue
		}
		there = append(there, d.Platform.String())
		if !p.runs(*d.Platform) {
			continue
		}
		if best < 0 || d.Platform.usual() == p.usual() && m.Manifests[best].Platform.usual() != p.usual() {
			best = i
		}
	}
	if best >= 0 {
		return m.Manifests[best], nil
	}
	if len(there) == 0 && len(m.Manifests) == 1 {
		return m.Manifests[0], nil // an index that says nothing of platforms, around one image
	}
	slices.Sort(there)
	return descriptor{}, &sandbox.Error{Op: "choose platform", Kind: sandbox.ImagePullFailed,
		Message: fmt.Sprintf("the image is not made for %s, only for %s", p, strings.Join(slices.Compact(there), ", "))}
}
