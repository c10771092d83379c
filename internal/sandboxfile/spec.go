package sandboxfile

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// DefaultMemoryMiB is what a sandbox has that does not say (contract server-v0.2 §3.1).
const DefaultMemoryMiB = 1024

// StartScript is the script that a sandbox runs by itself when it starts.
const StartScript = "start"

// portalPort is where the guest's server of old was; such a port is nobody's any more.
const portalPort = ":4444"

// Rules bound what a Sandboxfile may ask of the machine. The zero value allows what the user of the machine may.
type Rules struct {
	// Dir is what relative paths of the host begin at, absolute.
	Dir string
	// Confined files may use only what is below Roots, and ports from 1024.
	Confined bool
	Roots    []string
}

// Spec is what the entry asks for. Its command, which may also be left to the image, is what the sandbox runs by itself when it
// starts; the end of that is not the sandbox's. Errors are of the kind InvalidConfig.
func (s Sandbox) Spec(name string, rules Rules) (spec sandbox.Spec, err error) {
	bad := func(format string, args ...any) (sandbox.Spec, error) {
		return sandbox.Spec{}, &sandbox.Error{Op: "start", Kind: sandbox.InvalidConfig, Err: fmt.Errorf(format, args...)}
	}
	spec.Name = sandbox.Name(name)
	if s.Image == "" {
		return bad("sandbox '%s' has no image", name)
	}
	if s.Image[0] == '.' || s.Image[0] == '/' {
		dir, err := rules.Path(s.Image)
		if err != nil {
			return bad("image %s: %w", s.Image, err)
		}
		spec.Image.Bind = &sandbox.BindImage{Path: dir}
	} else {
		spec.Image.OCI = &sandbox.OCIImage{Reference: s.Image}
	}
	spec.Resources.MemoryMiB = DefaultMemoryMiB
	if s.Memory != nil {
		if spec.Resources.MemoryMiB = int(*s.Memory); *s.Memory == 0 {
			return bad("memory is 0")
		}
	}
	spec.Resources.CPUs = 1
	if s.CPUs != nil {
		if spec.Resources.CPUs = int(*s.CPUs); *s.CPUs == 0 {
			return bad("cpus is 0")
		}
	}
	for _, v := range s.Volumes {
		m, err := rules.mount(v)
		if err != nil {
			return bad("%w", err)
		}
		spec.Mounts = append(spec.Mounts, m)
	}
	for _, p := range s.Ports {
		if strings.HasSuffix(p, portalPort) {
			continue
		}
		port, err := rules.port(p)
		if err != nil {
			return bad("%w", err)
		}
		spec.Network.Ports = append(spec.Network.Ports, port)
	}
	for _, kv := range s.Envs {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return bad("invalid environment variable pair: %s", kv)
		}
		spec.Env = append(spec.Env, sandbox.EnvVar{Key: k, Value: v})
	}
	spec.Runtime.Workdir, spec.Runtime.Shell = s.Workdir, s.Shell
	shell := cmp.Or(s.Shell, sandbox.DefaultShell)
	spec.Runtime.Scripts = map[string]string{}
	for _, script := range slices.Sorted(maps.Keys(s.Scripts)) {
		if script == "" || script == "." || script == ".." || strings.ContainsAny(script, "/\x00") {
			return bad("the script name %q is not a file name", clip(script))
		}
		text := s.Scripts[script]
		if !strings.HasPrefix(text, "#!") {
			text = "#!" + shell + "\n" + strings.TrimSuffix(text, "\n") + "\n"
		}
		spec.Runtime.Scripts[script] = text
	}
	if err := network(&spec, s); err != nil {
		return bad("%w", err)
	}
	spec.Lifecycle.OutlivesStartup = true
	_, script := s.Scripts[StartScript]
	switch { // contract server-v0.2 §3.3
	case s.Exec != "":
		spec.Runtime.Entrypoint = []string{shell, "-c", s.Exec}
	case script:
		spec.Runtime.Entrypoint = []string{"/.msb/scripts/" + StartScript}
	case len(s.Command) > 0:
		spec.Runtime.Entrypoint = s.Command
	}
	return spec, nil
}

