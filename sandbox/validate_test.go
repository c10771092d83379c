package sandbox

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func hostSpec() Spec {
	return Spec{Name: "s", Image: Image{OCI: &OCIImage{Reference: HostImage}}}
}

func TestWithDefaults(t *testing.T) {
	s := hostSpec().WithDefaults()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"name":"s","image":{"Oci":{"reference":"host","root_disk":{"kind":"managed","size_mib":4096}}},` +
		`"resources":{"cpus":1,"memory_mib":512,"max_cpus":1,"max_memory_mib":512},` +
		`"runtime":{"shell":"/bin/sh","scripts":{},"entrypoint":null,"cmd":null,"hostname":"s","metrics_sample_interval_ms":1000,"disable_metrics_sample":false},` +
		`"env":[],"labels":{},"rlimits":[],` +
		`"mounts":[{"type":"Tmpfs","guest":"/tmp","size_mib":128,"options":{"readonly":false,"noexec":false,"nosuid":false,"nodev":false}}],` +
		`"patches":[],"network":{"enabled":true,"strict":false,"max_connections":null,"trust_host_cas":false,"ports":[]},` +
		`"init":null,"pull_policy":"IfMissing","security_profile":"default","deployment_profile":"single_tenant",` +
		`"lifecycle":{"ephemeral":false,"max_duration_secs":null,"idle_timeout_secs":null}}`
	if string(b) != want {
		t.Errorf("defaults are\n%s\nwant\n%s", b, want)
	}
	if again := s.WithDefaults(); !reflect.DeepEqual(again, s) {
		t.Errorf("defaults are not stable: %+v", again)
	}
}

func TestDefaultTmp(t *testing.T) {
	for _, c := range []struct{ memory, want int }{{32, 8}, {512, 128}, {2048, 512}, {64 << 10, 512}, {2, 1}} {
		s := hostSpec()
		s.Resources.MemoryMiB = c.memory
		if got := s.WithDefaults().Mounts[0].SizeMiB; got != c.want {
			t.Errorf("/tmp with %d MiB of memory has %d MiB, want %d", c.memory, got, c.want)
		}
	}
	s := hostSpec()
	s.Mounts = []Mount{{Type: MountTmpfs, Guest: "/z/y"}, {Type: MountTmpfs, Guest: "/tmp/"}, {Type: MountTmpfs, Guest: "/z"}}
	got := s.WithDefaults()
	var guests []string
	for _, m := range got.Mounts {
		guests = append(guests, m.Guest)
	}
	if want := "/tmp /z /z/y"; strings.Join(guests, " ") != want {
		t.Errorf("mounts %v, want %s", guests, want)
	}
	if s.Mounts[0].Guest != "/z/y" || s.Mounts[1].Guest != "/tmp/" {
		t.Error("WithDefaults changed its receiver's mounts")
	}
}

func TestDefaultsKeepWhatIsSaid(t *testing.T) {
	s := hostSpec()
	s.Lifecycle.Ephemeral = true
	deny := DenyAllPolicy()
	s.Network.Policy = &deny
	got := s.WithDefaults()
	if got.Image.OCI.RootDisk != (RootDisk{Kind: RootDiskTmpfs}) {
		t.Errorf("root disk of an ephemeral sandbox is %+v", got.Image.OCI.RootDisk)
	}
	if got.Network.Enabled {
		t.Error("a network that was off with a policy is on")
	}
	if s.Image.OCI.RootDisk.Kind != "" {
		t.Error("WithDefaults changed its receiver's image")
	}
}

func TestValidate(t *testing.T) {
	n := 0
	for name, c := range map[string]struct {
		change func(*Spec)
		want   string
	}{
		"no name":        {func(s *Spec) { s.Name = "" }, "empty"},
		"name":           {func(s *Spec) { s.Name = "a/b" }, "character"},
		"no image":       {func(s *Spec) { s.Image.OCI = nil }, "no image"},
		"image":          {func(s *Spec) { s.Image.OCI.Reference = "a b" }, "image reference"},
		"image twice":    {func(s *Spec) { s.Image.Bind = &BindImage{Path: "/a"} }, "not both"},
		"image's path":   {func(s *Spec) { s.Image = Image{Bind: &BindImage{Path: "a"}} }, "not absolute"},
		"image's path 2": {func(s *Spec) { s.Image = Image{Bind: &BindImage{Path: "/a/../b"}} }, "not absolute and clean"},
		"root disk":      {func(s *Spec) { s.Image.OCI.RootDisk.Kind = "paper" }, "root disk"},
		"cpus":           {func(s *Spec) { s.Resources.CPUs = 256 }, "cpus is 256"},
		"negative cpus":  {func(s *Spec) { s.Resources.CPUs = -1 }, "cpus is -1"},
		"memory":         {func(s *Spec) { s.Resources.MemoryMiB = 8 }, "too little"},
		"max memory":     {func(s *Spec) { s.Resources.MaxMemoryMiB = 100 }, "max_memory"},
		"much memory":    {func(s *Spec) { s.Resources.MemoryMiB = 1 << 30 }, "more than"},
		"workdir":        {func(s *Spec) { s.Runtime.Workdir = "work" }, "not absolute"},
		"shell":          {func(s *Spec) { s.Runtime.Shell = "sh -c" }, "shell"},
		"hostname":       {func(s *Spec) { s.Runtime.Hostname = "ä" }, "hostname"},
		"long hostname":  {func(s *Spec) { s.Runtime.Hostname = strings.Repeat("a", 65) }, "hostname"},
		"user":           {func(s *Spec) { s.Runtime.User = "a:b:c" }, "user"},
		"empty group":    {func(s *Spec) { s.Runtime.User = "a:" }, "user"},
		"log level":      {func(s *Spec) { s.Runtime.LogLevel = "loud" }, "log level"},
		"script":         {func(s *Spec) { s.Runtime.Scripts = map[string]string{"../x": ""} }, "script name"},
		"large script":   {func(s *Spec) { s.Runtime.Scripts = map[string]string{"x": strings.Repeat("x", 9<<20)} }, "larger"},
		"env":            {func(s *Spec) { s.Env = []EnvVar{{"MSB_X", ""}} }, "reserved"},
		"env key":        {func(s *Spec) { s.Env = []EnvVar{{"a=b", ""}} }, "no name"},
		"much env":       {func(s *Spec) { s.Env = []EnvVar{{"A", strings.Repeat("x", 2<<20)}} }, "larger"},
		"label":          {func(s *Spec) { s.Labels = map[string]string{"service.name": "x"} }, "reserved"},
		"sandbox label":  {func(s *Spec) { s.Labels = map[string]string{"sandbox.x": ""} }, "reserved"},
		"label line":     {func(s *Spec) { s.Labels = map[string]string{"a": "b\nc"} }, "control"},
		"rlimit":         {func(s *Spec) { s.Rlimits = []Rlimit{{"nofile", 2, 1}} }, "above"},
		"rlimit twice":   {func(s *Spec) { s.Rlimits = []Rlimit{{"nofile", 1, 1}, {"nofile", 2, 2}} }, "twice"},
		"mount type":     {func(s *Spec) { s.Mounts = []Mount{{Type: "Magic", Guest: "/a"}} }, "mount type"},
		"mount relative": {func(s *Spec) { s.Mounts = []Mount{{Type: MountTmpfs, Guest: "a"}} }, "not absolute"},
		"mount dotdot":   {func(s *Spec) { s.Mounts = []Mount{{Type: MountTmpfs, Guest: "/a/../b"}} }, `".."`},
		"mount comma":    {func(s *Spec) { s.Mounts = []Mount{{Type: MountTmpfs, Guest: "/a,b"}} }, ": ; ,"},
		"mount root":     {func(s *Spec) { s.Mounts = []Mount{{Type: MountTmpfs, Guest: "//"}} }, "at /"},
		"mount proc":     {func(s *Spec) { s.Mounts = []Mount{{Type: MountTmpfs, Guest: "/proc/x"}} }, "belongs"},
		"mount msb":      {func(s *Spec) { s.Mounts = []Mount{{Type: MountTmpfs, Guest: "/.msb"}} }, "belongs"},
		"mount twice": {func(s *Spec) {
			s.Mounts = []Mount{{Type: MountTmpfs, Guest: "/a"}, {Type: MountTmpfs, Guest: "/a/"}}
		}, "multiple volumes cannot mount the same guest path"},
		"pull":         {func(s *Spec) { s.PullPolicy = "sometimes" }, "pull policy"},
		"security":     {func(s *Spec) { s.SecurityProfile = "none" }, "security profile"},
		"max duration": {func(s *Spec) { s.Lifecycle.MaxDurationSecs = &n }, "max_duration"},
	} {
		s := hostSpec().WithDefaults()
		c.change(&s)
		err := s.Validate()
		if !errors.Is(err, InvalidConfig) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want an InvalidConfig error with %q", name, err, c.want)
		}
	}
}

func TestValidateAllowsDevShm(t *testing.T) {
	s := hostSpec()
	s.Mounts = []Mount{{Type: MountTmpfs, Guest: "/dev/shm"}}
	if err := s.WithDefaults().Validate(); err != nil {
		t.Error(err)
	}
}
