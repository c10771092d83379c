package sandboxfile

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

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
	// Volumes comes before the names of volumes, so that those of several projects differ.
	Volumes string
	// Plain has a bare name be that of a volume, whatever is in Dir.
	Plain bool
}

// Spec is what the entry asks for. Its command, which may also be left to the image, is what the sandbox runs by itself when it
// starts; the end of that is not the sandbox's. Errors are of the kind InvalidConfig.
func (s Sandbox) Spec(name string, rules Rules) (spec sandbox.Spec, err error) {
	field := "" // that is read
	bad := func(format string, args ...any) (sandbox.Spec, error) {
		err := fmt.Errorf(format, args...)
		if s.place != nil && !rules.Confined {
			return sandbox.Spec{}, &sandbox.Error{Op: "read " + Name, Kind: sandbox.InvalidConfig, Message: s.place(field) + ": " + detail(err), Hint: sandbox.HintOf(err)}
		}
		return sandbox.Spec{}, &sandbox.Error{Op: "start", Kind: sandbox.InvalidConfig, Err: err}
	}
	spec.Name = sandbox.Name(name)
	field = "image"
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
	field = "memory"
	spec.Resources.MemoryMiB = DefaultMemoryMiB
	if s.Memory != nil {
		if spec.Resources.MemoryMiB = int(*s.Memory); *s.Memory == 0 {
			return bad("memory is 0")
		}
	}
	field = "cpus"
	spec.Resources.CPUs = 1
	if s.CPUs != nil {
		if spec.Resources.CPUs = int(*s.CPUs); *s.CPUs == 0 {
			return bad("cpus is 0")
		}
	}
	for i, v := range s.Volumes {
		field = fmt.Sprintf("volumes[%d]", i)
		m, err := rules.mount(v)
		if err != nil {
			return bad("%w", err)
		}
		spec.Mounts = append(spec.Mounts, m)
	}
	for i, t := range s.Tmpfs {
		field = fmt.Sprintf("tmpfs[%d]", i)
		m, err := sandbox.ParseTmpfs(t)
		if err != nil {
			return bad("%w", err)
		}
		spec.Mounts = append(spec.Mounts, m)
	}
	field = "root_disk"
	if s.RootDisk != "" {
		disk, err := sandbox.ParseRootDisk(s.RootDisk)
		if err != nil {
			return bad("%w", err)
		}
		spec.Image = spec.Image.WithDisk(disk)
	}
	for i, l := range s.Rlimits {
		field = fmt.Sprintf("rlimits[%d]", i)
		one, err := l.rlimit()
		if err != nil {
			return bad("%w", err)
		}
		spec.Rlimits = append(spec.Rlimits, one)
	}
	spec.PullPolicy, spec.SecurityProfile, spec.Runtime.Hostname = pullPolicies[s.PullPolicy], string(s.Security), s.Hostname
	for i, p := range s.Ports {
		field = fmt.Sprintf("ports[%d]", i)
		if strings.HasSuffix(p, portalPort) {
			continue
		}
		port, err := rules.port(p)
		if err != nil {
			return bad("%w", err)
		}
		spec.Network.Ports = append(spec.Network.Ports, port)
	}
	field = "env_file"
	if spec.Env, err = rules.envFile(s.EnvFile); err != nil {
		return bad("%w", err)
	}
	for i, kv := range s.Envs {
		field = fmt.Sprintf("envs[%d]", i)
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return bad("invalid environment variable pair: %s", kv)
		}
		spec.Env = slices.DeleteFunc(spec.Env, func(e sandbox.EnvVar) bool { return e.Key == k })
		spec.Env = append(spec.Env, sandbox.EnvVar{Key: k, Value: v})
	}
	spec.Runtime.Workdir, spec.Runtime.Shell = s.Workdir, s.Shell
	shell := cmp.Or(s.Shell, sandbox.DefaultShell)
	spec.Runtime.Scripts = map[string]string{}
	for _, script := range sortedKeys(s.Scripts) {
		field = "scripts." + script
		if script == "" || script == "." || script == ".." || strings.ContainsAny(script, "/\x00") {
			return bad("the script name %q is not a file name", clip(script))
		}
		text := s.Scripts[script]
		if !strings.HasPrefix(text, "#!") {
			text = "#!" + shell + "\n" + strings.TrimSuffix(text, "\n") + "\n"
		}
		spec.Runtime.Scripts[script] = text
	}
	if field = "scope"; s.Scope == "" {
		field = "network"
	}
	if err := network(&spec, s); err != nil {
		return bad("%w", err)
	}
	if t := spec.Network.TLS; t != nil {
		field = "network.tls.upstream_ca_cert"
		for i, file := range t.UpstreamCACert {
			if rules.Confined {
				return bad("the files of this server are not for sandboxes")
			}
			if t.UpstreamCACert[i], err = rules.Path(file); err != nil {
				return bad("%w", err)
			}
		}
	}
	field = "network.ports"
	if rules.Confined {
		for _, p := range spec.Network.Ports {
			if p.HostPort > 0 && p.HostPort < 1024 || p.Bind() != "127.0.0.1" && p.Bind() != "::1" {
				return bad("port %s is not for sandboxes of this server", p)
			}
		}
	}
	field = "secrets"
	for name, secret := range s.Secrets {
		switch {
		case rules.Confined: // the variables are the server's
			return bad("this server has no secrets for sandboxes")
		case secret.Value != "":
			field = "secrets." + name
			return bad("the value of the secret %s does not belong in this file: it is that of the variable %s where msb runs", clip(name), clip(name))
		}
	}
	if spec.Network.Secrets, err = secrets(s.Secrets); err != nil {
		return bad("%w", err)
	}
	field = "labels"
	for k, v := range s.Labels {
		if err := sandbox.ValidateLabel(k, v); err != nil {
			return bad("%w", err)
		}
		if strings.HasPrefix(k, OwnLabels) {
			return bad("the label %s is reserved: names that begin with %s are microsandbox's own", clip(k), OwnLabels)
		}
	}
	spec.Labels = maps.Clone(s.Labels)
	field = "user"
	if err := sandbox.ValidateUser(s.User); err != nil {
		return bad("%w", err)
	}
	spec.Runtime.User = s.User
	spec.Lifecycle.MaxDurationSecs, spec.Lifecycle.IdleTimeoutSecs = seconds(s.MaxDuration), seconds(s.IdleTimeout)
	if field = "healthcheck"; s.Healthcheck != nil && s.Healthcheck.Test.Line == "" && len(s.Healthcheck.Test.Words) == 0 {
		return bad("the healthcheck has no test")
	}
	field = "restart"
	if s.Restart != "" && s.Restart != RestartNo && s.Restart != RestartOnFailure {
		return bad("restart is %q: want no or on-failure", clip(s.Restart))
	}
	spec.Lifecycle.OutlivesStartup = s.AtStart != StartEnds
	spec.Runtime.Entrypoint = s.own()
	field = "cmd"
	if len(s.Entrypoint)+len(s.Cmd) > 0 {
		switch {
		case len(spec.Runtime.Entrypoint) > 0:
			return bad("entrypoint and cmd do not go with command, exec or the script start")
		case s.Restart == RestartOnFailure:
			return bad("restart: on-failure takes a command, in the place of entrypoint and cmd")
		}
		spec.Runtime.Entrypoint, spec.Runtime.Cmd = slices.Clone(s.Entrypoint), slices.Clone(s.Cmd)
	}
	if s.Restart == RestartOnFailure && len(spec.Runtime.Entrypoint) > 0 {
		spec.Runtime.Scripts[restartScript] = "#!/bin/sh\n" + restartText
		spec.Runtime.Entrypoint = append([]string{scriptsDir + restartScript}, spec.Runtime.Entrypoint...)
	}
	// Where scripts of old are, and the one that is the shell (contract server-v0.2 §3.3).
	if _, own := spec.Runtime.Scripts[ShellScript]; !own {
		spec.Runtime.Scripts[ShellScript] = shellText(shell)
	}
	spec.Patches = append(spec.Patches, oldScripts()...)
	return spec, nil
}

