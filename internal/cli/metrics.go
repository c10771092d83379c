package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// minInterval is the shortest interval of msb metrics (contract msb-0.6 §1.2).
const minInterval = 100 * time.Millisecond

// metricsFlags are the flags of msb metrics.
type metricsFlags struct {
	format             string
	watch, follow, all bool
	interval           time.Duration
	sort               string
}

func (a *app) metricsCommand() *cobra.Command {
	m := metricsFlags{interval: time.Second, sort: "name"}
	c := a.command(&cobra.Command{Use: "metrics", Short: "Show what sandboxes use",
		Long: `CPU is of one CPU: 200% is two of them. Memory is what the guest holds, the files that it keeps in memory included. Nobody
in the sandbox is asked: it is seen from outside, once a second.`,
		Example: `msb metrics
msb metrics -w --sort cpu
msb metrics work --format json
msb metrics -f --interval 5s work >> usage.jsonl`},
		positional{"[NAME]", "Sandbox to look at; without it, those that run"})
	f := flagsOf(c, false)
	f.format(&m.format)
	f.toggle("w", "watch", "Show the table anew in its place until ctrl-C", &m.watch)
	f.toggle("f", "follow", "Print a line of JSON for each sandbox and interval", &m.follow)
	f.value("", "interval", "DURATION", "Of --watch and --follow, e.g. 500ms or 2s (default 1s)", func(v string) error {
		d, err := sandbox.ParseDuration(v)
		if err == nil && d < minInterval {
			err = fmt.Errorf("%q is less than %v", v, minInterval)
		}
		m.interval = d
		return err
	})
	f.toggle("a", "all", "Those that ended, too, as they were last", &m.all)
	f.words("", "sort", "COLUMN", "By name (default), cpu or mem", &m.sort, "name", "cpu", "mem")
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, args []string) error {
		switch {
		case m.watch && m.follow:
			return usageErrorf("", "--watch and --follow exclude each other")
		case c.Flags().Changed("interval") && !m.watch && !m.follow:
			return usageErrorf("", "--interval needs --watch or --follow")
		case m.watch && m.format != "":
			return usageErrorf("for lines of JSON, use --follow", "--watch prints no JSON")
		}
		b, err := a.backend(UseManage)
		if err != nil {
			return err
		}
		meter, ok := b.(backend.Meterer)
		if !ok {
			return unsupportedHere("Sandbox::metrics")
		}
		look := func(ctx context.Context) ([]sandbox.Metrics, error) { return a.allMetrics(ctx, meter, &m) }
		if len(args) == 1 {
			ref, err := a.refOf(args[0])
			if err != nil {
				return err
			}
			look = func(ctx context.Context) ([]sandbox.Metrics, error) {
				one, err := meter.Metrics(ctx, ref)
				return []sandbox.Metrics{one}, err
			}
		}
		s := a.catchSignals(c.Context())
		defer s.stop()
		return s.clean(a.metrics(s.ctx, &m, len(args) == 1, look))
	}
	return c
}

func (a *app) allMetrics(ctx context.Context, b backend.Meterer, m *metricsFlags) ([]sandbox.Metrics, error) {
	found, err := b.AllMetrics(ctx, a.namespace)
	if err != nil {
		return nil, err
	}
	if !m.all {
		found = slices.DeleteFunc(found, func(x sandbox.Metrics) bool { return x.State == sandbox.MetricsExited })
	}
	slices.SortStableFunc(found, func(x, y sandbox.Metrics) int {
		byName := cmp.Compare(x.Name, y.Name)
		switch m.sort {
		case "cpu":
			return cmp.Or(cmp.Compare(y.CPUPercent, x.CPUPercent), byName)
		case "mem":
			return cmp.Or(cmp.Compare(y.MemoryBytes, x.MemoryBytes), byName)
		}
		return byName
	})
	return found, nil
}

