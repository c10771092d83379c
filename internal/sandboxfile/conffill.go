package sandboxfile

import (
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Fill puts what is said into those places of spec where nothing is said yet: those of maps by their keys, mounts by their
// targets.
func (c *Conf) Fill(spec *sandbox.Spec) error {
	if spec.Image == (sandbox.Image{}) {
		if err := c.image(spec); err != nil {
			return err
		}
	}
	fill(&spec.PullPolicy, pullPolicies[c.PullPolicy])
	if c.CPUs != nil {
		if *c.CPUs == 0 {
			return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "cpus is 0"}
		}
		fill(&spec.Resources.CPUs, int(*c.CPUs))
	}
	fill(&spec.Resources.MemoryMiB, int(c.Memory))
	if spec.Lifecycle.MaxDurationSecs == nil {
		spec.Lifecycle.MaxDurationSecs = seconds(c.MaxDuration)
	}
	if spec.Lifecycle.IdleTimeoutSecs == nil {
		spec.Lifecycle.IdleTimeoutSecs = seconds(c.IdleTimeout)
	}
	for _, l := range c.Rlimits {
		one, err := l.rlimit()
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(spec.Rlimits, func(have sandbox.Rlimit) bool { return have.Resource == one.Resource }) {
			spec.Rlimits = append(spec.Rlimits, one)
		}
	}
	r := &spec.Runtime
	fill(&r.Workdir, c.Workdir)
	fill(&r.Shell, c.Shell)
	fill(&r.User, c.User)
	fill(&r.Hostname, c.Hostname)
	fill(&spec.SecurityProfile, string(c.Security))
	if r.Entrypoint == nil {
		r.Entrypoint = c.Entrypoint
	}
	if r.Cmd == nil {
		r.Cmd = c.Cmd
	}
	var env []sandbox.EnvVar
	for _, k := range sortedKeys(c.Env) {
		if !slices.ContainsFunc(spec.Env, func(e sandbox.EnvVar) bool { return e.Key == k }) {
			env = append(env, sandbox.EnvVar{Key: k, Value: c.Env[k]})
		}
	}
	spec.Env = append(env, spec.Env...)
	for k, v := range c.Labels {
		if spec.Labels == nil {
			spec.Labels = map[string]string{}
		}
		if _, there := spec.Labels[k]; !there {
			spec.Labels[k] = v
		}
	}
	if c.Init != nil && spec.Init == nil {
		spec.Init = &sandbox.Init{Cmd: c.Init.Cmd, Args: c.Init.Args}
		for _, k := range sortedKeys(c.Init.Env) {
			spec.Init.Env = append(spec.Init.Env, sandbox.EnvVar{Key: k, Value: c.Init.Env[k]})
		}
	}
	if err := c.files(spec); err != nil {
		return err
	}
	for _, name := range sortedKeys(c.Scripts) {
		if r.Scripts == nil {
			r.Scripts = map[string]string{}
		}
		if _, there := r.Scripts[name]; !there {
			body := c.Scripts[name]
			if !strings.HasPrefix(body, "#!") {
				body = sandbox.Shebang(r.Shell) + body
			}
			r.Scripts[name] = body
		}
	}
	return c.network(spec)
}

func fill[T comparable](to *T, v T) {
	var zero T
	if *to == zero {
		*to = v
	}
}

func (c *Conf) network(spec *sandbox.Spec) error {
	n := &spec.Network
	var said sandbox.Network
	if err := c.Network.apply(&said); err != nil {
		return err
	}
	if len(n.Ports) == 0 {
		n.Ports = said.Ports
		for _, s := range c.Ports {
			p, err := sandbox.ParsePort(s)
			if err != nil {
				return err
			}
			n.Ports = append(n.Ports, p)
		}
	}
	if n.Policy == nil && said.Policy != nil {
		n.Policy, n.Enabled = said.Policy, true
	}
	if n.DNS == nil {
		n.DNS = said.DNS
	}
	if n.TLS == nil {
		n.TLS = said.TLS
	}
	if n.MaxConnections == nil {
		n.MaxConnections = said.MaxConnections
	}
	n.TrustHostCAs = n.TrustHostCAs || said.TrustHostCAs
	s, err := secrets(c.Secrets)
	if err != nil || s == nil {
		return err
	}
	if n.Secrets == nil {
		n.Secrets = &sandbox.Secrets{}
	}
	for _, one := range s.Secrets {
		if !slices.ContainsFunc(n.Secrets.Secrets, func(have sandbox.Secret) bool { return have.EnvVar == one.EnvVar }) {
			n.Secrets.Secrets = append(n.Secrets.Secrets, one)
		}
	}
	return nil
}

// files are mounts and patches.
func (c *Conf) files(spec *sandbox.Spec) error {
	var mounts []sandbox.Mount
	for _, m := range c.Mounts {
		one, err := m.mount()
		if err != nil {
			return &sandbox.Error{Kind: sandbox.KindOf(err), Message: m.place + ": " + detail(err), Hint: sandbox.HintOf(err)}
		}
		if !slices.ContainsFunc(spec.Mounts, func(have sandbox.Mount) bool { return have.Guest == one.Guest }) {
			mounts = append(mounts, one)
		}
	}
	spec.Mounts = append(mounts, spec.Mounts...)
	var patches []sandbox.Patch
	var all []ConfPatch
	for _, file := range c.PatchFiles {
		data, err := readMost(file, maxConf)
		if err != nil {
			return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "patch_files: " + detail(err)}
		}
		root, err := parse(file, data, maxConf)
		if err != nil {
			return err
		}
		if root == nil {
			continue
		}
		d := &decoder{path: file, strict: true, left: maxNodes, lookup: os.LookupEnv}
		if err := d.check(root); err != nil {
			return err
		}
		var more []ConfPatch
		if err := d.value(root, reflect.ValueOf(&more).Elem(), "patches"); err != nil {
			return err
		}
		all = append(all, more...)
	}
	for _, p := range append(all, c.Patches...) {
		one, err := p.patch()
		if err != nil {
			return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: p.place + ": " + detail(err)}
		}
		patches = append(patches, one)
	}
	spec.Patches = append(patches, spec.Patches...)
	return nil
}
