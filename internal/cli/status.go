package cli

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (a *app) statusCommand() *cobra.Command {
	var (
		all, quiet bool
		format     string
		labels     map[string]string
		proj       projectFlags
	)
	c := a.command(&cobra.Command{Use: "status", Aliases: []string{"ps"}, Short: "Show what runs",
		Long: `With --file, and for a NAME that only the Sandboxfile of this directory has, a project's sandboxes are shown: on a terminal anew every
two seconds until ctrl-C, unless --all is given.`,
		Example: "msb ps\nmsb status work --format json"},
		positional{"[NAME]", "Sandbox to show; without it, those that run"})
	f := flagsOf(c, false)
	f.toggle("a", "all", "Those that do not run, too", &all)
	f.labels(&labels, "Only those with this label")
	f.format(&format)
	f.toggle("q", "quiet", "Print names only", &quiet)
	proj.declareFile(f, "f")
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, args []string) error {
		if proj.file != "" {
			if len(labels) > 0 || quiet {
				return usageErrorf("", "--file excludes --label and --quiet")
			}
			return a.projectStatus(c.Context(), proj.file, args, format, all)
		}
		infos, err := a.find(c.Context(), labels, func(i sandbox.Info) bool {
			if len(args) == 1 {
				return string(i.Ref.Name) == args[0]
			}
			return all || i.Status == sandbox.Running
		})
		if err != nil {
			return err
		}
		if len(args) == 1 && len(infos) == 0 {
			if p := a.here(args[0]); p != nil {
				return a.projectStatus(c.Context(), p.Path, args, format, all)
			}
			return &sandbox.Error{Op: "status", Kind: sandbox.NotFound, Message: args[0], Hint: "see which there are with: msb ls"}
		}
		switch {
		case format == "json" && len(args) == 1:
			return printJSON(a.out, statusJSON(infos[0]))
		case format == "json":
			return printJSON(a.out, each(infos, statusJSON))
		case quiet:
			return a.printNames(infos)
		case len(infos) == 0 && all:
			fmt.Fprintln(a.err, "No sandboxes found.")
			return nil
		case len(infos) == 0:
			fmt.Fprintln(a.err, "No running sandboxes.")
			return nil
		}
		return printTable(a.out, []string{"NAME", "IMAGE", "COMMAND", "CPUS", "MEM", "STATUS", "PORTS"}, each(infos, statusRow))
	}
	return c
}

func statusRow(i sandbox.Info) []string {
	r := i.Spec.Resources
	return []string{string(i.Ref.Name), imageOf(i.Spec), shorten(quoteWords(i.Spec.Command()), 40), upTo(strconv.Itoa(r.CPUs), strconv.Itoa(r.MaxCPUs)),
		upTo(mebibytes(r.MemoryMiB), mebibytes(r.MaxMemoryMiB)), i.Status.Title(), strings.Join(portsOf(i), ", ")}
}

// portsOf are the ports that a sandbox publishes, in the form 127.0.0.1:8080->80/tcp.
func portsOf(i sandbox.Info) []string {
	ports := i.Ports // with those that were had where any would do
	if len(ports) == 0 {
		ports = i.Spec.Network.Ports
	}
	return each(ports, sandbox.Port.String)
}

// upTo is "now / most" where they differ.
func upTo(now, most string) string {
	if now == most {
		return now
	}
	return now + " / " + most
}

// quoteWords puts those words into JSON quotes that would not be one word without.
func quoteWords(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = w
		if w == "" || strings.IndexFunc(w, func(c rune) bool { return c <= ' ' || c == 0x7f || strings.ContainsRune(`"'\`, c) }) >= 0 {
			var b strings.Builder
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false) // a shell's "a && b > c" is to be read
			_ = enc.Encode(w)        // a string always is JSON
			quoted[i] = strings.TrimSuffix(b.String(), "\n")
		}
	}
	return strings.Join(quoted, " ")
}

func shorten(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

func statusJSON(i sandbox.Info) any {
	var command any
	if words := i.Spec.Command(); len(words) > 0 {
		command = quoteWords(words)
	}
	r := i.Spec.Resources
	return map[string]any{"name": i.Ref.Name, "image": imageOf(i.Spec), "status": i.Status.Title(), "command": command, "cpus": r.CPUs,
		"max_cpus": r.MaxCPUs, "memory_mib": r.MemoryMiB, "max_memory_mib": r.MaxMemoryMiB, "ports": portsOf(i),
		"thp": nil} // huge pages are a matter of a guest's own kernel; gVisor's has none
}
