package local

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/image"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// merge fills in what the image says and the user did not (contract msb-0.6 §2.1). Published ports are never taken from
// an image. What of an image no sandbox may have (names that are microsandbox's own, labels that are too long) is left out:
// its user cannot mend it.
func merge(spec *sandbox.Spec, c image.Config) {
	have := map[string]bool{}
	for _, e := range spec.Env {
		have[e.Key] = true
	}
	var env []sandbox.EnvVar
	for _, kv := range c.Env {
		k, v, ok := strings.Cut(kv, "=")
		e := sandbox.EnvVar{Key: k, Value: v}
		if ok && !have[k] && sandbox.ValidateEnv(e) == nil {
			env = append(env, e)
			have[k] = true
		}
	}
	spec.Env = append(env, spec.Env...)
	r := &spec.Runtime
	if len(r.Cmd) == 0 && len(r.Entrypoint) == 0 { // an image's command is for its own entrypoint
		r.Cmd = c.Cmd
	}
	if len(r.Entrypoint) == 0 {
		r.Entrypoint = c.Entrypoint
	}
	if r.Workdir == "" && c.WorkingDir != "" {
		r.Workdir = path.Join("/", c.WorkingDir)
	}
	if r.User == "" {
		r.User = c.User
	}
	labels := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		if sandbox.ValidateLabel(k, c.Labels[k]) == nil && len(labels)+len(spec.Labels) < sandbox.MaxLabels {
			labels[k] = c.Labels[k]
		}
	}
	maps.Copy(labels, spec.Labels)
	spec.Labels = labels
}
