package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (a *app) serverCommand() *cobra.Command {
	c := a.groupCommand(&cobra.Command{Use: "server", Short: "Serve sandboxes to clients and agents over HTTP",
		Long: `The API of microsandbox 0.2 at /api/v1/rpc, MCP at /mcp, and what runs in sandboxes at /proxy. Sandboxes are the same as those of
the other commands, and live on when the server ends.`,
		Example: `msb server start --dev
msb server start --detach && msb server keygen --expire 7d
curl -s http://127.0.0.1:5555/api/v1/health
msb server stop`})
	c.AddCommand(a.serverStartCommand(), a.serverStopCommand(), a.serverStatusCommand(), a.serverListCommand(), a.serverLogCommand(), a.serverKeygenCommand(),
		a.serverKeysCommand(), a.serverSSHCommand())
	return c
}

func (a *app) serverStopCommand() *cobra.Command {
	c := a.command(&cobra.Command{Use: "stop", Short: "Stop the server",
		Long:    "Requests that are under way may end first. Sandboxes live on.",
		Example: "msb server stop"})
	c.RunE = func(c *cobra.Command, _ []string) error {
		set, err := a.settings()
		if err != nil {
			return err
		}
		s, err := server.Halt(c.Context(), set.Home)
		if err == nil {
			a.did(false, "Stopped", fmt.Sprintf("the server (PID %d)", s.PID))
		}
		return err
	}
	return c
}

// ofNamespace declares the -n of the server's commands, which begins at all namespaces.
func ofNamespace(f *flags, to *string, help string) {
	f.value("n", "namespace", "NAME", help, func(v string) error {
		*to = v
		if v == server.AllNamespaces {
			*to = ""
			return nil
		}
		return sandbox.Ref{Namespace: v, Name: "any"}.Validate()
	})
}

func (a *app) serverListCommand() *cobra.Command {
	var namespace, format string
	c := a.command(&cobra.Command{Use: "list", Short: "List the sandboxes of all namespaces",
		Example: "msb server list\nmsb server list -n team-a --format json"})
	f := flagsOf(c, false)
	ofNamespace(f, &namespace, "Only those of one namespace")
	f.format(&format)
	c.RunE = func(c *cobra.Command, _ []string) error {
		infos, err := a.ofNamespaces(c.Context(), namespace, nil)
		if err != nil {
			return err
		}
		if format == "json" {
			return printJSON(a.out, each(infos, func(i sandbox.Info) any {
				return map[string]any{"namespace": i.Ref.Namespace, "name": i.Ref.Name, "image": imageOf(i.Spec), "status": i.Status.Title(), "created_at": timestamp(i.CreatedAt)}
			}))
		}
		if len(infos) == 0 {
			fmt.Fprintln(a.err, "No sandboxes found.")
			return nil
		}
		if err := printTable(a.out, []string{"NAMESPACE", "NAME", "IMAGE", "STATUS", "CREATED"}, each(infos, func(i sandbox.Info) []string {
			return []string{i.Ref.Namespace, string(i.Ref.Name), imageOf(i.Spec), i.Status.Title(), date(i.CreatedAt)}
		})); err != nil {
			return err
		}
		namespaces := map[string]bool{}
		for _, i := range infos {
			namespaces[i.Ref.Namespace] = true
		}
		fmt.Fprintf(a.err, "Total Namespaces: %d, Total Sandboxes: %d\n", len(namespaces), len(infos))
		return nil
	}
	return c
}

// ofNamespaces are the sandboxes of a namespace, or of all ("") by namespace; names are those that are wanted, if there are any.
func (a *app) ofNamespaces(ctx context.Context, namespace string, names []string) ([]sandbox.Info, error) {
	b, err := a.backend(UseManage)
	if err != nil {
		return nil, err
	}
	infos, err := b.List(ctx, namespace)
	if err != nil {
		return nil, err
	}
	infos = slices.DeleteFunc(infos, func(i sandbox.Info) bool { return len(names) > 0 && !slices.Contains(names, string(i.Ref.Name)) })
	slices.SortStableFunc(infos, func(x, y sandbox.Info) int { return strings.Compare(x.Ref.Namespace, y.Ref.Namespace) })
	return infos, nil
}

