package local

import (
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/image"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// merge fills in what the image says and the user did not (contract msb-0.6 §2.1). Published ports are never taken from
// an image.
func merge(spec *sandbox.Spec, c image.Config) {
	have := map[string]bool{}
	for _, e := range spec.Env {
		have[e.Key] = true
	}
	var env []sandbox.EnvVar
	for _, kv := range c.Env {
		if k, v, ok := strings.Cut(kv, "="); ok && !have[k] {
			env = append(env, sandbox.EnvVar{Key: k, Value: v})
		}
	}
	spec.Env = append(env, spec.Env...)
	if len(spec.Runtime.Entrypoint) == 0 {
		spec.Runtime.Entrypoint = c.Entrypoint
	}
	if len(spec.Runtime.Cmd) == 0 {
		spec.Runtime.Cmd = c.Cmd
	}
	if spec.Runtime.Workdir == "" {
		spec.Runtime.Workdir = c.WorkingDir
	}
	if spec.Runtime.User == "" {
		spec.Runtime.User = c.User
	}
	for k, v := range c.Labels {
		if _, ok := spec.Labels[k]; !ok {
			if spec.Labels == nil {
				spec.Labels = map[string]string{}
			}
			spec.Labels[k] = v
		}
	}
}
