package cli

import (
	"context"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/server"
)

func (a *app) mcpCommand() *cobra.Command {
	var path string
	var roots []string
	c := a.command(&cobra.Command{Use: "mcp", Short: "Offer sandboxes to an agent over standard input and output",
		Long: `It speaks the Model Context Protocol; agents start it themselves. The tools are those of the server's /mcp. Sandboxes live on when it
ends.`,
		Example: `claude mcp add microsandbox -- msb mcp
msb mcp --volume-root ~/project`})
	f := flagsOf(c, false)
	f.value("p", "path", "DIR", "Directory of the namespaces and their Sandboxfiles (default in MSB_HOME)", setString(&path))
	f.value("", "volume-root", "DIR", "Directory of this machine from which sandboxes may mount; repeatable", setAppend(&roots, filepath.Abs))
	c.RunE = func(c *cobra.Command, _ []string) error {
		if a.env.MCP == nil {
			return a.becomeServer()
		}
		set, err := a.settings()
		if err != nil {
			return err
		}
		if path == "" {
			path = filepath.Join(set.Home, "namespaces")
		}
		b, err := a.backend(UseCreate)
		if err != nil {
			return err
		}
		s := a.catchSignals(c.Context())
		defer s.stop()
		stop := context.AfterFunc(s.ctx, func() { a.in.Close() })
		defer stop()
		err = a.env.MCP(s.ctx, server.Config{Backend: b, Settings: set.File, Namespaces: path, VolumeRoots: roots}, a.in, a.out)
		if e, ok := context.Cause(s.ctx).(*signalError); ok && (e.sig == syscall.SIGINT || e.sig == syscall.SIGTERM) {
			return nil // that is how agents end it
		}
		return err
	}
	return c
}