func (a *app) serverStatusCommand() *cobra.Command {
	var namespace, format string
	c := a.command(&cobra.Command{Use: "status", Short: "Show whether the server runs, and what its sandboxes use",
		Example: "msb server status\nmsb server status -n team-a work"},
		positional{"[NAMES...]", "Only these sandboxes"})
	f := flagsOf(c, false)
	ofNamespace(f, &namespace, "Only those of one namespace")
	f.format(&format)
	c.RunE = func(c *cobra.Command, names []string) error {
		set, err := a.settings()
		if err != nil {
			return err
		}
		state, runs, err := server.Find(set.Home)
		if err != nil && runs {
			return err
		}
		infos, err := a.ofNamespaces(c.Context(), namespace, names)
		if err != nil {
			return err
		}
		samples, err := a.sampled(c.Context(), namespace)
		if err != nil {
			return err
		}
		if format == "json" {
			out := map[string]any{"running": runs, "sandboxes": each(infos, func(i sandbox.Info) any {
				m := map[string]any{"namespace": i.Ref.Namespace, "name": i.Ref.Name, "status": i.Status.Title(), "pid": nil, "cpu_percent": nil, "memory_bytes": nil, "disk_bytes": nil}
				if s, ok := samples[i.Ref]; ok {
					m["pid"], m["cpu_percent"], m["memory_bytes"], m["disk_bytes"] = i.RunnerPID, s.CPUPercent, s.MemoryBytes, s.UpperUsedBytes
				}
				return m
			})}
			if runs {
				out["server"] = state
			}
			return printJSON(a.out, out)
		}
		if runs {
			fmt.Fprintf(a.err, "The server runs at %s (PID %d)\n", state.URL, state.PID)
		} else {
			fmt.Fprintln(a.err, "The server does not run.")
		}
		if len(infos) == 0 {
			return nil
		}
		return printTable(a.out, []string{"NAMESPACE", "SANDBOX", "STATUS", "PID", "CPU", "MEMORY", "DISK"}, each(infos, func(i sandbox.Info) []string {
			row := []string{i.Ref.Namespace, string(i.Ref.Name), strings.ToUpper(string(i.Status)), "-", "-", "-", "-"}
			if s, ok := samples[i.Ref]; ok {
				row[3], row[4], row[5] = strconv.Itoa(i.RunnerPID), fmt.Sprintf("%.1f%%", s.CPUPercent), fmt.Sprintf("%d MiB", s.MemoryBytes>>20)
				if s.UpperUsedBytes != nil {
					row[6] = fmt.Sprintf("%d MiB", *s.UpperUsedBytes>>20)
				}
			}
			return row
		}))
	}
	return c
}

// sampled is what running sandboxes use.
func (a *app) sampled(ctx context.Context, namespace string) (map[sandbox.Ref]sandbox.Metrics, error) {
	b, err := a.backend(UseManage)
	if err != nil {
		return nil, err
	}
	samples := map[sandbox.Ref]sandbox.Metrics{}
	m, ok := b.(backend.Meterer)
	if !ok {
		return samples, nil
	}
	all, err := m.AllMetrics(ctx, namespace)
	for _, s := range all {
		if s.State != sandbox.MetricsExited {
			samples[s.Ref] = s
		}
	}
	return samples, err
}

