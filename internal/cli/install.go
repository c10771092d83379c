package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// An installed command is a script in the user's directory of programs that runs msb run; the lines with these words say so.
const (
	aliasMark = "# MSB-ALIAS: "
	imageMark = "# MSB-IMAGE: "
	// installedPrefix is before the name of the sandbox that the command runs in.
	installedPrefix = "installed-"
)

func (a *app) installCommand() *cobra.Command {
	var (
		given             []string // flags for msb run
		name              string
		force, list, temp bool
		noPull, whole     bool
		quiet             bool
	)
	c := a.command(&cobra.Command{Use: "install", Short: "Make a sandbox a command of this machine",
		Long: `The command is a script in ~/.local/bin. Its arguments, input, terminal and exit code are those of the command in the sandbox,
which is kept for the next time, with its files, unless --tmp is given. -v . mounts the directory of the installation, not that of the call.`,
		Example: `msb install -n py python:3.12 -- python3
msb install --tmp -v ~/src:/src -w /src golang -- go
msb install -l`},
		positional{"[IMAGE]", "Image to install"}, positional{"[-- COMMAND...]", "Command to run in it, before the arguments of the call"})
	f := flagsOf(c, false)
	pass := func(short, long, value, help string, check func(string) (string, error)) {
		f.value(short, long, value, help, func(v string) error {
			v, err := check(v)
			given = append(given, "--"+long, v)
			return err
		})
	}
	for _, section := range []string{"conf", "net-conf", "resource-conf", "runtime-conf", "fs-conf", "secret-conf", "script-conf"} {
		pass("", section, "PATH", "As of msb run; read at each start", func(v string) (string, error) {
			whole = whole || section == "conf"
			return filepath.Abs(v)
		})
	}
	f.value("n", "name", "NAME", "Name of the command (default that of the image)", setString(&name))
	pass("c", "cpus", "N", "As of msb run", verbatim)
	pass("m", "memory", "SIZE", "As of msb run", verbatim)
	for _, m := range [...]struct{ short, name string }{{"v", "volume"}, {"", "mount-dir"}, {"", "mount-file"}} {
		pass(m.short, m.name, "SOURCE:DEST[:OPTIONS]", "As of msb run", func(v string) (string, error) {
			src, rest, ok := strings.Cut(v, ":")
			if !ok || m.name == "volume" && !sandbox.IsHostPath(src) {
				return v, nil
			}
			abs, err := filepath.Abs(src)
			return abs + ":" + rest, err
		})
	}
	f.refuse("", "mount-disk", "SOURCE:DEST[:OPTIONS]", "As of msb run", "not supported: "+needsVM, "mount a directory: -v ./DIR:DEST")
	pass("", "mount-named", "NAME:DEST[:OPTIONS]", "As of msb run", verbatim)
	pass("w", "workdir", "PATH", "As of msb run", verbatim)
	pass("", "shell", "SHELL", "As of msb run", verbatim)
	pass("e", "env", "KEY=VALUE", "As of msb run", verbatim)
	f.toggle("f", "force", "Replace a command of that name, and remove its sandbox", &force)
	f.toggle("", "no-pull", "Do not pull the image now", &noPull)
	f.toggle("", "tmp", "Start anew every time", &temp)
	f.toggle("l", "list", "List what is installed", &list)
	f.quiet(&quiet)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		dir, err := programs()
		if err != nil {
			return err
		}
		if list {
			return a.listInstalled(dir)
		}
		images, command := split(c, args)
		if len(images) == 0 && !whole {
			return usageErrorf("for example: msb install -n py python:3.12 -- python3", "msb install needs an image")
		}
		image := first(images)
		if image != "" && (sandbox.IsHostPath(image) || image == "." || image == "..") {
			if image, err = filepath.Abs(image); err != nil {
				return err
			}
		}
		if name == "" {
			name = path.Base(image)
			name, _, _ = strings.Cut(name, "@")
			name, _, _ = strings.Cut(name, ":")
		}
		ref, err := a.refOf(installedPrefix + name)
		if err != nil {
			return err
		}
		spec, registry, err := a.installedSpec(given, ref, image)
		if err != nil {
			return err
		}
		file := filepath.Join(dir, name)
		have, err := installed(file)
		switch {
		case err == nil && have == nil, errors.Is(err, fs.ErrNotExist):
			if other, lerr := exec.LookPath(name); lerr == nil && (!force || err == nil) {
				return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("command already exists: %s (%s)", name, other), Hint: "give it another name with -n"}
			}
			if err == nil {
				return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: file + " is there, and msb install has not made it", Hint: "give the command another name with -n"}
			}
		case err != nil:
			return err
		case !force:
			return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: "command already exists: " + name, Hint: "replace it with --force"}
		}
		b, err := a.backend(UseCreate)
		if err != nil {
			return err
		}
		s := a.catchSignals(c.Context())
		defer s.stop()
		if force {
			if err := b.Remove(s.ctx, ref, true); err != nil && sandbox.KindOf(err) != sandbox.NotFound {
				return s.explain(err)
			}
		}
		if i := spec.Image.OCI; i != nil && i.Reference != sandbox.HostImage && !noPull {
			if images, ok := b.(backend.Images); ok {
				a.spinFor(quiet, "Pulling "+i.Reference)
				if _, err := images.PullImage(s.ctx, i.Reference, backend.PullOptions{Auth: registry}); err != nil {
					return s.explain(err)
				}
			}
		}
		script, err := a.installedScript(name, given, image, command, temp)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return &sandbox.Error{Kind: sandbox.IO, Message: err.Error()}
		}
		if err := atomicfile.WriteSync(file, []byte(script), 0o755); err != nil {
			return &sandbox.Error{Kind: sandbox.IO, Message: "write " + file, Err: err}
		}
		a.did(quiet, "Installed", file)
		if !slices.Contains(filepath.SplitList(os.Getenv("PATH")), dir) {
			a.warn(dir+" is not in PATH", "add it: export PATH=\""+dir+":$PATH\"")
		}
		return nil
	}
	return c
}

