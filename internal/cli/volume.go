package cli

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (a *app) volumeCommand() *cobra.Command {
	c := a.groupCommand(&cobra.Command{Use: "volume", Aliases: []string{"vol"}, Short: "Directories that outlive the sandboxes which mount them",
		Example: "msb volume create data --quota 2G\nmsb run -v data:/data host -- sh -c 'date >> /data/log'\nmsb volume ls"})
	c.AddCommand(a.volumeCreateCommand(), a.volumeListCommand("list"), a.volumeInspectCommand(), a.volumeRemoveCommand())
	return c
}

// volumesCommand is "msb volumes": the list.
func (a *app) volumesCommand() *cobra.Command {
	c := a.volumeListCommand("volumes")
	c.Aliases = []string{"vols"}
	c.Hidden = true
	return c
}

func (a *app) volumes() (backend.Volumes, error) {
	b, err := a.backend(UseManage)
	if err != nil {
		return nil, err
	}
	v, ok := b.(backend.Volumes)
	if !ok {
		return nil, unsupported("volumes of this backend", "use a local backend")
	}
	return v, nil
}

func (a *app) volumeCreateCommand() *cobra.Command {
	var (
		req   backend.VolumeRequest
		name  string
		quiet bool
	)
	c := a.command(&cobra.Command{Use: "create", Short: "Make a volume and print its name",
		Example: "msb volume create data\nmsb volume create --name cache --quota 500M --label team=ml"},
		positional{"[NAME]", "Name; without it, one is made up"})
	f := flagsOf(c, false)
	f.value("", "name", "NAME", "Name, as an option", setString(&name))
	const disk, hint = "not supported: a disk image needs a microVM", "use a directory, and bound it with --quota SIZE"
	f.value("", "kind", "KIND", "dir (default)", func(v string) error {
		if v == "disk" {
			f.refuseGiven("kind disk", disk, hint)
		}
		var kind string
		return setWord(&kind, "dir", "disk")(v)
	})
	f.refuse("", "size", "SIZE", "Size of a disk", disk, hint)
	f.value("", "quota", "SIZE", "How much a sandbox may have there", setParsed(&req.QuotaMiB, sandbox.ParseSize))
	f.labels(&req.Labels, "Label to find it by")
	f.toggle("q", "quiet", "Print nothing", &quiet)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		switch {
		case name != "" && len(args) == 1 && args[0] != name:
			return usageErrorf("leave one of them out", "two names are given, %q and %q", args[0], name)
		case name == "" && len(args) == 1:
			name = args[0]
		case name == "":
			var b [4]byte
			_, _ = rand.Read(b[:])
			name = "vol-" + hex.EncodeToString(b[:])
		}
		req.Namespace, req.Name = a.namespace, name
		v, err := a.volumes()
		if err != nil {
			return err
		}
		if _, err := v.CreateVolume(c.Context(), req); err != nil {
			return err
		}
		if !quiet {
			_, err = fmt.Fprintln(a.out, name)
		}
		return err
	}
	return c
}

func (a *app) volumeListCommand(use string) *cobra.Command {
	var (
		format string
		quiet  bool
	)
	c := a.command(&cobra.Command{Use: use, Short: "Show the volumes", Example: "msb volume ls\nmsb volume ls --format json"})
	if use == "list" {
		c.Aliases = []string{"ls"}
	}
	f := flagsOf(c, false)
	f.format(&format)
	f.toggle("q", "quiet", "Print names only", &quiet)
	c.RunE = func(c *cobra.Command, args []string) error {
		v, err := a.volumes()
		if err != nil {
			return err
		}
		all, err := v.ListVolumes(c.Context(), a.namespace)
		if err != nil {
			return err
		}
		switch {
		case format == "json":
			return printJSON(a.out, each(all, volumeJSON))
		case quiet:
			for _, v := range all {
				if _, err := fmt.Fprintln(a.out, v.Name); err != nil {
					return err
				}
			}
			return nil
		case len(all) == 0:
			fmt.Fprintln(a.err, "No volumes found.")
			return nil
		}
		return printTable(a.out, []string{"NAME", "KIND", "QUOTA", "USED", "CREATED"}, each(all, func(v backend.Volume) []string {
			quota := ""
			if v.QuotaMiB > 0 {
				quota = mebibytes(v.QuotaMiB)
			}
			return []string{v.Name, "dir", quota, bytesText(v.Used), date(v.CreatedAt)}
		}))
	}
	return c
}

