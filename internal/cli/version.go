package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/version"
)

func (a *app) versionCommand() *cobra.Command {
	var format string
	c := a.command(&cobra.Command{Use: "version", Short: "Show which release this is and what it is compatible with",
		Example: "msb version --format json"})
	flagsOf(c, false).format(&format)
	c.RunE = func(*cobra.Command, []string) error {
		commit := revision()
		if version.Build() != "" {
			commit += " (" + version.Build() + ")"
		}
		if format == "json" {
			return printJSON(a.out, map[string]any{"version": version.Version, "commit": revision(), "build": version.Build(), "contract": version.Contract,
				"agent_generation": agentproto.Generation, "gvisor": version.GVisor, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
		}
		_, err := fmt.Fprintf(a.out, "msb %s\nCommit:      %s\nContract:    microsandbox %s\nAgent:       protocol generation %d\ngVisor:      %s\nGo:          %s %s/%s\n",
			version.Version, commit, version.Contract, agentproto.Generation, version.GVisor, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return err
	}
	return c
}

// revision is the commit that this binary was built from, "unknown" where the build did not say.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	commit, dirty := "unknown", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			commit = s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	return commit + dirty
}
