package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/project"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// logCommand is msb log: what a project's sandboxes printed, in the words of microsandbox 0.2.
func (a *app) logCommand() *cobra.Command {
	var p projectFlags
	l := logsFlags{color: "auto"}
	c := a.command(&cobra.Command{Use: "log", Short: "Show what a project's sandboxes printed",
		Long:    "Lines of several sandboxes begin with their names. For all that msb logs can do: msb logs --file PATH NAME.",
		Example: "msb log\nmsb log -F web worker\nmsb log -t 20 db"},
		positional{"[NAMES...]", "Sandboxes of the Sandboxfile; without any, all"})
	f := flagsOf(c, false)
	f.toggle("F", "follow", "Wait for more, until the sandboxes have ended", &l.follow)
	f.value("t", "tail", "N", "Only the last so many entries of each", setInt(&l.tail, 1, 1<<31-1))
	f.toggle("", "timestamps", "Begin each line with its time", &l.timestamps)
	f.words("", "color", "WHEN", "Colours: auto (default), always or never", &l.color, "auto", "always", "never")
	p.declare(f)
	c.RunE = func(c *cobra.Command, names []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		proj, err := a.project(p.file)
		if err != nil {
			return err
		}
		if names, err = proj.Select(names); err != nil {
			return err
		}
		b, err := a.backend(UseManage)
		if err != nil {
			return err
		}
		s := a.catchSignals(c.Context())
		defer s.stop()
		return s.clean(a.projectLogs(s.ctx, b, proj, names, &l))
	}
	return c
}

// projectLogs prints the logs of sandboxes together: by the time of their entries or, if it follows, as they come.
func (a *app) projectLogs(ctx context.Context, b backend.Backend, p *project.Project, names []string, l *logsFlags) error {
	reader, ok := b.(backend.LogReader)
	if !ok {
		return unsupportedHere("Sandbox::logs")
	}
	infos, err := p.Infos(ctx, b)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { _, there := infos[n]; return !there })
	width := 0
	for _, n := range names {
		width = max(width, len(n))
	}
	var mu sync.Mutex
	var printers []*logPrinter
	var streams []backend.LogStream
	for i, name := range names {
		stream, err := reader.OpenLogs(ctx, infos[name].Ref, sandbox.LogOptions{Sources: l.sources, Since: l.since, Until: l.until, Tail: l.tail, Follow: l.follow})
		if err != nil {
			return err
		}
		defer stream.Close()
		printer := l.printer(a.out)
		if len(names) > 1 {
			prefix := name + strings.Repeat(" ", width-len(name)) + " | "
			if printer.colour {
				prefix = sessionColours[i%len(sessionColours)] + prefix + "\x1b[0m"
			}
			printer.out = &prefixed{to: a.out, prefix: prefix, mu: &mu}
		}
		streams, printers = append(streams, stream), append(printers, printer)
	}
	end := func() error {
		var errs []error
		for _, p := range printers {
			errs = append(errs, p.end())
			if w, ok := p.out.(*prefixed); ok {
				errs = append(errs, w.flush())
			}
		}
		return errors.Join(errs...)
	}
	if l.follow {
		errs := make([]error, len(streams))
		var all sync.WaitGroup
		for i := range streams {
			all.Go(func() {
				for {
					e, err := streams[i].Next()
					if err == nil && (l.grep == nil || l.grep.Match(e.Data)) {
						err = printers[i].entry(e)
					}
					if err != nil {
						if !errors.Is(err, io.EOF) {
							errs[i] = err
						}
						return
					}
				}
			})
		}
		all.Wait()
		return errors.Join(append(errs, end())...)
	}
	next := make([]*sandbox.LogEntry, len(streams))
	advance := func(i int) error {
		e, err := streams[i].Next()
		next[i] = nil
		if err == nil {
			next[i] = &e
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
		return err
	}
	for i := range streams {
		if err := advance(i); err != nil {
			return err
		}
	}
	for {
		first := -1
		for i, e := range next {
			if e != nil && (first < 0 || e.Time.Before(next[first].Time)) {
				first = i
			}
		}
		if first < 0 {
			return end()
		}
		if e := next[first]; l.grep == nil || l.grep.Match(e.Data) {
			if err := printers[first].entry(*e); err != nil {
				return err
			}
		}
		if err := advance(first); err != nil {
			return err
		}
	}
}

