package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/project"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// entries prints what a Sandboxfile has (msb list --file).
func (a *app) entries(file, format string, quiet bool) error {
	p, err := a.project(file)
	if err != nil {
		return err
	}
	names, err := p.Select(nil)
	if err != nil {
		return err
	}
	switch {
	case format == "json":
		return printJSON(a.out, each(names, func(n string) any {
			s := p.File.Sandboxes[n]
			return map[string]any{"name": n, "image": s.Image, "ports": append([]string{}, s.Ports...), "depends_on": append([]string{}, s.DependsOn...), "sandbox": p.Ref(n).Name}
		}))
	case quiet:
		for _, n := range names {
			fmt.Fprintln(a.out, n)
		}
		return nil
	case len(names) == 0:
		fmt.Fprintln(a.err, "No sandboxes found.")
		return nil
	}
	return printTable(a.out, []string{"NAME", "IMAGE", "PORTS", "VOLUMES", "SCRIPTS", "DEPENDS ON"}, each(names, func(n string) []string {
		s := p.File.Sandboxes[n]
		scripts := make([]string, 0, len(s.Scripts))
		for name := range s.Scripts {
			scripts = append(scripts, name)
		}
		return []string{n, oneLine(s.Image), oneLine(strings.Join(s.Ports, ", ")), oneLine(strings.Join(s.Volumes, ", ")), oneLine(strings.Join(slices.Sorted(slices.Values(scripts)), ", ")), oneLine(strings.Join(s.DependsOn, ", "))}
	}))
}

// projectStatus prints how a project's sandboxes are (msb status --file): on a terminal anew every two seconds until ctrl-C.
func (a *app) projectStatus(ctx context.Context, file string, names []string, format string, once bool) error {
	o, err := a.open(ctx, file, UseManage)
	if err != nil {
		return err
	}
	defer o.close()
	if names, err = o.Select(names); err != nil {
		return err
	}
	again := !once && format == "" && isTerminal(a.out)
	view := live{a: a}
	for {
		rows, err := o.statusRows(names)
		if err != nil {
			return o.s.clean(err)
		}
		if format == "json" {
			return printJSON(a.out, rows)
		}
		var text strings.Builder
		if again {
			fmt.Fprintf(&text, "Last updated: %s\n", time.Now().Format(time.DateTime))
		}
		if err := printTable(&text, []string{"SANDBOX", "STATUS", "CPU", "MEMORY", "DISK", "PORTS"}, each(rows, statusOf)); err != nil {
			return err
		}
		if !again {
			_, err := a.out.WriteString(text.String())
			return err
		}
		if err := view.draw(text.String()); err != nil {
			return err
		}
		select {
		case <-time.After(2 * time.Second):
		case <-o.s.ctx.Done():
			return o.s.clean(context.Cause(o.s.ctx))
		}
	}
}

func (o *opened) statusRows(names []string) ([]map[string]any, error) {
	infos, err := o.Infos(o.s.ctx, o.b)
	if err != nil {
		return nil, err
	}
	metrics := map[sandbox.Name]sandbox.Metrics{}
	if m, ok := o.b.(backend.Meterer); ok {
		all, err := m.AllMetrics(o.s.ctx, o.Namespace)
		if err != nil && !errors.Is(err, sandbox.Unsupported) {
			return nil, err
		}
		for _, one := range all {
			metrics[one.Ref.Name] = one
		}
	}
	return each(names, func(n string) map[string]any {
		row := map[string]any{"name": n, "sandbox": string(o.Ref(n).Name), "status": "Absent", "ports": []string{}, "changed": false}
		i, there := infos[n]
		if !there {
			return row
		}
		row["status"], row["ports"] = i.Status.Title(), portsOf(i)
		if spec, err := o.Spec(n); err == nil {
			row["changed"] = spec.Labels[project.HashLabel] != i.Spec.Labels[project.HashLabel]
		}
		if m, ok := metrics[i.Ref.Name]; ok && i.Status == sandbox.Running && m.State == sandbox.MetricsRunning {
			row["cpu_percent"], row["memory_bytes"] = m.CPUPercent, m.MemoryBytes
			if m.UpperUsedBytes != nil {
				row["disk_bytes"] = *m.UpperUsedBytes
			}
		}
		return row
	}), nil
}

func statusOf(row map[string]any) []string {
	status := row["status"].(string)
	if row["changed"].(bool) {
		status += " (changed)"
	}
	cpu, memory, disk := "", "", ""
	if v, ok := row["cpu_percent"]; ok {
		cpu = fmt.Sprintf("%.1f%%", v)
		memory = fmt.Sprintf("%d MiB", row["memory_bytes"].(uint64)>>20)
	}
	if v, ok := row["disk_bytes"]; ok {
		disk = fmt.Sprintf("%d MiB", v.(uint64)>>20)
	}
	return []string{row["name"].(string), status, cpu, memory, disk, strings.Join(row["ports"].([]string), ", ")}
}