// oldScripts have scripts also where they were of old.
func oldScripts() []sandbox.Patch {
	return []sandbox.Patch{{Type: sandbox.PatchMkdir, Path: "/.sandbox", Replace: true},
		{Type: sandbox.PatchSymlink, Link: "/.sandbox/scripts", Target: strings.TrimSuffix(scriptsDir, "/"), Replace: true}}
}

func shellText(shell string) string { return "#!" + shell + "\nexec " + quote(shell) + " \"$@\"\n" }

// Startup is what the entry says that the sandbox runs by itself; nil leaves it to the image (contract server-v0.2 §3.3).
func (s Sandbox) Startup() []string {
	if len(s.Entrypoint)+len(s.Cmd) > 0 {
		return slices.Concat(s.Entrypoint, s.Cmd)
	}
	return s.own()
}

// own is Startup in the words of 0.2.
func (s Sandbox) own() []string {
	_, script := s.Scripts[StartScript]
	switch {
	case s.Exec != "":
		return []string{cmp.Or(s.Shell, sandbox.DefaultShell), "-c", s.Exec}
	case script:
		return []string{scriptsDir + StartScript}
	}
	return slices.Clone(s.Command)
}

// Script is the command that runs a script of the entry, or its shell.
func (s Sandbox) Script(name string) []string {
	if _, ok := s.Scripts[name]; !ok && name != ShellScript {
		return nil
	}
	return []string{scriptsDir + name}
}

// scriptsDir is where the guest has scripts.
const scriptsDir = "/.msb/scripts/"