// prefixed writes whole lines, each with a prefix.
type prefixed struct {
	to     io.Writer
	prefix string
	mu     *sync.Mutex
	part   []byte
}

// maxLine is how long a line may be before it is written without its end.
const maxLine = 64 << 10

func (w *prefixed) Write(p []byte) (int, error) {
	w.part = append(w.part, p...)
	i := bytes.LastIndexByte(w.part, '\n') + 1
	if i == 0 && len(w.part) > maxLine {
		w.part = append(w.part, '\n')
		i = len(w.part)
	}
	if i == 0 {
		return len(p), nil
	}
	err := w.lines(w.part[:i])
	w.part = append(w.part[:0], w.part[i:]...)
	return len(p), err
}

func (w *prefixed) lines(text []byte) error {
	var b bytes.Buffer
	for line := range bytes.Lines(text) {
		b.WriteString(w.prefix)
		b.Write(line)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.to.Write(b.Bytes())
	return err
}

func (w *prefixed) flush() error {
	if len(w.part) == 0 || string(w.part) == "\x1b[0m" {
		return nil
	}
	err := w.lines(append(w.part, '\n'))
	w.part = nil
	return err
}

// buildCommand is msb build.
func (a *app) buildCommand() *cobra.Command {
	var (
		p     projectFlags
		force bool
	)
	c := a.command(&cobra.Command{Use: "build", Short: "Make images by the builds of a Sandboxfile",
		Long: `The steps of a build are run in a sandbox of its image, as root; what is there then is the image, which sandboxes of the file
have by the build's name (image: NAME). One that is there as the file says it is not made again. msb up makes what is missing.`,
		Example: "msb build\nmsb build --force db"},
		positional{"[NAMES...]", "Builds of the Sandboxfile; without any, all"})
	f := flagsOf(c, false)
	f.toggle("", "force", "Make it again, also when nothing has changed", &force)
	f.refuse("", "snapshot", "", "Keep the build as a snapshot", "not supported yet: snapshots come with a later release", "use it as an image")
	p.declareFile(f, "f")
	f.quiet(&p.quiet)
	c.RunE = func(c *cobra.Command, names []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		proj, err := a.project(p.file)
		if err != nil {
			return err
		}
		order, err := proj.BuildOrder(names)
		if err != nil {
			return err
		}
		b, err := a.backend(UseCreate)
		if err != nil {
			return err
		}
		s := a.catchSignals(c.Context())
		defer s.stop()
		return s.explain(a.locked(s.ctx, proj, func() error {
			tell, end := a.teller(p.quiet)
			for _, name := range order {
				opt := project.BuildOptions{Force: force && (len(names) == 0 || slices.Contains(names, name))}
				if !p.quiet {
					opt.Out = above{a}
				}
				made, err := proj.Build(s.ctx, b, name, opt, tell)
				if err != nil {
					return end(err)
				}
				if made {
					tell(project.Event{Name: name + "  " + proj.BuildRef(name), Verb: "Built"})
				} else {
					tell(project.Event{Name: name + "  " + proj.BuildRef(name), Verb: "Up to date"})
				}
			}
			return end(nil)
		}))
	}
	return c
}

// above writes to stderr above what moves there. What a guest printed reaches a terminal as text.
type above struct{ a *app }

func (w above) Write(p []byte) (int, error) {
	f := escapeFilter{}
	text := f.filter(nil, p)
	var err error
	w.a.above(func() { _, err = w.a.err.Write(text) })
	return len(p), err
}

// treeCommand is msb tree: what depends on what.
func (a *app) treeCommand() *cobra.Command {
	var p projectFlags
	level := 32
	c := a.command(&cobra.Command{Use: "tree", Short: "Show what a project's sandboxes depend on",
		Long: "msb --tree is another thing: it prints all commands and flags.", Example: "msb tree\nmsb tree -L 1 web"},
		positional{"[NAMES...]", "Sandboxes of the Sandboxfile; without any, those that nothing depends on"})
	f := flagsOf(c, false)
	f.value("L", "level", "N", "How deep", setInt(&level, 1, 32))
	p.declare(f)
	c.RunE = func(_ *cobra.Command, names []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		proj, err := a.project(p.file)
		if err != nil {
			return err
		}
		roots, err := proj.Select(names)
		if err != nil {
			return err
		}
		if _, err := proj.Order(roots); err != nil { // no circles
			return err
		}
		if len(names) == 0 {
			roots = slices.DeleteFunc(roots, func(name string) bool {
				for _, s := range proj.File.Sandboxes {
					if slices.Contains(s.DependsOn, name) {
						return true
					}
				}
				return false
			})
		}
		var b strings.Builder
		var write func(name, indent string, depth int)
		write = func(name, indent string, depth int) {
			on := proj.File.Sandboxes[name].DependsOn
			for i, other := range on {
				branch, deeper := "├── ", "│   "
				if i == len(on)-1 {
					branch, deeper = "└── ", "    "
				}
				fmt.Fprintf(&b, "%s%s%s (%s)\n", indent, branch, other, oneLine(proj.File.Sandboxes[other].Image))
				if depth < level && b.Len() < 1<<20 {
					write(other, indent+deeper, depth+1)
				}
			}
		}
		for _, name := range roots {
			fmt.Fprintf(&b, "%s (%s)\n", name, oneLine(proj.File.Sandboxes[name].Image))
			write(name, "", 1)
		}
		_, err = a.out.WriteString(b.String())
		return err
	}
	return c
}

// cleanCommand is msb clean: it removes what a project has on the disk.
func (a *app) cleanCommand() *cobra.Command {
	var (
		p     projectFlags
		force bool
	)
	c := a.command(&cobra.Command{Use: "clean", Short: "Remove a project's sandboxes and their files",
		Long: `Without a name all that were made of the Sandboxfile are removed, with a name one that the file has no more. Volumes stay (msb
volume rm), and so does the file.`,
		Example: "msb clean --force\nmsb clean old"},
		positional{"[NAME]", "Sandbox to remove"})
	f := flagsOf(c, false)
	f.toggle("F", "force", "Also what the file still has, and what runs", &force)
	f.refuse("u", "user", "", "Remove everything of this user", "not supported", "remove sandboxes with msb rm, images with msb image prune, and MSB_HOME by hand")
	f.refuse("a", "all", "", "Both", "not supported", "remove sandboxes with msb rm, images with msb image prune, and MSB_HOME by hand")
	p.declareFile(f, "f")
	f.quiet(&p.quiet)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		proj, err := a.project(p.file)
		if err != nil {
			return err
		}
		if !force && len(args) == 0 {
			return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: "Configuration file exists. Use --force to clean the entire environment"}
		}
		if !force && proj.Has(args[0]) {
			return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("Sandbox '%s' exists in configuration. Use --force to clean it", args[0])}
		}
		b, err := a.backend(UseManage)
		if err != nil {
			return err
		}
		return a.locked(c.Context(), proj, func() error {
			infos, err := proj.Infos(c.Context(), b)
			if err != nil {
				return err
			}
			if len(args) > 0 {
				if _, there := infos[args[0]]; !there {
					return &sandbox.Error{Kind: sandbox.NotFound, Message: args[0], Hint: "nothing is there of a sandbox of that name in " + proj.Path}
				}
			}
			for name, i := range infos {
				if len(args) > 0 && name != args[0] {
					continue
				}
				if err := b.Remove(c.Context(), i.Ref, force); err != nil {
					return err
				}
				a.did(p.quiet, "Removed", string(i.Ref.Name))
			}
			return nil
		})
	}
	return c
}
