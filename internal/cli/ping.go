package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/guest"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// pingTimeout is how long an agent may take to answer (contract msb-0.6 §2.1: connect and handshake).
const pingTimeout = 10 * time.Second

func (a *app) pingCommand() *cobra.Command {
	var (
		touch, quiet bool
		labels       map[string]string
	)
	c := a.command(&cobra.Command{Use: "ping", Short: "Ask sandboxes for a sign of life",
		Long:    "It does not count as activity: an idle sandbox stays idle, unless --touch is given.",
		Example: "msb ping work\nmsb ping --label team=ml"},
		positional{"[NAMES...]", "Sandboxes to ask; needed unless --label is given"})
	f := flagsOf(c, false)
	f.labels(&labels, "Those with this label, too")
	f.toggle("", "touch", "Begin the idle timeout anew, too", &touch)
	f.quiet(&quiet)
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, args []string) error {
		return a.forEach(c, UseManage, args, labels, func(ctx context.Context, b backend.Backend, ref sandbox.Ref) error {
			return withAgent(ctx, b, ref, func(ctx context.Context, agent *agentclient.Client) error {
				begin := time.Now()
				if err := agent.Ping(ctx); err != nil {
					return err
				}
				latency := time.Since(begin)
				if touch {
					if _, err := agent.Touch(ctx); err != nil {
						return err
					}
				}
				a.did(quiet, "Pinged", fmt.Sprintf("%s (%v)", ref.Name, latency.Round(time.Microsecond)))
				return nil
			})
		})
	}
	return c
}

func (a *app) touchCommand() *cobra.Command {
	var (
		quiet  bool
		labels map[string]string
	)
	c := a.command(&cobra.Command{Use: "touch", Short: "Begin sandboxes' idle timeout anew",
		Example: "msb touch work"},
		positional{"[NAMES...]", "Sandboxes to touch; needed unless --label is given"})
	f := flagsOf(c, false)
	f.labels(&labels, "Those with this label, too")
	f.quiet(&quiet)
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, args []string) error {
		return a.forEach(c, UseManage, args, labels, func(ctx context.Context, b backend.Backend, ref sandbox.Ref) error {
			return withAgent(ctx, b, ref, func(ctx context.Context, agent *agentclient.Client) error {
				if _, err := agent.Touch(ctx); err != nil {
					return err
				}
				a.did(quiet, "Touched", string(ref.Name))
				return nil
			})
		})
	}
	return c
}

// withAgent does something with the agent of a running sandbox, within pingTimeout.
func withAgent(ctx context.Context, b backend.Backend, ref sandbox.Ref, do func(context.Context, *agentclient.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	agent, err := guest.Connect(ctx, b, ref)
	if err == nil {
		defer agent.Close()
		err = do(ctx, agent)
	}
	if err != nil && ctx.Err() == context.DeadlineExceeded {
		return &sandbox.Error{Op: "ping", Ref: ref, Kind: sandbox.Runtime, Message: fmt.Sprintf("the agent of sandbox '%s' did not answer within %v", ref.Name, pingTimeout), Err: err}
	}
	return err
}