// installedSpec is what msb run makes of the flags; they are checked by that.
func (a *app) installedSpec(given []string, ref sandbox.Ref, image string) (sandbox.Spec, *backend.RegistryAuth, error) {
	var s sandboxFlags
	c := &cobra.Command{Use: "install"}
	s.declare(flagsOf(c, false))
	if err := c.ParseFlags(given); err != nil {
		return sandbox.Spec{}, nil, flagError(c, err)
	}
	spec, err := a.spec(&s, ref.Name, image)
	return spec, s.registry, err
}

func (a *app) installedScript(name string, given []string, image string, command []string, temp bool) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", &sandbox.Error{Kind: sandbox.IO, Message: "find msb", Err: err}
	}
	words := []string{"run", "--quiet"}
	if a.namespace != sandbox.DefaultNamespace {
		words = append([]string{"--namespace", a.namespace}, words...)
	}
	if !temp {
		words = append(words, "--installed", "--name", installedPrefix+name)
	}
	words = append(words, given...)
	if image != "" {
		words = append(words, image)
	}
	words = append(append(words, "--"), command...)
	var b strings.Builder
	b.WriteString("#!/bin/sh\n" + aliasMark + name + "\n" + imageMark + oneLine(image) + "\n")
	if home := os.Getenv(config.HomeVar); home != "" {
		if home, err = filepath.Abs(home); err != nil {
			return "", &sandbox.Error{Kind: sandbox.IO, Message: "find MSB_HOME", Err: err}
		}
		fmt.Fprintf(&b, "[ -n \"$%s\" ] || export %s=%s\n", config.HomeVar, config.HomeVar, shellQuote(home))
	}
	fmt.Fprintf(&b, "msb=${MSB_PATH:-%s}\nexec \"$msb\"", shellQuote(self))
	for _, w := range words {
		b.WriteString(" " + shellQuote(w))
	}
	b.WriteString(" \"$@\"\n")
	return b.String(), nil
}

// shellQuote makes one word of s for sh.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// programs is where the user's programs are.
func programs() (string, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return "", &sandbox.Error{Kind: sandbox.IO, Message: "find the home directory", Err: err}
	}
	return filepath.Join(home, ".local", "bin"), nil
}

// alias is what an installed command says of itself.
type alias struct{ name, image string }

// installed reads a script; nil is one that msb install has not made.
func installed(file string) (*alias, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, err
	}
	var found *alias
	for in := bufio.NewScanner(io.LimitReader(f, 4096)); in.Scan(); {
		if name, ok := strings.CutPrefix(in.Text(), aliasMark); ok && name == filepath.Base(file) {
			found = &alias{name: name}
		}
		if image, ok := strings.CutPrefix(in.Text(), imageMark); ok && found != nil {
			found.image = image
		}
	}
	return found, nil
}

func (a *app) listInstalled(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &sandbox.Error{Kind: sandbox.IO, Message: err.Error()}
	}
	var rows [][]string
	for _, f := range files {
		if have, err := installed(filepath.Join(dir, f.Name())); err == nil && have != nil {
			rows = append(rows, []string{have.name, oneLine(have.image), filepath.Join(dir, f.Name())})
		}
	}
	if len(rows) == 0 {
		fmt.Fprintln(a.err, "Nothing is installed.")
		return nil
	}
	return printTable(a.out, []string{"NAME", "IMAGE", "FILE"}, rows)
}

func (a *app) uninstallCommand() *cobra.Command {
	var quiet bool
	c := a.command(&cobra.Command{Use: "uninstall", Short: "Remove installed commands and their sandboxes",
		Example: "msb uninstall py"},
		positional{"<NAMES...>", "Commands to remove"})
	f := flagsOf(c, false)
	f.quiet(&quiet)
	c.RunE = func(c *cobra.Command, names []string) error {
		dir, err := programs()
		if err != nil {
			return err
		}
		return a.forEach(c, UseManage, names, nil, func(ctx context.Context, b backend.Backend, ref sandbox.Ref) error {
			file := filepath.Join(dir, string(ref.Name))
			have, err := installed(file)
			if err != nil || have == nil {
				return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: string(ref.Name) + " is no installed command", Hint: "see which there are with: msb install -l"}
			}
			ref.Name = installedPrefix + ref.Name
			if err := b.Remove(ctx, ref, false); err != nil && sandbox.KindOf(err) != sandbox.NotFound {
				return err
			}
			if err := os.Remove(file); err != nil {
				return &sandbox.Error{Kind: sandbox.IO, Message: err.Error()}
			}
			a.did(quiet, "Uninstalled", have.name)
			return nil
		})
	}
	return c
}
