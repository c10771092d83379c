package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// logsFlags are the flags of msb logs.
type logsFlags struct {
	tail                   int
	since, until           time.Time
	follow                 bool
	sources                []sandbox.LogSource
	grep                   *regexp.Regexp
	timestamps, json       bool
	color                  string
	noColor                bool
	showID, colourSessions bool
}

func (a *app) logsCommand() *cobra.Command {
	l := logsFlags{color: "auto"}
	var proj projectFlags
	c := a.command(&cobra.Command{Use: "logs", Short: "Show what ran in a sandbox printed",
		Long: `It shows what commands printed, whoever ran them, also of a sandbox that has ended but is kept. Of escape sequences only
colours reach a terminal, and none anything else. The last 40 MiB or so are there.`,
		Example: `msb logs work
msb logs -f --timestamps work
msb logs --source system work
msb logs --since 5m --grep 'error|panic' work`},
		positional{"<NAME>", "Sandbox whose log to show"})
	f := flagsOf(c, false)
	f.value("", "tail", "N", "Only the last so many entries", setInt(&l.tail, 1, 1<<31-1))
	f.value("", "since", "TIME", "Only what was printed since: RFC 3339, or how long ago, e.g. 30s, 5m, 2h or 1d", setParsed(&l.since, parseMoment))
	f.value("", "until", "TIME", "Only what was printed before", setParsed(&l.until, parseMoment))
	f.toggle("f", "follow", "Wait for more, until the sandbox has ended", &l.follow)
	f.toggle("", "timestamps", "Begin each line with its time", &l.timestamps)
	f.value("", "source", "SOURCE", "Of stdout, stderr, output (of terminals), system, all; repeatable (default all but system)", l.addSources)
	f.suggest("source", "stdout", "stderr", "output", "system", "all")
	f.value("", "grep", "REGEX", "Only entries that match", func(v string) (err error) {
		l.grep, err = regexp.Compile(v)
		return err
	})
	f.toggle("", "json", "Print entries as lines of JSON", &l.json)
	f.words("", "color", "WHEN", "Colours: auto (default), always or never", &l.color, "auto", "always", "never")
	f.toggle("", "no-color", "The same as --color never", &l.noColor)
	f.toggle("", "show-id", "Begin each line with the number of the session that printed it", &l.showID)
	f.toggle("", "color-sessions", "A colour for each session; implies --show-id", &l.colourSessions)
	proj.declareFile(f, "")
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, args []string) error {
		name := args[0]
		if proj.file != "" {
			p, err := a.project(proj.file)
			if err == nil {
				_, err = p.Select(args)
			}
			if err != nil {
				return err
			}
			name = string(p.Ref(name).Name)
		}
		b, info, err := a.get(c.Context(), name)
		if sandbox.KindOf(err) == sandbox.NotFound && proj.file == "" {
			if p := a.here(name); p != nil {
				b, info, err = a.get(c.Context(), string(p.Ref(name).Name))
				if sandbox.KindOf(err) == sandbox.NotFound {
					err = &sandbox.Error{Op: "logs", Ref: p.Ref(name), Kind: sandbox.NotFound, Hint: "it has not been started: msb up " + name}
				}
			}
		}
		if err != nil {
			return err
		}
		reader, ok := b.(backend.LogReader)
		if !ok {
			return unsupportedHere("Sandbox::logs")
		}
		s := a.catchSignals(c.Context())
		defer s.stop()
		return s.clean(a.logs(s.ctx, reader, info.Ref, &l))
	}
	return c
}

// clean is explain for a command that is ended with ctrl-C in the ordinary way.
func (s *signals) clean(err error) error {
	if e, ok := context.Cause(s.ctx).(*signalError); ok && e.sig == syscall.SIGINT {
		return nil
	}
	return s.explain(err)
}

// unsupportedHere is the error of what a backend lacks (contract msb-0.6 §2.10).
func unsupportedHere(what string) error {
	return &sandbox.Error{Kind: sandbox.Unsupported, Message: what + " is not supported by this backend: use a local backend"}
}

func (l *logsFlags) addSources(v string) error {
	for word := range strings.SplitSeq(v, ",") {
		s := sandbox.LogSource(strings.TrimSpace(word))
		switch s {
		case "all":
			l.sources = append(l.sources, sandbox.LogStdout, sandbox.LogStderr, sandbox.LogOutput, sandbox.LogSystem)
		case sandbox.LogStdout, sandbox.LogStderr, sandbox.LogOutput, sandbox.LogSystem:
			l.sources = append(l.sources, s)
		default:
			return fmt.Errorf("%q is not one of stdout, stderr, output, system, all", clip(word))
		}
	}
	return nil
}

// parseMoment reads a time, or how long ago it was (contract msb-0.6 §1.2).
func parseMoment(v string) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, v); err == nil {
		return at, nil
	}
	days := strings.HasSuffix(v, "d")
	text := v
	if days {
		text = strings.TrimSuffix(v, "d") + "h"
	}
	d, err := sandbox.ParseDuration(text)
	if days {
		d *= 24
	}
	if err != nil || v == "" || d < 0 || '0' <= v[len(v)-1] && v[len(v)-1] <= '9' {
		return time.Time{}, fmt.Errorf("%q is no time: want RFC 3339 (2026-01-31T12:00:00Z), or how long ago, e.g. 30s, 5m, 2h or 1d", clip(v))
	}
	return time.Now().Add(-d), nil
}

func (a *app) logs(ctx context.Context, b backend.LogReader, ref sandbox.Ref, l *logsFlags) error {
	stream, err := b.OpenLogs(ctx, ref, sandbox.LogOptions{Sources: l.sources, Since: l.since, Until: l.until, Tail: l.tail, Follow: l.follow})
	if err != nil {
		return err
	}
	defer stream.Close()
	var w entryWriter = &jsonEntries{out: a.out}
	if !l.json {
		w = l.printer(a.out)
	}
	for {
		e, err := stream.Next()
		if errors.Is(err, io.EOF) {
			return w.end()
		}
		if err != nil {
			return errors.Join(err, w.end())
		}
		if l.grep != nil && !l.grep.Match(e.Data) {
			continue
		}
		if err := w.entry(e); err != nil {
			return err
		}
	}
}

// entryWriter prints entries.
type entryWriter interface {
	entry(sandbox.LogEntry) error
	end() error
}

// logTime is how times of entries are printed.
const logTime = "2006-01-02T15:04:05.000Z"

// jsonEntries prints them as they are stored (contract msb-0.6 §1.3).
type jsonEntries struct{ out io.Writer }

func (j *jsonEntries) entry(e sandbox.LogEntry) error {
	line := struct {
		Data    string            `json:"d"`
		Coding  *string           `json:"e"`
		Session *uint64           `json:"id"`
		Source  sandbox.LogSource `json:"s"`
		Time    string            `json:"t"`
	}{string(e.Data), nil, e.Session, e.Source, e.Time.UTC().Format(logTime)}
	if !utf8.Valid(e.Data) {
		coding := "b64"
		line.Data, line.Coding = base64.StdEncoding.EncodeToString(e.Data), &coding
	}
	enc := json.NewEncoder(j.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(line)
}

func (j *jsonEntries) end() error { return nil }

func (l *logsFlags) printer(out *os.File) *logPrinter {
	colour := l.color == "always" || l.color == "auto" && styleOf(out).on
	return &logPrinter{out: out, colour: colour && !l.noColor, times: l.timestamps, ids: l.showID || l.colourSessions, sessions: l.colourSessions,
		filters: map[stream]*escapeFilter{}}
}
