package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
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
	c.ValidArgsFunction = a.completeEntries(&p)
	c.RunE = func(c *cobra.Command, names []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		o, err := a.open(c.Context(), p.file, UseManage)
		if err != nil {
			return err
		}
		defer o.close()
		if names, err = o.Select(names); err != nil {
			return err
		}
		return o.s.clean(o.logs(names, &l))
	}
	return c
}

// logs prints the logs of sandboxes together: by the time of their entries or, if it follows, as they come.
func (o *opened) logs(names []string, l *logsFlags) error {
	reader, ok := o.b.(backend.LogReader)
	if !ok {
		return unsupportedHere("Sandbox::logs")
	}
	infos, err := o.Infos(o.s.ctx, o.b)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { _, there := infos[n]; return !there })
	if len(names) == 0 {
		fmt.Fprintln(o.app.err, "None of them has been started (msb up starts them).")
		return nil
	}
	width := 0
	for _, n := range names {
		width = max(width, len(n))
	}
	var mu sync.Mutex
	var printers []*logPrinter
	var streams []backend.LogStream
	for i, name := range names {
		stream, err := reader.OpenLogs(o.s.ctx, infos[name].Ref, sandbox.LogOptions{Sources: l.sources, Since: l.since, Until: l.until, Tail: l.tail, Follow: l.follow})
		if err != nil {
			return err
		}
		defer stream.Close()
		printer := l.printer(o.app.out)
		if len(names) > 1 {
			prefix := name + strings.Repeat(" ", width-len(name)) + " | "
			if printer.colour {
				prefix = sessionColours[i%len(sessionColours)] + prefix + "\x1b[0m"
			}
			printer.out = &prefixed{to: o.app.out, prefix: prefix, mu: &mu}
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