func (a *app) serverLogCommand() *cobra.Command {
	var namespace string
	l := logsFlags{color: "auto"}
	c := a.command(&cobra.Command{Use: "log", Short: "Show the log of the server, or of a sandbox in a namespace",
		Long:    "Without a name it is the server's own: a line of JSON for each request.",
		Example: "msb server log -t 20\nmsb server log -n team-a -f work"},
		positional{"[NAME]", "Sandbox whose log to show"})
	f := flagsOf(c, false)
	ofNamespace(f, &namespace, "Whose sandbox it is; needed with a name")
	f.toggle("f", "follow", "Wait for more", &l.follow)
	f.value("t", "tail", "N", "Only the last so many entries", setInt(&l.tail, 1, 1<<31-1))
	c.RunE = func(c *cobra.Command, args []string) error {
		s := a.catchSignals(c.Context())
		defer s.stop()
		if len(args) == 0 {
			return s.clean(a.serverLog(s.ctx, l.tail, l.follow))
		}
		if namespace == "" {
			return usageErrorf("", "msb server log needs --namespace")
		}
		b, err := a.backend(UseManage)
		if err != nil {
			return err
		}
		reader, ok := b.(backend.LogReader)
		if !ok {
			return unsupportedHere("Sandbox::logs")
		}
		return s.clean(a.logs(s.ctx, reader, sandbox.Ref{Namespace: namespace, Name: sandbox.Name(args[0])}, &l))
	}
	return c
}

// serverLogFile is where the server's log is.
func serverLogFile(home string) string { return filepath.Join(home, "logs", "server.log") }

// serverLog prints the server's log, and follows it over its rotation.
func (a *app) serverLog(ctx context.Context, tail int, follow bool) error {
	set, err := a.settings()
	if err != nil {
		return err
	}
	path := serverLogFile(set.Home)
	f, err := os.Open(path)
	if err != nil {
		return &sandbox.Error{Op: "log", Kind: sandbox.IO, Message: "there is no log of a server", Err: err, Hint: "start one with: msb server start"}
	}
	defer func() { f.Close() }()
	if tail > 0 {
		data, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		lines := slices.Collect(strings.Lines(string(data)))
		if _, err := io.WriteString(a.out, strings.Join(lines[max(0, len(lines)-tail):], "")); err != nil {
			return err
		}
	}
	for {
		if _, err := io.Copy(a.out, f); err != nil {
			return err
		}
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond): // a person reads it
		}
		now, err := os.Stat(path)
		mine, merr := f.Stat()
		if err == nil && merr == nil && !os.SameFile(now, mine) {
			next, err := os.Open(path)
			if err != nil {
				continue
			}
			if _, err := io.Copy(a.out, f); err != nil {
				next.Close()
				return err
			}
			f.Close()
			f = next
		}
	}
}

func (a *app) serverSSHCommand() *cobra.Command {
	var namespace string
	c := a.command(&cobra.Command{Use: "ssh", Short: "Get a shell in a sandbox of a namespace",
		Long:    "It is the shell of msb exec -t; there is no SSH in between, for it is this machine's.",
		Example: "msb server ssh -n team-a work"},
		positional{"<NAME>", "Sandbox to get it in"})
	f := flagsOf(c, false)
	ofNamespace(f, &namespace, "Whose sandbox it is; needed")
	c.RunE = func(c *cobra.Command, args []string) error {
		if namespace == "" {
			return usageErrorf("", "msb server ssh needs --namespace")
		}
		a.namespace = namespace
		b, info, err := a.get(c.Context(), args[0])
		if err != nil {
			return err
		}
		s := a.catchSignals(c.Context())
		defer s.stop()
		return a.execStarted(s, b, info, false, a.jobOf(&execFlags{tty: true}, []byte(defaultDetach), nil, nil, "", ""))
	}
	return c
}

func (a *app) serverKeygenCommand() *cobra.Command {
	var format string
	namespace, life := server.AllNamespaces, server.DefaultLife
	c := a.command(&cobra.Command{Use: "keygen", Short: "Make an API key",
		Long: `A key is for the sandboxes of one namespace, or for everything (*). It is shown once, and good until it expires (24 hours unless said
otherwise) or is revoked.`,
		Example: "msb server keygen\nmsb server keygen -n team-a --expire 30d"})
	f := flagsOf(c, false)
	f.value("", "expire", "DURATION", "For how long it is good: a number of s, m, h (default), d, w, mo or y", func(v string) (err error) {
		life, err = parseLife(v)
		return err
	})
	f.value("n", "namespace", "NAME", `Whose sandboxes it is for (default "*", everybody's)`, func(v string) error {
		namespace = v
		if v == server.AllNamespaces {
			return nil
		}
		return sandbox.Ref{Namespace: v, Name: "any"}.Validate()
	})
	f.format(&format)
	c.RunE = func(c *cobra.Command, _ []string) error {
		keys, err := a.keys()
		if err != nil {
			return err
		}
		token, key, err := keys.Make(namespace, life)
		if err != nil {
			return err
		}
		if format == "json" {
			return printJSON(a.out, map[string]any{"token": token, "id": key.ID, "namespace": key.Namespace, "expires_at": key.ExpiresAt.Format(time.RFC3339)})
		}
		_, err = fmt.Fprintf(a.out, "Token: %s\nToken expires: %s\nNamespace: %s\n", token, key.ExpiresAt.Format(time.RFC3339), key.Namespace)
		return err
	}
	return c
}

