package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/guest"
	"github.com/microsandbox-go/microsandbox/internal/transfer"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (a *app) copyCommand() *cobra.Command {
	var quiet bool
	c := a.command(&cobra.Command{Use: "copy", Aliases: []string{"cp"}, Short: "Copy files into, out of and between sandboxes",
		Long: `SANDBOX:/PATH is a path in a sandbox; what begins with /, ./ or ../, or has no colon, is one of this machine. A directory is
copied with all that is in it, into the destination if that is a directory, else under that name; DIR/. stands for what
is in DIR. Symbolic links are made again and not followed; from a sandbox only those that stay in what is copied.
A file gets its name when all of it is there. In a sandbox it becomes root's, here it is yours.`,
		Example: `msb cp ./data.csv work:/tmp/
msb cp work:/var/log ./logs
msb cp ./src/. work:/app
msb cp work:/app/build other:/srv`},
		positional{"<SOURCE>", "What to copy: PATH, or SANDBOX:/PATH"},
		positional{"<DESTINATION>", "Where to: PATH, or SANDBOX:/PATH"})
	f := flagsOf(c, false)
	f.quiet(&quiet)
	c.ValidArgsFunction = func(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if sandbox.IsHostPath(typed) || strings.Contains(typed, ":") {
			return nil, cobra.ShellCompDirectiveDefault
		}
		names, _ := a.completeNames(c, args, typed)
		for i := range names {
			names[i] += ":/"
		}
		return names, cobra.ShellCompDirectiveNoSpace // or a path
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		src, err := a.endpoint(args[0])
		if err != nil {
			return err
		}
		dst, err := a.endpoint(args[1])
		if err != nil {
			return err
		}
		if src.ref.Name == "" && dst.ref.Name == "" {
			return usageErrorf("for example: msb cp "+clip(args[0])+" SANDBOX:/tmp/", "neither %q nor %q is in a sandbox", clip(args[0]), clip(args[1]))
		}
		return a.copy(c.Context(), src, dst, quiet)
	}
	return c
}

// endpoint is one end of a copy; on this machine the ref is empty.
type endpoint struct {
	ref  sandbox.Ref
	path string

	info   sandbox.Info
	client *agentclient.Client
}

// endpoint reads PATH or SANDBOX:/PATH (contract msb-0.6 §1.2).
func (a *app) endpoint(arg string) (endpoint, error) {
	name, p, colon := strings.Cut(arg, ":")
	switch {
	case arg == "":
		return endpoint{}, usageErrorf("msb copy --help", "a path is empty")
	case sandbox.IsHostPath(arg) || !colon:
		return endpoint{path: arg}, nil
	case !strings.HasPrefix(p, "/"):
		return endpoint{}, usageErrorf(fmt.Sprintf("write ./%s for a file of this machine, or %s:/%s for one in a sandbox", clip(arg), clip(name), clip(p)), "%q is ambiguous", clip(arg))
	}
	ref, err := a.refOf(name)
	return endpoint{ref: ref, path: p}, err
}

// maxWarnings is of how many files that are left out it is said why.
const maxWarnings = 20

func (a *app) copy(ctx context.Context, src, dst endpoint, quiet bool) error {
	b, err := a.backend(UseManage)
	if err != nil {
		return err
	}
	s := a.catchSignals(ctx)
	defer s.stop()
	for _, e := range []*endpoint{&src, &dst} {
		if e.ref.Name == "" {
			continue
		}
		if e == &dst && dst.ref == src.ref {
			dst.client = src.client
			continue
		}
		if err := e.connect(s.ctx, b); err != nil {
			return s.explain(err)
		}
		defer e.client.Close()
	}
	warned := 0
	copier := transfer.Copier{Warn: func(message string) {
		if warned++; warned <= maxWarnings {
			a.warn(message)
		}
	}}
	a.spinFor(quiet, "Copying "+filepath.Base(src.path))
	begin := time.Now()
	a.spin.show(func(_, cols int) []string { return []string{shorten(copyLine(&copier, time.Since(begin)), cols)} })
	err = copier.Copy(s.ctx, transfer.End{Guest: src.client, Path: src.path}, transfer.End{Guest: dst.client, Path: dst.path})
	if more := warned - maxWarnings; more > 0 {
		a.warn(fmt.Sprintf("and %d more are left out", more))
	}
	if err != nil {
		for _, e := range []*endpoint{&src, &dst} {
			if e.lost() {
				return a.explainEnd(s, b, e.info, err)
			}
		}
		return s.explain(err)
	}
	files, bytes := copier.Progress()
	a.log.Debug("copy", "files", files, "bytes", bytes, "took", time.Since(begin))
	a.did(quiet, "Copied", src.path)
	return nil
}

// connect connects to the sandbox's agent.
func (e *endpoint) connect(ctx context.Context, b backend.Backend) error {
	var err error
	if e.info, err = b.Get(ctx, e.ref); err != nil {
		return err
	}
	if e.info.Status.Terminal() {
		stopped := e.info.NotRunning("copy")
		stopped.Hint = "start it with: msb start " + string(e.ref.Name)
		return stopped
	}
	e.client, err = guest.Connect(ctx, b, e.ref)
	return err
}

// lost reports whether the connection to the sandbox has ended.
func (e *endpoint) lost() bool {
	if e.client == nil || e.info.Ref.Name == "" {
		return false
	}
	select {
	case <-e.client.Done():
		return true
	default:
		return false
	}
}

// copyLine says how far a copy is.
func copyLine(c *transfer.Copier, took time.Duration) string {
	files, bytes := c.Progress()
	line := fmt.Sprintf("     %s copied", bytesText(bytes))
	if files > 0 {
		line += fmt.Sprintf(", %d files", files)
	}
	if took > time.Second {
		line += fmt.Sprintf(", %s/s", bytesText(int64(float64(bytes)/took.Seconds())))
	}
	return line
}
