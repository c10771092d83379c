package cli

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// sandboxFlags are the flags that say what a sandbox is to be; every command that makes one has them. The zero values are
// the defaults of [sandbox.Spec.WithDefaults].
type sandboxFlags struct {
	set *pflag.FlagSet

	name          string
	cpus, maxCPUs int
	memory        int
	maxMemory     int
	placement     string
	init          *sandbox.Init
	env           []sandbox.EnvVar
	labels        map[string]string
	workdir       string
	user          string
	hostname      string
	shell         string
	entrypoint    []string
	tmpfs         []sandbox.Mount
	scripts       []script
	security      string
	deployment    string
	pull          string
	logLevel      string
	maxDuration   time.Duration
	idleTimeout   time.Duration
	root          rootFlags
	conf          confFlags
	registry      *backend.RegistryAuth // of the files, once spec was called
	rootDisk      sandbox.RootDisk
	ephemeral     bool // nobody will ask for it again
	net           netFlags
	replace       bool
	replaceGrace  time.Duration
	graceGiven    bool
	quiet         bool
	creationFlags []string // names of those that only matter when a sandbox is made
}

// script is one of --script, --script-raw and --script-path, kept until --shell is known.
type script struct {
	kind, arg string
}

func (s *sandboxFlags) declare(f *flags) {
	s.set = f.set
	f.group("Sandbox")
	f.value("n", "name", "NAME", "Name; without it, one is made up", setString(&s.name))
	from := s.names(f)
	f.value("", "label", "KEY[=VALUE]", "Label to find it by; repeatable", setLabel(&s.labels))
	f.toggle("", "replace", "Remove the sandbox of that name first (10s to end)", &s.replace)
	f.value("", "replace-with-timeout", "DURATION", "The same, with another time to end; 0 kills at once", func(v string) (err error) {
		s.replaceGrace, err = sandbox.ParseDuration(v)
		s.replace, s.graceGiven = true, true
		return err
	})
	f.value("H", "hostname", "NAME", "Host name in the guest (default the sandbox's name)", setString(&s.hostname))
	f.words("", "pull", "WHEN", "Pull the image: always, if-missing (default) or never", &s.pull, "always", "if-missing", "never")
	f.words("", "security", "PROFILE", "default, or restricted: no new privileges in the guest", &s.security, "default", "restricted")
	f.words("", "deployment-profile", "PROFILE", "single-tenant (default), or multi-tenant: nothing that lets it reach this machine", &s.deployment, "single-tenant", "multi-tenant")
	f.words("", "log-level", "LEVEL", "How much the runner logs: error, warn, info, debug or trace", &s.logLevel, "error", "warn", "info", "debug", "trace")

	f.value("", "init", "PATH|auto", "Program to be PID 1 in it; auto is the one that the image has", func(v string) error { s.initOf().Cmd = v; return nil })
	f.value("", "init-arg", "ARG", "Argument of --init; repeatable", func(v string) error {
		s.initOf().Args = append(s.initOf().Args, v)
		return nil
	})
	f.value("", "init-env", "KEY=VALUE", "Environment variable of --init; repeatable", func(v string) error {
		e, err := sandbox.ParseEnv(v)
		s.initOf().Env = append(s.initOf().Env, e)
		return err
	})

	f.group("Limits")
	f.value("c", "cpus", "N", "CPUs that it may use (default 1)", setInt(&s.cpus, 1, sandbox.MaxCPUs))
	f.value("m", "memory", "SIZE", "Memory that it may use, e.g. 512M or 2G (default 512M)", setParsed(&s.memory, sandbox.ParseSize))
	f.value("", "max-cpus", "N", "The most that it may be given later (default as --cpus)", setInt(&s.maxCPUs, 1, sandbox.MaxCPUs))
	f.value("", "max-memory", "SIZE", "The most that it may be given later (default as --memory)", setParsed(&s.maxMemory, sandbox.ParseSize))
	f.words("", "cpu-placement", "POLICY", "Which of this machine's CPUs: inherit (default), auto, compact or spread", &s.placement, "inherit", "auto", "spread", "compact")
	f.value("", "max-duration", "DURATION", "End it after this time, e.g. 30s, 5m or 1h", setDuration(&s.maxDuration))
	f.value("", "idle-timeout", "DURATION", "End it when nothing happened in it for this time", setDuration(&s.idleTimeout))

	f.group("Commands in it")
	f.value("e", "env", "KEY=VALUE", "Environment variable; repeatable", setAppend(&s.env, sandbox.ParseEnv))
	f.value("w", "workdir", "PATH", "Working directory", setString(&s.workdir))
	f.value("u", "user", "USER", "Run as NAME or UID, and :GROUP or :GID after it", setString(&s.user))
	f.value("", "shell", "SHELL", "Shell of interactive sessions and scripts (default /bin/sh)", setString(&s.shell))
	f.value("", "entrypoint", "COMMAND", "In place of the image's entrypoint", setParsed(&s.entrypoint, sandbox.ParseWords))
	for _, k := range []struct{ kind, form, help string }{
		{"script", "NAME=BODY", `Shell script on the guest's PATH; \n \t \r \\ \" \' are decoded`},
		{"script-raw", "NAME=BODY", "The same with a body that is taken as it is"},
		{"script-path", "NAME:PATH", "The same from a file of this machine"},
	} {
		f.value("", k.kind, k.form, k.help, func(v string) error {
			s.scripts = append(s.scripts, script{k.kind, v})
			return nil
		})
	}

	f.group("Files")
	f.value("", "tmpfs", "PATH[:SIZE][:OPTIONS]", "File system in memory; OPTIONS of ro, noexec, nosuid, nodev; repeatable",
		setAppend(&s.tmpfs, sandbox.ParseTmpfs))
	s.root.declare(f)
	f.value("", "root-disk", "SPEC", "Writable layer: a size such as 8G (kept; default 4G), or tmpfs[:SIZE] (in memory)", setParsed(&s.rootDisk, sandbox.ParseRootDisk))
	f.value("", "oci-upper-size", "SIZE", "Size of the writable layer; now --root-disk", func(v string) error {
		if s.rootDisk.Kind != "" {
			return usageErrorf("leave --oci-upper-size out", "--oci-upper-size and --root-disk exclude each other")
		}
		size, err := sandbox.ParseSize(v)
		s.rootDisk = sandbox.RootDisk{Kind: sandbox.RootDiskManaged, SizeMiB: size}
		return err
	})
	f.hide("oci-upper-size")

	f.group("Network")
	s.net.declare(f)
	s.conf.declare(f)
	s.creationFlags = slices.DeleteFunc(s.names(f), func(n string) bool { return slices.Contains(from, n) })

	declareLater(f)
	declareVM(f)
	f.group("Session")
	f.quiet(&s.quiet)
}