// network makes a policy of the scope (contract server-v0.2 §3.1).
func network(spec *sandbox.Spec, s Sandbox) error {
	scope := s.Scope
	if scope == "" && s.Network != nil {
		scope = strings.ToLower(s.Network.Scope)
	}
	switch scope {
	case "", "public":
	case "none":
		deny := sandbox.DenyAllPolicy()
		spec.Network.Policy, spec.Network.Ports = &deny, nil
	case "group": // there are no groups any more, so nobody is in one
		spec.Network.Policy = &sandbox.NetworkPolicy{DefaultEgress: sandbox.Deny, DefaultIngress: sandbox.Allow}
	case "any":
		spec.Network.Enabled = true
		spec.Network.Policy = &sandbox.NetworkPolicy{DefaultEgress: sandbox.Allow, DefaultIngress: sandbox.Allow}
	default:
		return fmt.Errorf("invalid network scope: %s (want none, group, public or any)", clip(scope))
	}
	return nil
}

// mount reads a path pair, host:guest or one path for both. A bare name on the left is a volume of the namespace.
func (r Rules) mount(pair string) (sandbox.Mount, error) {
	host, guest, two := strings.Cut(pair, ":")
	if !two {
		guest = host
	}
	if host == "" || guest == "" {
		return sandbox.Mount{}, fmt.Errorf("invalid path pair: %s", clip(pair))
	}
	guest, options, _ := strings.Cut(guest, ":")
	if !strings.HasPrefix(guest, "/") {
		guest = "/" + guest
	}
	rest := guest
	if options != "" {
		rest += ":" + options
	}
	source := host
	if two && !strings.ContainsAny(host, "/") && host != "." && host != ".." { // a volume
		return sandbox.ParseVolume(source + ":" + rest)
	}
	source, err := r.Path(host)
	if err != nil {
		return sandbox.Mount{}, fmt.Errorf("volume %s: %w", clip(pair), err)
	}
	return sandbox.ParseVolume(source + ":" + rest)
}

// Path is a path of the host as it may be used: below one of the roots, whatever links lie on the way.
func (r Rules) Path(p string) (string, error) {
	if !filepath.IsAbs(p) {
		p = filepath.Join(r.Dir, p)
	}
	p = filepath.Clean(p)
	if !r.Confined {
		return p, nil
	}
	refused := fmt.Errorf("this server does not let sandboxes have that directory")
	real, err := filepath.EvalSymlinks(p)
	if err != nil { // whether it is there is none of the caller's business
		return "", refused
	}
	for _, root := range r.Roots {
		if root, err := filepath.EvalSymlinks(root); err == nil && (real == root || strings.HasPrefix(real, strings.TrimSuffix(root, "/")+"/")) {
			return real, nil
		}
	}
	return "", refused
}

// port reads a port pair, host:guest or one port for both.
func (r Rules) port(pair string) (sandbox.Port, error) {
	host, guest, two := strings.Cut(pair, ":")
	if !two {
		guest = host
	}
	h, herr := strconv.ParseUint(host, 10, 16)
	g, gerr := strconv.ParseUint(guest, 10, 16)
	if herr != nil || gerr != nil || g == 0 {
		return sandbox.Port{}, fmt.Errorf("invalid port pair: %s", clip(pair))
	}
	if r.Confined && h > 0 && h < 1024 {
		return sandbox.Port{}, fmt.Errorf("port %d of this machine is not for sandboxes: use one from 1024", h)
	}
	return sandbox.Port{HostPort: uint16(h), GuestPort: uint16(g), Protocol: sandbox.PortTCP}, nil
}

func clip(s string) string {
	const most = 100
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