// metrics prints what look sees, once or again and again. One sandbox is followed to its end.
func (a *app) metrics(ctx context.Context, m *metricsFlags, one bool, look func(context.Context) ([]sandbox.Metrics, error)) error {
	if !m.watch && !m.follow {
		found, err := look(ctx)
		switch {
		case err != nil:
			return err
		case m.format == "json" && one:
			return printJSON(a.out, metricsJSON(found[0]))
		case m.format == "json":
			return printJSON(a.out, each(found, metricsJSON))
		case len(found) == 0 && m.all:
			fmt.Fprintln(a.err, "No sandboxes found.")
			return nil
		case len(found) == 0:
			fmt.Fprintln(a.err, "No running sandboxes.")
			return nil
		}
		return printMetrics(a.out, found)
	}
	t := time.NewTicker(m.interval)
	defer t.Stop()
	drawn := 0 // lines on the terminal
	for n := 0; ; n++ {
		found, err := look(ctx)
		if n > 0 && one && (sandbox.KindOf(err) == sandbox.NotFound || sandbox.KindOf(err) == sandbox.NotRunning) {
			return nil // it ended, and is gone
		}
		if err != nil {
			return err
		}
		if m.follow {
			for _, x := range found {
				if err := jsonLine(a.out, metricsJSON(x)); err != nil {
					return err
				}
			}
		} else if drawn, err = a.redraw(found, drawn); err != nil {
			return err
		}
		if one && found[0].State == sandbox.MetricsExited {
			return nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// redraw prints a table over the one before on a terminal, else below it.
func (a *app) redraw(found []sandbox.Metrics, drawn int) (int, error) {
	var b strings.Builder
	if drawn > 0 && isTerminal(a.out) {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", drawn)
	}
	err := printMetrics(&b, found)
	if !isTerminal(a.out) {
		b.WriteByte('\n')
	}
	_, werr := io.WriteString(a.out, b.String())
	return len(found) + 1, errors.Join(err, werr)
}

func printMetrics(w io.Writer, found []sandbox.Metrics) error {
	return printTable(w, []string{"NAME", "STATE", "CPU", "MEMORY", "DISK R/W", "NET RX/TX", "UPPER", "UPTIME"}, each(found, func(m sandbox.Metrics) []string {
		upper := ""
		if m.UpperUsedBytes != nil {
			upper = bytesText(int64(*m.UpperUsedBytes))
			if m.UpperFreeBytes != nil && *m.UpperFreeBytes > 0 {
				upper += " / " + bytesText(int64(*m.UpperUsedBytes+*m.UpperFreeBytes))
			}
		}
		return []string{string(m.Name), string(m.State), strconv.FormatFloat(m.CPUPercent, 'f', 1, 64) + "%",
			bytesText(int64(m.MemoryBytes)) + " / " + bytesText(int64(m.MemoryLimitBytes)),
			bytesText(int64(m.DiskReadBytes)) + " / " + bytesText(int64(m.DiskWriteBytes)),
			bytesText(int64(m.NetRxBytes)) + " / " + bytesText(int64(m.NetTxBytes)), upper, (time.Duration(m.UptimeSecs) * time.Second).String()}
	}))
}

// metricsJSON is the shape of contract msb-0.6 §1.3.
func metricsJSON(m sandbox.Metrics) any {
	return map[string]any{"name": m.Name, "state": m.State, "cpus": m.CPUs, "timestamp": timestamp(m.Timestamp),
		"cpu_percent": math.Round(m.CPUPercent*100) / 100, "vcpu_time_ns": m.CPUTimeNS,
		"memory_bytes": m.MemoryBytes, "memory_available_bytes": m.MemoryAvailableBytes, "memory_host_resident_bytes": m.MemoryHostResidentBytes,
		"memory_limit_bytes": m.MemoryLimitBytes, "disk_read_bytes": m.DiskReadBytes, "disk_write_bytes": m.DiskWriteBytes,
		"net_rx_bytes": m.NetRxBytes, "net_tx_bytes": m.NetTxBytes, "upper_used_bytes": m.UpperUsedBytes, "upper_free_bytes": m.UpperFreeBytes,
		"upper_host_allocated_bytes": m.UpperHostAllocatedBytes, "uptime_secs": m.UptimeSecs}
}

func jsonLine(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