// grace is how long a sandbox that is replaced may take to end.
func (s *sandboxFlags) grace() time.Duration {
	if s.graceGiven {
		return s.replaceGrace
	}
	return backend.ReplaceGrace
}

func (s *sandboxFlags) initOf() *sandbox.Init {
	if s.init == nil {
		s.init = &sandbox.Init{}
	}
	return s.init
}

// names returns the names of the flags declared so far.
func (s *sandboxFlags) names(f *flags) (names []string) {
	f.set.VisitAll(func(fl *pflag.Flag) { names = append(names, fl.Name) })
	return names
}

// given returns those flags that only matter when a sandbox is made and that the command line has.
func (s *sandboxFlags) given() (names []string) {
	s.set.Visit(func(f *pflag.Flag) {
		if slices.Contains(s.creationFlags, f.Name) {
			names = append(names, "--"+f.Name)
		}
	})
	return names
}

// spec is what the flags ask for, and what they leave to config.json, checked.
func (s *sandboxFlags) spec(set config.File, name sandbox.Name, arg string) (sandbox.Spec, error) {
	var image sandbox.Image
	if arg != "" {
		var err error
		if image, err = config.ImageOf(arg); err != nil {
			return sandbox.Spec{}, err
		}
	}
	if s.init != nil && s.init.Cmd == "" {
		return sandbox.Spec{}, usageErrorf("name the program: --init PATH", "--init-arg and --init-env need --init")
	}
	spec := sandbox.Spec{
		Name:              name,
		Image:             image,
		Resources:         sandbox.Resources{CPUs: s.cpus, MaxCPUs: s.maxCPUs, MemoryMiB: s.memory, MaxMemoryMiB: s.maxMemory, CPUPlacement: s.placement},
		Runtime:           sandbox.RuntimeOptions{Workdir: s.workdir, Shell: s.shell, Entrypoint: s.entrypoint, Hostname: s.hostname, User: s.user, LogLevel: s.logLevel},
		Env:               s.env,
		Labels:            maps.Clone(s.labels),
		Mounts:            append(slices.Clone(s.tmpfs), s.root.mounts...),
		Patches:           s.root.patches,
		Init:              s.init,
		SecurityProfile:   s.security,
		DeploymentProfile: strings.ReplaceAll(s.deployment, "-", "_"),
		Lifecycle:         sandbox.Lifecycle{Ephemeral: s.ephemeral},
	}
	var err error
	if spec.Network, err = s.net.network(); err != nil {
		return sandbox.Spec{}, err
	}
	if spec.Runtime.Scripts, err = s.scriptFiles(); err != nil {
		return sandbox.Spec{}, err
	}
	spec.Lifecycle.MaxDurationSecs, spec.Lifecycle.IdleTimeoutSecs = sandbox.WholeSeconds(s.maxDuration), sandbox.WholeSeconds(s.idleTimeout)
	if s.registry, err = s.conf.fill(&spec); err != nil {
		return sandbox.Spec{}, err
	}
	if spec.Image == (sandbox.Image{}) {
		return sandbox.Spec{}, usageErrorf("name one, or say image: in the file of --conf", "there is no image")
	}
	if s.rootDisk.Kind != "" {
		spec.Image = spec.Image.WithDisk(s.rootDisk)
	}
	switch s.pull {
	case "always":
		spec.PullPolicy = sandbox.PullAlways
	case "never":
		spec.PullPolicy = sandbox.PullNever
	}
	return spec, set.Complete(&spec)
}

func (s *sandboxFlags) scriptFiles() (map[string]string, error) {
	files := map[string]string{}
	for _, sc := range s.scripts {
		var (
			name, body string
			err        error
		)
		switch sc.kind {
		case "script":
			name, body, err = sandbox.ParseScript(sc.arg, s.shell)
		case "script-raw":
			name, body, err = sandbox.ParseScriptRaw(sc.arg)
		default:
			var file string
			if name, file, err = sandbox.ParseScriptPath(sc.arg); err == nil {
				body, err = readScript(file)
			}
		}
		if err != nil {
			return nil, err
		}
		if _, twice := files[name]; twice {
			return nil, &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("script %q is given twice", name)}
		}
		files[name] = body
	}
	return files, nil
}

// readScript reads a file of this machine, no more of it than all scripts may have.
func readScript(file string) (string, error) {
	fail := func(err error) (string, error) {
		return "", &sandbox.Error{Op: "run", Kind: sandbox.IO, Message: "read the script", Err: err}
	}
	f, err := os.Open(file)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	var b strings.Builder
	if _, err := io.Copy(&b, io.LimitReader(f, sandbox.MaxScriptBytes+1)); err != nil {
		return fail(err)
	}
	return b.String(), nil
}
