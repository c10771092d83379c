package cli

import (
	"cmp"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/sandboxfile"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// exeCommand is msb exe: a sandbox for one command.
func (a *app) exeCommand() *cobra.Command {
	var (
		p            projectFlags
		e            execFlags
		s            sandboxfile.Sandbox
		exec         string
		cpus, memory int
		image        bool
	)
	c := a.command(&cobra.Command{Use: "exe", Aliases: []string{"x"}, Short: "Run a command in a temporary sandbox",
		Long: `It is msb run without a name, in the words of microsandbox 0.2. With -f the name is that of an entry of the Sandboxfile, of which
nothing but the configuration is used: neither its files and ports nor what it depends on.`,
		Example: "msb x python:3.12 -- -c 'print(1)'\nmsb exe -f . web~test"},
		positional{"<NAME[~SCRIPT]>", "Image; with -f, a sandbox of the Sandboxfile"}, positional{"[-- ARGS...]", "Arguments in the place of its own"})
	f := flagsOf(c, false)
	f.toggle("i", "image", "The name is an image's, which it is anyway", &image)
	f.hide("image")
	f.value("", "memory", "MIB", "Memory in MiB (default 1024)", setInt(&memory, 1, 1<<31-1))
	f.value("", "cpus", "N", "CPUs (default 1)", setInt(&cpus, 1, 255))
	f.value("", "cpu", "N", "The same as --cpus", setInt(&cpus, 1, 255))
	f.hide("cpu")
	f.value("v", "volume", "HOST:GUEST", "Directory of this machine, or a volume; repeatable", setAppend(&s.Volumes, verbatim))
	f.value("p", "port", "HOST:GUEST", "Port to publish; repeatable", setAppend(&s.Ports, verbatim))
	f.value("", "env", "KEY=VALUE", "Environment variable; repeatable", setAppend(&s.Envs, verbatim))
	f.value("", "workdir", "PATH", "Working directory", setString(&s.Workdir))
	f.value("", "scope", "SCOPE", "What it may reach: none, group, public (default) or any", func(v string) error {
		return setWord(&s.Scope, "none", "group", "public", "any")(strings.ToLower(v))
	})
	f.value("e", "exec", "COMMAND", "Command, which is not split into words", setString(&exec))
	f.value("x", "exec-too", "COMMAND", "The same", setString(&exec))
	f.hide("exec-too")
	e.declare(f)
	p.declareFile(f, "f")
	f.quiet(&p.quiet)
	c.ValidArgsFunction = a.completeTargets(&p)
	c.RunE = func(c *cobra.Command, args []string) error {
		names, rest := split(c, args)
		name, script, _ := strings.Cut(names[0], "~")
		if err := e.check(); err != nil {
			return err
		}
		if memory > 0 {
			m := uint32(memory)
			s.Memory = &m
		}
		if cpus > 0 {
			n := uint8(cpus)
			s.CPUs = &n
		}
		s.Image = name
		rules := sandboxfile.Rules{Dir: "."}
		ref, _, err := a.newRef("")
		if err != nil {
			return err
		}
		var spec sandbox.Spec
		if p.file != "" {
			proj, err := a.project(p.file)
			if err != nil {
				return err
			}
			if spec, err = proj.Spec(name); err != nil {
				return err
			}
			s = proj.File.Sandboxes[name]
			spec.Name, spec.Labels, spec.Network.Ports = ref.Name, nil, nil // those may be its sandbox's now
		} else {
			if rules.Dir, err = filepath.Abs("."); err != nil {
				return err
			}
			if spec, err = s.Spec(string(ref.Name), rules); err != nil {
				return err
			}
			set, err := a.settings()
			if err != nil {
				return err
			}
			set.File.Defaults.Apply(&spec)
		}
		command, err := commandFor(name, script, exec, s, rest)
		if err != nil {
			return err
		}
		spec.Lifecycle.Ephemeral, spec.Lifecycle.OutlivesStartup = true, false
		if disk := spec.Image.Disk(); disk.Kind == sandbox.RootDiskManaged {
			spec.Image = spec.Image.WithDisk(sandbox.RootDisk{})
		}
		if len(s.Entrypoint)+len(s.Cmd) == 0 {
			spec.Runtime.Entrypoint = nil
		}
		b, err := a.backend(UseCreate)
		if err != nil {
			return err
		}
		sig := a.catchSignals(c.Context())
		defer sig.stop()
		info, err := a.create(sig.ctx, b, backend.CreateRequest{Ref: ref, Spec: spec, Attached: true, Generated: true}, p.quiet)
		if err != nil {
			return sig.explain(err)
		}
		defer a.stopAfter(b, info)
		if len(command) == 0 {
			command = withArgs(info.Spec, rest)
		}
		if len(command) == 0 {
			command = []string{cmp.Or(s.Shell, sandbox.DefaultShell)}
		}
		return a.execIn(sig, b, info, a.jobOf(&e, []byte(defaultDetach), command, nil, "", ""))
	}
	return c
}