func (a *app) volumeInspectCommand() *cobra.Command {
	var format string
	c := a.command(&cobra.Command{Use: "inspect", Short: "Show all that is known of a volume", Example: "msb volume inspect data"},
		positional{"<NAME>", "Volume to show"})
	f := flagsOf(c, false)
	f.format(&format)
	c.ValidArgsFunction = a.completeVolumes
	c.RunE = func(c *cobra.Command, args []string) error {
		vols, err := a.volumes()
		if err != nil {
			return err
		}
		v, err := vols.GetVolume(c.Context(), a.namespace, args[0])
		if err != nil {
			return err
		}
		if format == "json" {
			m := volumeJSON(v).(map[string]any)
			m["labels"], m["path"], m["used_by"] = labelsOf(v.Labels), v.Path, each(v.Users, func(r sandbox.Ref) string { return r.String() })
			return printJSON(a.out, m)
		}
		var b strings.Builder
		st := styleOf(a.out)
		line := func(key, value string) {
			if value != "" {
				fmt.Fprintf(&b, "%s %s\n", st.bold(fmt.Sprintf("%-12s", key+":")), oneLine(value))
			}
		}
		line("Name", v.Name)
		line("Kind", "dir")
		if v.QuotaMiB > 0 {
			line("Quota", mebibytes(v.QuotaMiB))
		}
		line("Used", bytesText(v.Used))
		line("Path", v.Path)
		for _, k := range slices.Sorted(maps.Keys(v.Labels)) {
			line("Label", k+"="+v.Labels[k])
		}
		for _, u := range v.Users {
			line("Used by", u.String())
		}
		line("Created", date(v.CreatedAt))
		_, err = a.out.WriteString(b.String())
		return err
	}
	return c
}

func (a *app) volumeRemoveCommand() *cobra.Command {
	var quiet bool
	c := a.command(&cobra.Command{Use: "remove", Aliases: []string{"rm"}, Short: "Remove volumes and their files", Example: "msb volume rm data"},
		positional{"<NAMES...>", "Volumes to remove"})
	f := flagsOf(c, false)
	f.quiet(&quiet)
	c.ValidArgsFunction = a.completeVolumes
	c.RunE = func(c *cobra.Command, args []string) error {
		vols, err := a.volumes()
		if err != nil {
			return err
		}
		failed := false
		for _, name := range args {
			if err := vols.RemoveVolume(c.Context(), a.namespace, name); err != nil {
				failed = true
				a.fail(err)
				continue
			}
			a.did(quiet, "Removed", name)
		}
		if failed {
			return exitCode(exitError)
		}
		return nil
	}
	return c
}

func (a *app) completeVolumes(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if v, err := a.volumes(); err == nil {
		all, _ := v.ListVolumes(c.Context(), a.namespace)
		for _, v := range all {
			names = append(names, v.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// volumeJSON has the keys of contract msb-0.6 §1.3. What belongs to disk images is null.
func volumeJSON(v backend.Volume) any {
	m := map[string]any{"name": v.Name, "kind": "dir", "used_bytes": v.Used, "created_at": timestamp(v.CreatedAt), "quota_mib": nil, "capacity_bytes": nil,
		"disk_format": nil, "disk_fstype": nil}
	if v.QuotaMiB > 0 {
		m["quota_mib"] = v.QuotaMiB
	}
	return m
}

// labelsOf is never nil, so that it is {} in JSON.
func labelsOf(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
