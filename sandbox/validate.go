package sandbox

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Bounds of a [Spec]. They keep what one sandbox can ask of this process within reason; none is a limit of the guest.
const (
	MaxCPUs        = 255
	MinMemoryMiB   = 32 // less does not hold gVisor's own kernel
	MaxMemoryMiB   = 16 << 20
	MaxEnv         = 4096
	MaxEnvBytes    = 1 << 20
	MaxLabels      = 256
	MaxLabelBytes  = 1024 // a key and its value
	MaxMounts      = 128
	MaxScripts     = 256
	MaxScriptBytes = 8 << 20 // all scripts together
	MaxPathLen     = 4096
	MaxHostnameLen = 64
)

func invalid(hint, format string, args ...any) error {
	return &Error{Kind: InvalidConfig, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// Validate reports the first thing wrong with a Spec that has its defaults, as an InvalidConfig error with a hint.
func (s Spec) Validate() error {
	if err := s.Name.Validate(); err != nil {
		return err
	}
	for _, check := range [...]func() error{
		s.Image.validate, s.Resources.validate, s.Runtime.validate, s.validateEnv, s.validateLabels, s.validateRlimits,
		s.validateMounts, s.validatePatches, s.validateWords, s.Init.validate, s.Lifecycle.validate, s.Network.validate,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (i Image) validate() error {
	if i.Bind != nil {
		return i.Bind.validate(i.OCI != nil)
	}
	switch {
	case i.OCI == nil || i.OCI.Reference == "":
		return invalid("the built-in image is called "+HostImage, "no image is given")
	case len(i.OCI.Reference) > MaxPathLen || hasControl(i.OCI.Reference) || strings.ContainsRune(i.OCI.Reference, ' '):
		return invalid("", "image reference %q is not one", clip(i.OCI.Reference))
	}
	return oneOf("root disk", i.OCI.RootDisk.Kind, RootDiskManaged, RootDiskTmpfs)
}

func (b BindImage) validate(both bool) error {
	switch {
	case both:
		return invalid("", "the image is a reference or a path, not both")
	case !path.IsAbs(b.Path) || path.Clean(b.Path) != b.Path:
		return invalid("", "the image's path %q is not absolute and clean", clip(b.Path))
	case len(b.Path) > MaxPathLen || hasControl(b.Path):
		return invalid("", "the image's path %q is not one", clip(b.Path))
	}
	return nil
}

func (r Resources) validate() error {
	switch {
	case r.CPUs < 1 || r.CPUs > MaxCPUs:
		return invalid("", "cpus is %d; it must be from 1 to %d", r.CPUs, MaxCPUs)
	case r.MemoryMiB < MinMemoryMiB:
		return invalid(fmt.Sprintf("give it at least %d MiB: -m %dM", MinMemoryMiB, MinMemoryMiB),
			"memory of %d MiB is too little", r.MemoryMiB)
	case r.MemoryMiB > MaxMemoryMiB:
		return invalid("", "memory of %d MiB is more than %d MiB", r.MemoryMiB, MaxMemoryMiB)
	case r.MaxCPUs < r.CPUs || r.MaxCPUs > MaxCPUs:
		return invalid("", "max_cpus is %d; it must be from cpus (%d) to %d", r.MaxCPUs, r.CPUs, MaxCPUs)
	case r.MaxMemoryMiB < r.MemoryMiB || r.MaxMemoryMiB > MaxMemoryMiB:
		return invalid("", "max_memory of %d MiB is below the memory of %d MiB or above %d MiB", r.MaxMemoryMiB, r.MemoryMiB, MaxMemoryMiB)
	}
	return oneOf("cpu placement", r.CPUPlacement, "", PlaceInherit, PlaceAuto, PlaceSpread, PlaceCompact)
}

func (i *Init) validate() error {
	if i == nil {
		return nil
	}
	if i.Cmd != InitAuto {
		if err := validateGuestPath("init", i.Cmd); err != nil {
			return err
		}
	}
	size := 0
	for _, arg := range i.Args {
		if size += len(arg); strings.ContainsRune(arg, 0) {
			return invalid("", "an argument of the init has a NUL byte")
		}
	}
	for _, v := range i.Env {
		if err := ValidateEnv(v); err != nil {
			return err
		}
		size += len(v.Key) + len(v.Value)
	}
	if size > MaxEnvBytes || len(i.Args)+len(i.Env) > MaxEnv {
		return invalid("put large values into files", "the arguments and variables of the init are more than %d KiB", MaxEnvBytes>>10)
	}
	return nil
}

func (r RuntimeOptions) validate() error {
	if r.Workdir != "" {
		if err := validateGuestPath("working directory", r.Workdir); err != nil {
			return err
		}
	}
	if r.Shell == "" || hasControl(r.Shell) || strings.ContainsRune(r.Shell, ' ') {
		return invalid("name a program, for example --shell /bin/bash", "shell %q is not a program's name", clip(r.Shell))
	}
	if err := validateHostname(r.Hostname); err != nil {
		return err
	}
	if err := ValidateUser(r.User); err != nil {
		return err
	}
	if r.LogLevel != "" {
		if err := oneOf("log level", r.LogLevel, "error", "warn", "info", "debug", "trace"); err != nil {
			return err
		}
	}
	if len(r.Scripts) > MaxScripts {
		return invalid("", "%d scripts are more than %d", len(r.Scripts), MaxScripts)
	}
	size := 0
	for name, body := range r.Scripts {
		if err := validateScriptName(name); err != nil {
			return err
		}
		size += len(body)
	}
	if size > MaxScriptBytes {
		return invalid("put large files into the image", "the scripts are larger than %d MiB together", MaxScriptBytes>>20)
	}
	return nil
}

func validateHostname(h string) error {
	if h == "" || len(h) > MaxHostnameLen || strings.IndexFunc(h, func(c rune) bool {
		return c > 'z' || !isAlnum(byte(c)) && !strings.ContainsRune(".-_", c)
	}) >= 0 {
		return invalid(fmt.Sprintf("use letters, digits, '.', '_' and '-', at most %d", MaxHostnameLen), "hostname %q is not one", clip(h))
	}
	return nil
}

// ValidateUser checks the form NAME|UID[:GROUP|GID]; "" is the default user. Whether the user exists, the guest says.
func ValidateUser(u string) error {
	if u == "" {
		return nil
	}
	name, group, two := strings.Cut(u, ":")
	if name == "" || two && group == "" || len(u) > 256 || hasControl(u) || strings.ContainsAny(u, " /") || strings.Contains(group, ":") {
		return invalid("use NAME or UID, and :GROUP or :GID after it if need be", "user %q is not one", clip(u))
	}
	return nil
}

func validateScriptName(name string) error {
	if len(name) > MaxNameLen {
		return invalid("", "script name %q is longer than %d bytes", clip(name), MaxNameLen)
	}
	return validateWord("script name", name)
}

// ValidateEnv checks one variable. Keys that begin with MSB_ belong to microsandbox.
func ValidateEnv(v EnvVar) error {
	switch {
	case v.Key == "" || strings.ContainsAny(v.Key, "=\x00"):
		return invalid("", "environment variable %q has no name that a process could see", clip(v.Key))
	case strings.HasPrefix(v.Key, "MSB_"):
		return invalid("choose another name", "environment variable %s is reserved: names that begin with MSB_ are microsandbox's own", clip(v.Key))
	case strings.ContainsRune(v.Value, 0):
		return invalid("", "environment variable %s has a NUL byte", clip(v.Key))
	}
	return nil
}

func (s Spec) validateEnv() error {
	if len(s.Env) > MaxEnv {
		return invalid("", "%d environment variables are more than %d", len(s.Env), MaxEnv)
	}
	size := 0
	for _, v := range s.Env {
		if err := ValidateEnv(v); err != nil {
			return err
		}
		size += len(v.Key) + len(v.Value)
	}
	if size > MaxEnvBytes {
		return invalid("put large values into files", "the environment is larger than %d KiB", MaxEnvBytes>>10)
	}
	return nil
}

// reservedLabels are prefixes that microsandbox sets itself.
var reservedLabels = [...]string{"sandbox.", "microsandbox.", "service."}

func (s Spec) validateLabels() error {
	if len(s.Labels) > MaxLabels {
		return invalid("", "%d labels are more than %d", len(s.Labels), MaxLabels)
	}
	for k, v := range s.Labels {
		if err := ValidateLabel(k, v); err != nil {
			return err
		}
	}
	return nil
}

// ValidateLabel checks one label.
func ValidateLabel(key, value string) error {
	for _, p := range reservedLabels {
		if strings.HasPrefix(key, p) {
			return invalid("choose another name", "label %q is reserved: names that begin with %q are microsandbox's own", clip(key), p)
		}
	}
	if key == "" || len(key)+len(value) > MaxLabelBytes || hasControl(key) || hasControl(value) {
		return invalid("", "label %q is empty, longer than %d bytes or has control characters", clip(key), MaxLabelBytes)
	}
	return nil
}

// Validate checks the resource's name and that the soft limit is not above the hard one.
func (r Rlimit) Validate() error {
	if !slices.Contains(RlimitNames[:], r.Resource) {
		return invalid("one of "+strings.Join(RlimitNames[:], ", "), "resource limit %q is not known", clip(r.Resource))
	}
	if r.Soft > r.Hard {
		return invalid("", "resource limit %s: the soft limit %d is above the hard limit %d", r.Resource, r.Soft, r.Hard)
	}
	return nil
}

func (s Spec) validateRlimits() error {
	var seen []string
	for _, r := range s.Rlimits {
		if err := r.Validate(); err != nil {
			return err
		}
		if slices.Contains(seen, r.Resource) {
			return invalid("", "resource limit %s is given twice", r.Resource)
		}
		seen = append(seen, r.Resource)
	}
	return nil
}

// reservedMounts are guest paths that the sandbox itself is made of; nothing is mounted there or below.
var reservedMounts = [...]string{"/.msb", "/proc", "/sys"}

func (s Spec) validateMounts() error {
	if len(s.Mounts) > MaxMounts {
		return invalid("", "%d mounts are more than %d", len(s.Mounts), MaxMounts)
	}
	seen := make(map[string]bool, len(s.Mounts))
	for _, m := range s.Mounts {
		if err := oneOf("mount type", m.Type, MountTmpfs, MountBind, MountNamed); err != nil {
			return err
		}
		if err := validateGuestPath("mount point", m.Guest); err != nil {
			return err
		}
		clean := path.Clean(m.Guest)
		if clean == "/" {
			return invalid("mount below it", "nothing can be mounted at /")
		}
		for _, r := range reservedMounts {
			if clean == r || strings.HasPrefix(clean, r+"/") || clean == "/dev" {
				return invalid("choose another path", "nothing can be mounted at %s: it belongs to the sandbox", clean)
			}
		}
		if seen[clean] {
			return invalid("mount point: "+clean, "multiple volumes cannot mount the same guest path")
		}
		seen[clean] = true
		if m.SizeMiB < 0 || m.SizeMiB > MaxMemoryMiB {
			return invalid("", "size of the mount at %s is out of bounds", clean)
		}
		if err := m.validateFiles(clean); err != nil {
			return err
		}
	}
	return nil
}

// validateFiles checks what is said of the files of a bind or a volume.
func (m Mount) validateFiles(at string) error {
	if m.Type == MountTmpfs {
		return nil
	}
	if m.Type == MountNamed {
		if err := ValidateVolumeName(m.Host); err != nil {
			return err
		}
	}
	for _, w := range []struct {
		what, word string
		words      []string
	}{
		{"stat virtualization", m.StatVirtualization, []string{"", StatStrict, StatRelaxed, StatOff}},
		{"host permissions", m.HostPermissions, []string{"", PermissionsPrivate, PermissionsMirror}},
		{"volume mode", m.Create, []string{"", VolumeExisting, VolumeCreate, VolumeEnsure}},
	} {
		if err := oneOf(w.what, w.word, w.words...); err != nil {
			return err
		}
	}
	switch {
	case m.QuotaMiB < 0 || m.QuotaMiB > MaxQuotaMiB:
		return invalid("", "the quota of the mount at %s is out of bounds", at)
	case m.StatVirtualization == StatOff && (m.QuotaMiB > 0 || m.Owner != nil || m.HostPermissions != ""):
		return invalid("leave out stat-virt=off", "the mount at %s has quota, owner or host permissions, which need stat virtualization", at)
	}
	return nil
}

// MaxQuotaMiB is the largest quota of a mount, 1 PiB.
const MaxQuotaMiB = 1 << 30

// ValidateVolumeName reports the first thing wrong with the name of a volume.
func ValidateVolumeName(name string) error { return validateWord("volume name", name) }

// validateGuestPath wants an absolute path that cannot lead elsewhere and that no mount option could be mistaken for.
func validateGuestPath(what, p string) error {
	why := ""
	switch {
	case !strings.HasPrefix(p, "/"):
		why = "is not absolute"
	case hasDotDot(p):
		why = `has ".." in it`
	case strings.ContainsAny(p, ":;,"):
		why = "has one of : ; , in it"
	case hasControl(p):
		why = "has control characters"
	case len(p) > MaxPathLen:
		why = fmt.Sprintf("is longer than %d bytes", MaxPathLen)
	default:
		return nil
	}
	return invalid("use an absolute path of the guest, for example /work", "%s %q %s", what, clip(p), why)
}

func hasDotDot(p string) bool { return slices.Contains(strings.Split(p, "/"), "..") }

func hasControl(s string) bool {
	return strings.IndexFunc(s, func(c rune) bool { return c < 0x20 || c == 0x7f }) >= 0
}

func (s Spec) validateWords() error {
	if err := oneOf("pull policy", s.PullPolicy, PullIfMissing, PullAlways, PullNever); err != nil {
		return err
	}
	if err := oneOf("security profile", s.SecurityProfile, ProfileDefault, ProfileRestricted); err != nil {
		return err
	}
	return oneOf("deployment profile", s.DeploymentProfile, SingleTenant, MultiTenant)
}

func oneOf(what, got string, words ...string) error {
	if slices.Contains(words, got) {
		return nil
	}
	return invalid("", "%s %q is not one of %s", what, clip(got), strings.Join(words, ", "))
}

func (l Lifecycle) validate() error {
	for what, secs := range map[string]*int{"max_duration": l.MaxDurationSecs, "idle_timeout": l.IdleTimeoutSecs} {
		if secs != nil && *secs < 1 {
			return invalid("leave it out for no limit", "%s is %d s; it must be at least 1 s", what, *secs)
		}
	}
	return nil
}