// ShellScript is the script that every sandbox has.
const ShellScript = "shell"

// OwnLabels is what labels begin with that say which sandbox of which file a sandbox is.
const OwnLabels = "dev.microsandbox."

// What is done when the command of a sandbox fails.
const (
	RestartNo        = "no" // the default
	RestartOnFailure = "on-failure"
)

// restartScript runs a command again until it succeeds, after a second at first and half a minute at most.
const (
	restartScript = "restart-on-failure"
	restartText   = `wait=1
until "$@"; do
	echo "restart-on-failure: it failed with exit code $?: again in ${wait}s" >&2
	sleep "$wait"
	wait=$((wait * 2))
	[ "$wait" -le 30 ] || wait=30
done
`
)

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// ScopeOf is the scope that the entry names, "" for none.
func (s Sandbox) ScopeOf() string {
	if s.Scope == "" && s.Network != nil {
		return strings.ToLower(s.Network.Scope)
	}
	return s.Scope
}

// network makes a policy of the scope (contract server-v0.2 §3.1), or of what the key network says.
func network(spec *sandbox.Spec, s Sandbox) error {
	scope := s.ScopeOf()
	if scope != "" && s.Network.said() {
		return fmt.Errorf("scope and a policy of network exclude each other")
	}
	ports := spec.Network.Ports
	if err := s.Network.apply(&spec.Network); err != nil {
		return err
	}
	if s.Network != nil && s.Network.Ports != nil {
		spec.Network.Ports = append(ports, spec.Network.Ports...)
	}
	if s.Network.said() {
		return nil
	}
	switch scope {
	case "", "public":
	case "none":
		deny := sandbox.DenyAllPolicy()
		spec.Network.Policy, spec.Network.Ports = &deny, nil
	case "group": // there are no groups any more, so nobody is in one
		spec.Network.Enabled = true
		spec.Network.Policy = &sandbox.NetworkPolicy{DefaultEgress: sandbox.Deny, DefaultIngress: sandbox.Allow}
	case "any":
		spec.Network.Enabled = true
		spec.Network.Policy = &sandbox.NetworkPolicy{DefaultEgress: sandbox.Allow, DefaultIngress: sandbox.Allow}
	default:
		return fmt.Errorf("invalid network scope: %s (want none, group, public or any)", clip(scope))
	}
	return nil
}

// mount reads a path pair, host:guest or one path for both. A bare name on the left is a volume, unless the file's directory has a
// file or directory of that name.
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
	if two && !strings.ContainsAny(host, "/") && host != "." && host != ".." && (r.Confined || r.Plain || !r.has(host)) {
		return sandbox.ParseVolume(r.Volumes + source + ":" + rest)
	}
	source, err := r.Path(host)
	if err != nil {
		return sandbox.Mount{}, fmt.Errorf("volume %s: %w", clip(pair), err)
	}
	return sandbox.ParseVolume(source + ":" + rest)
}

func (r Rules) has(name string) bool {
	_, err := os.Lstat(filepath.Join(r.Dir, name))
	return err == nil
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

// envFile reads lines of the form KEY=VALUE; # begins a comment, export may come first, and a value may be in quotes.
func (r Rules) envFile(file string) ([]sandbox.EnvVar, error) {
	if file == "" {
		return nil, nil
	}
	path, err := r.Path(file)
	if err != nil {
		return nil, fmt.Errorf("env_file %s: %w", clip(file), err)
	}
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no file %s", clip(file))
	}
	if err != nil {
		return nil, err
	}
	var env []sandbox.EnvVar
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		k, v, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		if !ok || k == "" {
			return nil, fmt.Errorf("%s:%d: invalid environment variable pair: %s", clip(file), n, clip(line))
		}
		switch {
		case len(v) > 1 && v[0] == '\'' && v[len(v)-1] == '\'':
			v = v[1 : len(v)-1]
		case len(v) > 1 && v[0] == '"':
			if v, err = strconv.Unquote(v); err != nil {
				return nil, fmt.Errorf("%s:%d: the quotes of %s are not closed", clip(file), n, clip(k))
			}
		default:
			if i := strings.Index(v, " #"); i >= 0 {
				v = strings.TrimSpace(v[:i])
			}
		}
		env = slices.DeleteFunc(env, func(e sandbox.EnvVar) bool { return e.Key == k })
		env = append(env, sandbox.EnvVar{Key: k, Value: v})
	}
	return env, nil
}

// seconds rounds up; nil is no limit.
func seconds(v Duration) *int {
	d := v.Or(0)
	if d <= 0 {
		return nil
	}
	n := int((d + time.Second - 1) / time.Second)
	return &n
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// detail is what err says without the words of its kind.
func detail(err error) string {
	var e *sandbox.Error
	if errors.As(err, &e) && e.Message != "" {
		return e.Message
	}
	return err.Error()
}

func clip(s string) string {
	const most = 100
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
