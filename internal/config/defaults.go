package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Defaults are what a sandbox gets where neither its flags nor its files say otherwise (sandbox_defaults). Zero values are those
// of [sandbox.Spec.WithDefaults].
type Defaults struct {
	CPUs, MemoryMiB   int
	CPUPlacement      string
	PlacementProfile  string
	THP               string
	Shell, Workdir    string
	MetricsIntervalMS int
	DisableMetrics    bool
	RootDisk          *sandbox.RootDisk // of images; nil is the default
}

func (s *Defaults) settings() setting {
	return object(map[string]setting{
		"cpus":                       number(&s.CPUs, 1),
		"memory_mib":                 number(&s.MemoryMiB, 1),
		"cpu_placement":              word(&s.CPUPlacement, "inherit", "auto", "spread", "compact"),
		"placement_profile":          text(&s.PlacementProfile),
		"thp":                        word(&s.THP, "always", "madvise", "never"),
		"shell":                      text(&s.Shell),
		"workdir":                    text(&s.Workdir),
		"metrics_sample_interval_ms": s.metricsInterval,
		"disable_metrics_sample":     boolean(&s.DisableMetrics),
		"oci": object(map[string]setting{
			"root_disk":      s.rootDisk,
			"upper_size_mib": s.upperSize,
		}),
	})
}

// metricsInterval takes milliseconds; 0 is off.
func (s *Defaults) metricsInterval(d *document, v value, name string) error {
	err := number(&s.MetricsIntervalMS, 0)(d, v, name)
	if err == nil && s.MetricsIntervalMS == 0 {
		s.DisableMetrics = true
	}
	return err
}

// upperSize is the size of a managed root disk, as it was said before there was root_disk.
func (s *Defaults) upperSize(d *document, v value, name string) error {
	disk := sandbox.RootDisk{Kind: sandbox.RootDiskManaged}
	if s.RootDisk != nil {
		return d.fail(v.at, "%s and root_disk exclude each other", name)
	}
	err := number(&disk.SizeMiB, 1)(d, v, name)
	s.RootDisk = &disk
	return err
}

// rootDisk takes a root disk as the command line has it ("8G", "tmpfs", "tmpfs:2G"), or as it is recorded
// ({"kind": "managed", "size_mib": 8192}).
func (s *Defaults) rootDisk(d *document, v value, name string) error {
	var disk sandbox.RootDisk
	if s.RootDisk != nil {
		return d.fail(v.at, "%s and upper_size_mib exclude each other", name)
	}
	s.RootDisk = &disk
	spec, short := v.what.(string)
	if !short {
		kind := sandbox.RootDiskManaged
		err := object(map[string]setting{"kind": word(&kind, sandbox.RootDiskManaged, sandbox.RootDiskTmpfs, "flat", "disk-image"), "size_mib": number(&disk.SizeMiB, 1)})(d, v, name)
		disk.Kind = kind
		if err == nil && kind != sandbox.RootDiskManaged && kind != sandbox.RootDiskTmpfs {
			d.warn(v.at, "%.100s changes nothing: a root disk of kind %s needs a virtual machine", name, kind)
			s.RootDisk = nil
		}
		return err
	}
	var err error
	switch disk, err = sandbox.ParseRootDisk(spec); {
	case errors.Is(err, sandbox.Unsupported):
		d.warn(v.at, "%.100s changes nothing: %v", name, err)
		s.RootDisk = nil
	case err != nil:
		return d.mismatch(v, name, `a root disk like "8G", "tmpfs" or "tmpfs:2G"`)
	}
	return nil
}

// deployment takes a deployment profile, with the hyphen of the command line or as it is recorded.
func deployment(to *string) setting {
	return func(d *document, v value, name string) error {
		if err := word(to, "single-tenant", "multi-tenant", sandbox.SingleTenant, sandbox.MultiTenant)(d, v, name); err != nil {
			return err
		}
		*to = strings.ReplaceAll(*to, "-", "_")
		return nil
	}
}

// unusedPaths takes the paths of microsandbox's parts, which here are all below the state root.
func unusedPaths() setting {
	known := map[string]setting{}
	for _, name := range []string{"cache", "sandboxes", "volumes", "snapshots", "logs", "secrets"} {
		known[name] = unused(text(new(string)), "all that msb keeps is below the state root: set home")
	}
	known["msb"] = unused(text(new(string)), "msb finds its own parts beside itself")
	known["libkrunfw"] = unused(text(new(string)), "there is no libkrunfw")
	return object(known)
}

func placementProfile(d *document, m member, name string) error {
	return object(map[string]setting{
		"numa":   object(map[string]setting{"mode": word(new(string), "prefer_single", "strict_single", "inherit")}),
		"memory": object(map[string]setting{"mode": word(new(string), "follow_cpu", "inherit")}),
	})(d, m.value, name)
}

// Apply fills in what spec does not say.
func (s Defaults) Apply(spec *sandbox.Spec) {
	r, t := &spec.Resources, &spec.Runtime
	if r.CPUs == 0 {
		r.CPUs = s.CPUs
	}
	if r.MemoryMiB == 0 {
		r.MemoryMiB = s.MemoryMiB
	}
	if r.CPUPlacement == "" {
		r.CPUPlacement = s.CPUPlacement
	}
	if t.Shell == "" {
		t.Shell = s.Shell
	}
	if t.Workdir == "" {
		t.Workdir = s.Workdir
	}
	if t.MetricsIntervalMS == 0 {
		t.MetricsIntervalMS, t.DisableMetrics = s.MetricsIntervalMS, t.DisableMetrics || s.DisableMetrics
	}
	if d := s.RootDisk; d != nil && spec.Image.Disk().Kind == "" && (d.Kind == sandbox.RootDiskTmpfs || !spec.Lifecycle.Ephemeral) {
		spec.Image = spec.Image.WithDisk(*d)
	}
}

// Unmet returns what of the defaults no driver here can do, each with the reason.
func (s Defaults) Unmet() []string {
	var all []string
	for _, u := range []struct{ name, have, fine, why string }{
		{"thp", s.THP, "madvise", "the guest's kernel has no huge pages of its own"},
		{"placement_profile", s.PlacementProfile, "", "guests have no memory nodes of their own"},
	} {
		if u.have != "" && u.have != u.fine {
			all = append(all, fmt.Sprintf("sandbox_defaults.%s %.100q changes nothing: %s", u.name, u.have, u.why))
		}
	}
	return all
}
