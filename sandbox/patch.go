package sandbox

import (
	"path"
	"path/filepath"
	"strings"
)

// Kinds of patches (contract msb-0.6 §2.2, §3.4).
const (
	PatchText     = "text"
	PatchFile     = "file"
	PatchAppend   = "append"
	PatchMkdir    = "mkdir"
	PatchRemove   = "remove"
	PatchSymlink  = "symlink"
	PatchCopyFile = "copy_file"
	PatchCopyDir  = "copy_dir"
)

// MaxPatches is how many patches one sandbox may have.
const MaxPatches = 1024

// Patch changes the root file system before anything of the user's runs. Patches are applied in their order. Unless
// Replace is set, a path that is there already fails the start with PatchFailed.
type Patch struct {
	Type    string  `json:"type"`
	Path    string  `json:"path,omitempty"`    // of all but copies and symlinks
	Content []byte  `json:"content,omitempty"` // of text, file and append
	Mode    *uint32 `json:"mode,omitempty"`    // permission bits; default 0644 for files, 0755 for directories, or the source's
	Replace bool    `json:"replace,omitempty"`
	Src     string  `json:"src,omitempty"`    // of copies: absolute, on the host
	Dst     string  `json:"dst,omitempty"`    // of copies
	Target  string  `json:"target,omitempty"` // of a symlink: what it says
	Link    string  `json:"link,omitempty"`   // of a symlink: where it is
}

// Guest is the guest path that the patch is about.
func (p Patch) Guest() string {
	switch p.Type {
	case PatchSymlink:
		return p.Link
	case PatchCopyFile, PatchCopyDir:
		return p.Dst
	}
	return p.Path
}

func (p Patch) validate() error {
	if err := oneOf("patch", p.Type, PatchText, PatchFile, PatchAppend, PatchMkdir, PatchRemove, PatchSymlink, PatchCopyFile, PatchCopyDir); err != nil {
		return err
	}
	if err := validateGuestPath(p.Type+" patch", p.Guest()); err != nil {
		return err
	}
	switch p.Type {
	case PatchCopyFile, PatchCopyDir:
		if !filepath.IsAbs(p.Src) || strings.ContainsRune(p.Src, 0) {
			return invalid("", "the source of a copy, %q, is not an absolute path", clip(p.Src))
		}
	case PatchSymlink:
		if p.Target == "" || len(p.Target) > MaxPathLen || strings.ContainsRune(p.Target, 0) {
			return invalid("", "the target of the symlink %s is empty or too long", clip(p.Link))
		}
	}
	if p.Mode != nil && *p.Mode > 0o7777 {
		return invalid("", "mode %o of the patch %s is not one", *p.Mode, clip(p.Guest()))
	}
	return nil
}

func (s Spec) validatePatches() error {
	if len(s.Patches) > MaxPatches {
		return invalid("copy a directory in place of many files", "%d patches are more than %d", len(s.Patches), MaxPatches)
	}
	for _, p := range s.Patches {
		if err := p.validate(); err != nil {
			return err
		}
		if s.OnHost(p.Guest()) {
			return invalid("change it on this machine, or mount elsewhere", "the patch of %s would change what is mounted there", clip(p.Guest()))
		}
	}
	return nil
}

// OnHost reports whether a guest path is at or below a mount of the host: what is written there is written on this machine.
func (s Spec) OnHost(guest string) bool {
	guest = path.Clean(guest)
	for _, m := range s.Mounts {
		at := path.Clean(m.Guest)
		if (m.Type == MountBind || m.Type == MountNamed) && (guest == at || strings.HasPrefix(guest, at+"/")) {
			return true
		}
	}
	return false
}