// keys are those of this state root.
func (a *app) keys() (*server.Keys, error) {
	set, err := a.settings()
	if err != nil {
		return nil, err
	}
	keys, err := server.OpenKeys(set.Home, "")
	if sandbox.KindOf(err) == sandbox.NotFound {
		return nil, &sandbox.Error{Op: "keygen", Kind: sandbox.InvalidConfig, Err: errors.New("Server key failed to generate: " + errors.Unwrap(err).Error()),
			Hint: "start one with: msb server start --detach"}
	}
	return keys, err
}

func (a *app) serverKeysCommand() *cobra.Command {
	list := func(c *cobra.Command) *cobra.Command {
		var format string
		flagsOf(c, false).format(&format)
		c.RunE = func(*cobra.Command, []string) error {
			keys, err := a.keys()
			if err != nil {
				return err
			}
			all, err := keys.All()
			if err != nil {
				return err
			}
			now := time.Now()
			if format == "json" {
				return printJSON(a.out, each(all, func(k server.Key) any {
					return map[string]any{"id": k.ID, "namespace": k.Namespace, "created_at": k.CreatedAt.Format(time.RFC3339), "expires_at": k.ExpiresAt.Format(time.RFC3339), "state": k.State(now)}
				}))
			}
			return printTable(a.out, []string{"ID", "NAMESPACE", "STATE", "CREATED", "EXPIRES"}, each(all, func(k server.Key) []string {
				return []string{k.ID, k.Namespace, k.State(now), date(k.CreatedAt), date(k.ExpiresAt)}
			}))
		}
		return c
	}
	revoke := a.command(&cobra.Command{Use: "revoke", Short: "Make API keys worthless",
		Long:    "A server that runs refuses them from its next request on.",
		Example: "msb server keys revoke 0123456789abcdef"},
		positional{"<IDS...>", "Keys, by the ids that list shows, or at least eight digits of them"})
	revoke.RunE = func(_ *cobra.Command, ids []string) error {
		keys, err := a.keys()
		if err != nil {
			return err
		}
		for _, id := range ids {
			key, err := keys.Revoke(id)
			if err != nil {
				return err
			}
			a.did(false, "Revoked", key.ID)
		}
		return nil
	}
	const example = "msb server keys list --format json"
	c := list(a.command(&cobra.Command{Use: "keys", Short: "List API keys and revoke them", Example: "msb server keys\nmsb server keys revoke 0123456789abcdef"}))
	c.AddCommand(list(a.command(&cobra.Command{Use: "list", Short: "List the API keys that were made here", Example: example})), revoke)
	return c
}

// parseLife reads how long a key is good for (contract server-v0.2 §5.4).
func parseLife(v string) (time.Duration, error) {
	digits := strings.IndexFunc(v, func(r rune) bool { return r < '0' || r > '9' })
	number, unit := v, ""
	if digits >= 0 {
		number, unit = v[:digits], v[digits:]
	}
	const day = 24 * time.Hour
	units := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "": time.Hour, "d": day, "w": 7 * day, "mo": 30 * day, "y": 365 * day}
	n, err := strconv.ParseInt(number, 10, 64)
	of, ok := units[unit]
	if err != nil || !ok || n <= 0 || n > int64(1<<63-1)/int64(of) {
		return 0, fmt.Errorf("%q is no time: want a number and one of s, m, h, d, w, mo, y, e.g. 7d", clip(v))
	}
	return time.Duration(n) * of, nil
}
