package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// netInterval is how often msb net looks again.
const netInterval = time.Second

func (a *app) netCommand() *cobra.Command {
	var format string
	once := false
	c := a.command(&cobra.Command{Use: "net", Short: "Show what a sandbox reaches, and what it was refused",
		Long: `On a terminal the table is drawn anew every second until ctrl-C. What has ended is in the flow log, net.jsonl beside the
sandbox's other logs: a line of JSON for each begin, end and refusal, 8 MiB at most. The bytes of a line are payload; those below
the table are of packets, with what a wire adds.`,
		Example: "msb net work\nmsb net work --format json"},
		positional{"<NAME>", "Sandbox to look at"})
	f := flagsOf(c, false)
	f.format(&format)
	f.toggle("", "once", "Draw the table once, on a terminal, too", &once)
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, args []string) error {
		ref, err := a.refOf(args[0])
		if err != nil {
			return err
		}
		b, err := capable[backend.Networker](a, "Sandbox::network")
		if err != nil {
			return err
		}
		return a.interruptible(c, func(ctx context.Context) error {
			st, err := b.Network(ctx, ref)
			switch {
			case err != nil:
				return err
			case format == "json":
				return printJSON(a.out, st)
			case once || !isTerminal(a.out):
				return printNetwork(a.out, st, time.Now())
			}
			return a.watchNetwork(ctx, b, ref)
		})
	}
	return c
}

// watchNetwork draws the table in its place until the sandbox ends.
func (a *app) watchNetwork(ctx context.Context, b backend.Networker, ref sandbox.Ref) error {
	t := time.NewTicker(netInterval)
	defer t.Stop()
	for drawn := 0; ; {
		st, err := b.Network(ctx, ref)
		if k := sandbox.KindOf(err); drawn > 0 && (k == sandbox.NotFound || k == sandbox.NotRunning) {
			return nil
		}
		if err != nil {
			return err
		}
		var table strings.Builder
		err = printNetwork(&table, st, time.Now())
		text := fit(table.String(), a)
		above := ""
		if drawn > 0 {
			above = fmt.Sprintf("\x1b[%dA\x1b[J", drawn)
		}
		drawn = strings.Count(text, "\n")
		if _, werr := io.WriteString(a.out, above+text); errors.Join(err, werr) != nil {
			return errors.Join(err, werr)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			if e, ok := context.Cause(ctx).(*signalError); ok && e.sig == syscall.SIGINT {
				return nil // it is how one leaves the table
			}
			return context.Cause(ctx)
		}
	}
}

// fit cuts a text to the terminal: what wraps or scrolls could not be drawn over.
func fit(text string, a *app) string {
	rows, cols := a.size()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	lines = lines[:min(len(lines), max(int(rows)-1, 1))]
	for i, l := range lines {
		lines[i] = shorten(l, max(int(cols), 2))
	}
	return strings.Join(lines, "\n") + "\n"
}

// printNetwork prints the flows, then the refusals, and below them the counters.
func printNetwork(w io.Writer, st sandbox.NetworkState, now time.Time) error {
	var rows [][]string
	for _, f := range st.Flows {
		rows = append(rows, netRow(f, bytesText(int64(f.Sent)), bytesText(int64(f.Received)), age(now.Sub(f.Time))))
	}
	for _, f := range st.Denied {
		rows = append(rows, netRow(f, "", "", strconv.Itoa(f.Count)+"x"))
	}
	if err := printTable(w, []string{"VERDICT", "PROTO", "DIRECTION", "PEER", "NAME", "SENT", "RECEIVED", "AGE", "WHY"}, rows); err != nil {
		return err
	}
	c := st.Counters
	_, err := fmt.Fprintf(w, "\nconnections: %d open, %d so far; flows of datagrams: %d; denied: %d; no room for: %d\n%s in, %s out\n",
		c.Open, c.Connections, c.Flows, c.Denied, c.Refused, bytesText(int64(c.RxBytes)), bytesText(int64(c.TxBytes)))
	return err
}

func netRow(f sandbox.Flow, sent, received, age string) []string {
	peer := f.Peer
	if f.Direction == sandbox.Ingress && f.GuestPort > 0 {
		peer += " -> " + strconv.Itoa(int(f.GuestPort))
	}
	return []string{f.Verdict, f.Protocol, f.Direction, oneLine(peer), oneLine(f.Name), sent, received, age, oneLine(f.Reason)}
}

// age is how long something lasts, in whole seconds.
func age(d time.Duration) string { return max(d, 0).Truncate(time.Second).String() }

// maxDeniedTold is how many refusals are told of after a command that failed.
const maxDeniedTold = 3

// tellDenied says what the sandbox was refused since begin, so that whoever sees a command fail knows why.
func (a *app) tellDenied(ctx context.Context, b backend.Backend, ref sandbox.Ref, begin time.Time) {
	n, ok := b.(backend.Networker)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	st, err := n.Network(ctx, ref)
	if err != nil {
		return // it has ended, perhaps
	}
	told := map[string]bool{}
	for _, f := range st.Denied {
		text := f.Denied()
		if f.Time.Before(begin) || f.Direction == sandbox.Ingress || told[text] {
			continue
		}
		if told[text] = true; len(told) <= maxDeniedTold {
			a.warn(text, f.Reason+allowHint(f))
		}
	}
	if more := len(told) - maxDeniedTold; more > 0 {
		a.warn(fmt.Sprintf("denied by policy: %d more", more), "see them with: msb net "+string(ref.Name))
	}
}

// allowHint says which rule would allow it, if one can.
func allowHint(f sandbox.Flow) string {
	target := f.Peer
	host, port, isAddr := cutPort(f.Peer)
	switch {
	case f.Rule < -1:
		return ""
	case f.Name == sandbox.HostName && isAddr && (f.Protocol == "tcp" || f.Protocol == "udp"):
		target = sandbox.GroupHost + ":" + f.Protocol + ":" + port
	case strings.Contains(f.Reason, ", but strict: ") && isAddr: // another rule about the name would not help
		return "; to allow it: --tls-intercept if it is TLS, or before that rule --net-rule allow@" + host + ":" + f.Protocol + ":" + port
	case f.Name != "":
		target = f.Name
	case isAddr && (f.Protocol == "tcp" || f.Protocol == "udp"):
		target = host + ":" + f.Protocol + ":" + port
	}
	return "; to allow it: --net-rule allow@" + target
}

// cutPort splits an address from its port; an IPv6 address keeps its brackets, as rules want it.
func cutPort(s string) (host, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}
