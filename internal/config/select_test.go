package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// unset takes a variable away for the test.
func unset(t *testing.T, name string) {
	t.Helper()
	t.Setenv(name, "")
	if err := os.Unsetenv(name); err != nil {
		t.Fatal(err)
	}
}

func TestSelect(t *testing.T) {
	f := defaults()
	f.Profiles = map[string]Profile{
		"here":  {Backend: Local},
		"there": {Backend: Cloud, URL: "https://there/", KeyEnv: "THERE_KEY"},
		"plain": {Backend: Cloud, Key: "k"},
		"ring":  {Backend: Cloud, keyring: true},
		"none":  {Backend: Cloud},
		"bad":   {Backend: Cloud, Key: "k", URL: "https://u:secret@x"},
	}
	for _, c := range []struct{ env, active, want string }{
		{"", "", "local||default|||"},
		{"MSB_API_KEY=k MSB_API_URL=http://x", "", "local||default|||"}, // alone, they select nothing
		{"MSB_BACKEND=local MSB_PROFILE=there", "plain", "local||MSB_BACKEND|||"},
		{"MSB_BACKEND=LOCAL", "", "local||MSB_BACKEND|||"},
		{"MSB_BACKEND=Cloud MSB_API_KEY=k MSB_PROFILE=here", "", "cloud|https://api.microsandbox.dev|MSB_BACKEND||k|"},
		{"MSB_BACKEND=cloud MSB_API_KEY=k MSB_API_URL=http://x/y/", "", "cloud|http://x/y|MSB_BACKEND||k|"},
		{"MSB_BACKEND=cloud MSB_API_KEY=k MSB_API_URL=ftp://x", "", "the cloud's address is no http or https URL"},
		{"MSB_BACKEND=", "", `invalid config: MSB_BACKEND must be 'local' or 'cloud', got ""`},
		{"MSB_BACKEND=moon", "", `invalid config: MSB_BACKEND must be 'local' or 'cloud', got "moon"`},
		{"MSB_BACKEND=cloud", "", "invalid config: MSB_BACKEND=cloud requires a non-empty MSB_API_KEY or a cloud profile"},
		{"MSB_BACKEND=cloud MSB_API_KEY=", "", "invalid config: MSB_BACKEND=cloud requires a non-empty MSB_API_KEY or a cloud profile"},
		{"MSB_BACKEND=cloud", "here", "invalid config: MSB_BACKEND=cloud requires a non-empty MSB_API_KEY or a cloud profile"},
		{"MSB_BACKEND=cloud THERE_KEY=t", "there", "cloud|https://there|active_profile|there|t|"},
		{"THERE_KEY=t", "there", "cloud|https://there|active_profile|there|t|"},
		{"THERE_KEY=t MSB_API_URL=http://x", "there", "cloud|http://x|active_profile|there|t|"},
		{"MSB_PROFILE=plain", "there", "cloud|https://api.microsandbox.dev|MSB_PROFILE|plain|k|"},
		{"MSB_PROFILE=here", "there", "local||MSB_PROFILE|here||"},
		{"MSB_PROFILE=", "here", "local||active_profile|here||"},
		{"MSB_PROFILE=nothing", "", `there is no profile "nothing", which MSB_PROFILE names`},
		{"", "there", "is to be in THERE_KEY, which is not set"},
		{"MSB_PROFILE=ring", "", "is in a key ring, which is not supported"},
		{"MSB_PROFILE=none", "", "is missing"},
		{"MSB_PROFILE=bad", "", "the cloud's address is no http or https URL"},
	} {
		t.Run(c.env+" "+c.active, func(t *testing.T) {
			for _, name := range []string{BackendVar, KeyVar, URLVar, ProfileVar, "THERE_KEY"} {
				unset(t, name)
			}
			for kv := range strings.FieldsSeq(c.env) {
				name, value, _ := strings.Cut(kv, "=")
				t.Setenv(name, value)
			}
			f.ActiveProfile = c.active
			s, err := f.Select()
			got := strings.Join([]string{s.Kind, s.URL, s.Source, s.Profile, string(s.Key), ""}, "|")
			if err != nil {
				got = err.Error()
				if !errors.Is(err, sandbox.InvalidConfig) || strings.Contains(got, "secret") {
					t.Errorf("error %v", err)
				}
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("%s, want %s", got, c.want)
			}
			shown, _ := json.Marshal(s)
			if out := fmt.Sprintf("%s %v %+v %#v", shown, s, s, s); s.Key != "" && strings.Contains(out, `"`+string(s.Key)+`"`) {
				t.Errorf("the key is shown: %s", out)
			}
		})
	}
}

