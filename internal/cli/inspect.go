package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (a *app) inspectCommand() *cobra.Command {
	var format string
	c := a.command(&cobra.Command{Use: "inspect", Short: "Show all that is known of a sandbox",
		Example: "msb inspect work\nmsb inspect work --format json"},
		positional{"<NAME>", "Sandbox to show"})
	f := flagsOf(c, false)
	f.format(&format)
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, args []string) error {
		_, info, err := a.get(c.Context(), args[0])
		if err != nil {
			return err
		}
		if format == "json" {
			return printJSON(a.out, inspectJSON(info))
		}
		_, err = a.out.WriteString(inspectText(info, styleOf(a.out)))
		return err
	}
	return c
}

// get looks a sandbox up by its name.
func (a *app) get(ctx context.Context, name string) (backend.Backend, sandbox.Info, error) {
	ref, err := a.refOf(name)
	if err != nil {
		return nil, sandbox.Info{}, err
	}
	b, err := a.backend(UseManage)
	if err != nil {
		return nil, sandbox.Info{}, err
	}
	info, err := b.Get(ctx, ref)
	return b, info, err
}

// refOf is the sandbox of that name in the namespace of the command line.
func (a *app) refOf(name string) (sandbox.Ref, error) {
	ref := sandbox.Ref{Namespace: a.namespace, Name: sandbox.Name(name)}
	return ref, ref.Validate()
}

// inspectJSON has the keys of contract msb-0.6 §1.3 and confinement, end and id of our own.
func inspectJSON(i sandbox.Info) any {
	m := map[string]any{"name": i.Ref.Name, "status": i.Status.Title(), "config": i.Spec, "active_config": nil, "pending_changes": sandbox.Pending(i.Effective(), i.Spec),
		"created_at": timestamp(i.CreatedAt), "updated_at": timestamp(i.UpdatedAt), "confinement": i.Confinement, "end": i.End, "id": i.ID}
	if !i.Status.Terminal() {
		m["active_config"] = i.Effective()
	}
	return m
}

func inspectText(i sandbox.Info, st style) string {
	var b strings.Builder
	line := func(key, format string, args ...any) {
		if v := oneLine(fmt.Sprintf(format, args...)); v != "" {
			fmt.Fprintf(&b, "%s %s\n", st.bold(fmt.Sprintf("%-12s", key+":")), v)
		}
	}
	s := i.Spec
	line("Name", "%s", i.Ref.Name)
	line("Status", "%s", i.Status.Title())
	line("Image", "%s", imageOf(s))
	line("Digest", "%s", s.ManifestDigest)
	line("Command", "%s", quoteWords(s.Command()))
	line("CPUs", "%d", s.Resources.CPUs)
	line("Memory", "%s", mebibytes(s.Resources.MemoryMiB))
	line("Workdir", "%s", s.Runtime.Workdir)
	line("User", "%s", s.Runtime.User)
	line("Hostname", "%s", s.Runtime.Hostname)
	for _, e := range s.Env {
		line("Env", "%s=%s", e.Key, e.Value)
	}
	for _, m := range s.Mounts {
		what := m.Host
		if m.Host == "" {
			what = "half the memory"
			if m.SizeMiB > 0 {
				what = mebibytes(m.SizeMiB)
			}
		}
		line("Mount", "%s (%s, %s)", m.Guest, strings.ToLower(m.Type), what)
	}
	for _, p := range portsOf(i) {
		line("Port", "%s", p)
	}
	line("Network", "%s", i.Effective().Network.PolicyOrDefault())
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		line("Label", "%s=%s", k, s.Labels[k])
	}
	if c := i.Confinement; c != nil {
		line("Isolation", "%s, a kernel in user space; memory by %s, CPUs by %s, network by %s, as %s", c.Driver, c.Memory, c.CPU, c.Network, c.User)
	}
	line("Created", "%s", date(i.CreatedAt))
	line("Updated", "%s", date(i.UpdatedAt))
	if i.End != nil {
		line("Ended", "%s: %s", i.End.Reason, i.End.Message)
	}
	return b.String()
}
