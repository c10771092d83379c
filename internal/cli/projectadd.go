package cli

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/project"
	"github.com/microsandbox-go/microsandbox/internal/sandboxfile"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (a *app) initCommand() *cobra.Command {
	var p projectFlags
	c := a.command(&cobra.Command{Use: "init", Short: "Make a Sandboxfile",
		Long:    "One that is there already stays as it is.",
		Example: "msb init\nmsb init -f ./shop"})
	f := flagsOf(c, false)
	p.declareFile(f, "f")
	f.quiet(&p.quiet)
	c.RunE = func(*cobra.Command, []string) error {
		path, err := project.Find(p.file)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return &sandbox.Error{Kind: sandbox.IO, Message: err.Error()}
		}
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, os.ErrExist) {
			return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: path + " is there already", Hint: "add sandboxes to it with: msb add NAME --image IMAGE"}
		}
		if err == nil {
			_, err = file.WriteString(sandboxfile.Empty)
			err = errors.Join(err, file.Close())
		}
		if err != nil {
			return &sandbox.Error{Kind: sandbox.IO, Message: err.Error()}
		}
		a.did(p.quiet, "Made", path)
		return nil
	}
	return c
}

func (a *app) addCommand() *cobra.Command {
	var (
		p       projectFlags
		s       sandboxfile.Sandbox
		cpus    int
		memory  int
		scripts []string
		start   string
		imports []string
		exports []string
		schema  bool
	)
	c := a.command(&cobra.Command{Use: "add", Short: "Add sandboxes to a Sandboxfile",
		Long: "Everything else in the file stays as it is, comments, too.",
		Example: `msb add web -i python:3.12 -p 8080:80 --start 'python3 -m http.server 80'
msb add db -i postgres:17 -v data:/var/lib/postgresql/data --env-file db.env`},
		positional{"[NAMES...]", "Names of the sandboxes"})
	f := flagsOf(c, false)
	f.value("i", "image", "IMAGE", "Image, a directory (./DIR) or the name of a build", setString(&s.Image))
	f.value("", "memory", "MIB", "Memory in MiB (default 1024)", setInt(&memory, 1, 1<<31-1))
	f.value("", "cpus", "N", "CPUs (default 1)", setInt(&cpus, 1, 255))
	f.value("", "cpu", "N", "The same as --cpus", setInt(&cpus, 1, 255))
	f.hide("cpu")
	f.value("v", "volume", "HOST:GUEST", "Directory of this machine, or a volume; repeatable", setAppend(&s.Volumes, verbatim))
	f.value("p", "port", "HOST:GUEST", "Port to publish; repeatable", setAppend(&s.Ports, verbatim))
	f.value("", "env", "KEY=VALUE", "Environment variable; repeatable", setAppend(&s.Envs, verbatim))
	f.value("", "env-file", "PATH", "File with environment variables", setString(&s.EnvFile))
	f.value("", "depends-on", "NAME", "Sandbox that has to be up before; repeatable", setAppend(&s.DependsOn, verbatim))
	f.value("", "workdir", "PATH", "Working directory", setString(&s.Workdir))
	f.value("", "shell", "SHELL", "Shell of scripts (default /bin/sh)", setString(&s.Shell))
	f.value("", "script", "NAME=TEXT", "Script; repeatable", setAppend(&scripts, verbatim))
	f.value("", "start", "TEXT", "The script that it runs when it starts", setString(&start))
	f.value("", "import", "NAME=PATH", "Kept in the file, and of no effect; repeatable", setAppend(&imports, verbatim))
	f.value("", "export", "NAME=PATH", "The same; repeatable", setAppend(&exports, verbatim))
	f.value("", "scope", "SCOPE", "What it may reach: none, group, public (default) or any", func(v string) error {
		return setWord(&s.Scope, "none", "group", "public", "any")(strings.ToLower(v))
	})
	p.declare(f)
	f.toggle("", "schema", "Print the JSON Schema of a Sandboxfile, and add nothing", &schema)
	c.RunE = func(c *cobra.Command, names []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		if schema {
			text, err := sandboxfile.Schema()
			if err == nil {
				_, err = fmt.Fprintf(a.out, "%s\n", text)
			}
			return err
		}
		if len(names) == 0 || s.Image == "" {
			return usageErrorf("for example: msb add web --image python:3.12", "msb add needs NAMES and --image")
		}
		if memory > 0 {
			m := uint32(memory)
			s.Memory = &m
		}
		if cpus > 0 {
			n := uint8(cpus)
			s.CPUs = &n
		}
		var err error
		if s.Scripts, err = pairs(scripts); err != nil {
			return err
		}
		if start != "" {
			if s.Scripts == nil {
				s.Scripts = map[string]string{}
			}
			s.Scripts[sandboxfile.StartScript] = start
		}
		if s.Imports, err = pairs(imports); err != nil {
			return err
		}
		if s.Exports, err = pairs(exports); err != nil {
			return err
		}
		s.Shell = cmp.Or(s.Shell, sandbox.DefaultShell)
		path, err := project.Find(p.file)
		if err != nil {
			return err
		}
		check := s
		check.EnvFile = "" // it may be written later
		for _, name := range names {
			if err := sandbox.Name(name).Validate(); err != nil {
				return err
			}
			if _, err := check.Spec(name, sandboxfile.Rules{Dir: filepath.Dir(path)}); err != nil {
				return err
			}
		}
		if err := sandboxfile.Add(path, names, s); err != nil {
			return err
		}
		for _, name := range names {
			a.did(p.quiet, "Added", name)
		}
		if f, err := sandboxfile.Load(path); err == nil { // msb up would refuse it; the other may be added next
			for _, on := range s.DependsOn {
				if _, there := f.Sandboxes[on]; !there {
					a.warn("depends_on: there is no sandbox "+on+" in "+path, "add it with: msb add "+on+" --image IMAGE")
				}
			}
		}
		return nil
	}
	return c
}

// pairs reads NAME=TEXT; nil for none.
func pairs(all []string) (map[string]string, error) {
	var m map[string]string
	for _, one := range all {
		k, v, ok := strings.Cut(one, "=")
		if !ok || k == "" {
			return nil, usageErrorf("", "%q is not of the form NAME=TEXT", clip(one))
		}
		if m == nil {
			m = map[string]string{}
		}
		m[k] = v
	}
	return m, nil
}

// removeEntries takes sandboxes out of a Sandboxfile (msb remove --file). What was made of them stays.
func (a *app) removeEntries(file string, names []string, quiet bool) error {
	path, err := project.Find(file)
	if err != nil {
		return err
	}
	dropped, err := sandboxfile.Drop(path, names)
	if errors.Is(err, os.ErrNotExist) {
		return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: "there is no " + path, Hint: "make one with: msb init"}
	}
	if err != nil {
		return err
	}
	for _, name := range dropped {
		a.did(quiet, "Dropped", name)
	}
	return nil
}