func TestRead(t *testing.T) {
	user, other := t.TempDir(), t.TempDir()
	t.Setenv("HOME", user)
	t.Setenv(FileVar, "")
	t.Setenv(HomeVar, "")
	write(t, filepath.Join(user, ".microsandbox", "config.json"), 0o600)
	config := filepath.Join(user, ".microsandbox", "config.json")
	if err := os.WriteFile(config, []byte(`{"home": "moved", "log_level": "warn"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Read(); err != nil || s.Home != filepath.Join(user, ".microsandbox", "moved") || s.File.LogLevel != "warn" {
		t.Errorf("the file says home: %+v, %v", s, err)
	}
	t.Setenv(HomeVar, other)
	if s, err := Read(); err != nil || s.Home != other || s.File.LogLevel != "" {
		t.Errorf("MSB_HOME: %+v, %v", s, err)
	}
	t.Setenv(FileVar, config)
	if s, err := Read(); err != nil || s.Home != other || s.File.LogLevel != "warn" {
		t.Errorf("MSB_HOME and MSB_CONFIG_PATH: %+v, %v", s, err)
	}
}

func TestDefaultsApply(t *testing.T) {
	d := Defaults{CPUs: 2, MemoryMiB: 1024, CPUPlacement: "spread", Shell: "/bin/zsh", Workdir: "/w", DisableMetrics: true, RootDisk: &sandbox.RootDisk{Kind: "managed", SizeMiB: 8192}}
	oci := &sandbox.OCIImage{Reference: "x"}
	spec := sandbox.Spec{Image: sandbox.Image{OCI: oci}}
	d.Apply(&spec)
	if spec.Resources.CPUs != 2 || spec.Resources.MemoryMiB != 1024 || spec.Resources.CPUPlacement != "spread" || spec.Runtime.Shell != "/bin/zsh" || spec.Runtime.Workdir != "/w" ||
		!spec.Runtime.DisableMetrics || spec.Image.OCI.RootDisk.SizeMiB != 8192 || oci.RootDisk.SizeMiB != 0 {
		t.Errorf("%+v", spec)
	}
	spec = sandbox.Spec{Image: sandbox.Image{OCI: oci}, Resources: sandbox.Resources{CPUs: 1, MemoryMiB: 64, CPUPlacement: "inherit"}, Lifecycle: sandbox.Lifecycle{Ephemeral: true},
		Runtime: sandbox.RuntimeOptions{Shell: "sh", Workdir: "/", MetricsIntervalMS: 7}}
	d.Apply(&spec)
	if spec.Resources.CPUs != 1 || spec.Resources.MemoryMiB != 64 || spec.Resources.CPUPlacement != "inherit" || spec.Runtime.Shell != "sh" || spec.Runtime.Workdir != "/" || spec.Runtime.DisableMetrics ||
		spec.Image.OCI.RootDisk.Kind != "" {
		t.Errorf("what was said is overruled: %+v", spec)
	}
	if unmet := (Defaults{THP: "madvise"}).Unmet(); len(unmet) != 0 {
		t.Errorf("%q", unmet)
	}
	if unmet := (Defaults{THP: "never", PlacementProfile: "p"}).Unmet(); len(unmet) != 2 {
		t.Errorf("%q", unmet)
	}
}
