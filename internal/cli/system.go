package cli

import (
	"strconv"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
)

func (a *app) systemCommand() *cobra.Command {
	c := a.groupCommand(&cobra.Command{Use: "system", Short: "Look after what msb keeps on this machine", Example: "msb system df"})
	c.AddCommand(a.diskUsageCommand())
	return c
}

func (a *app) diskUsageCommand() *cobra.Command {
	var format string
	c := a.command(&cobra.Command{Use: "df", Short: "Show what takes how much of the disk", Example: "msb system df --format json"})
	flagsOf(c, false).format(&format)
	c.RunE = func(c *cobra.Command, _ []string) error {
		b, err := capable[backend.DiskUser](a, "System::df")
		if err != nil {
			return err
		}
		usage, err := b.DiskUsage(c.Context())
		if err != nil {
			return err
		}
		if format == "json" {
			return printJSON(a.out, each(usage, func(u backend.DiskUsage) any {
				return map[string]any{"type": u.Kind, "count": u.Count, "size_bytes": u.Bytes, "reclaimable_bytes": u.Reclaimable}
			}))
		}
		return printTable(a.out, []string{"TYPE", "COUNT", "SIZE", "RECLAIMABLE"}, each(usage, func(u backend.DiskUsage) []string {
			return []string{u.Kind, strconv.Itoa(u.Count), bytesText(u.Bytes), bytesText(u.Reclaimable)}
		}))
	}
	return c
}
