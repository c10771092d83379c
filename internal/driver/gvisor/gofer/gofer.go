// Package gofer serves host directories to a sandbox: its writable layer, binds and volumes. It is a file server for
// gVisor's protocol lisafs, in the process that answers gVisor's role "gofer", and takes over the mounts that a [Mount] in
// the OCI spec names; gVisor's own file server keeps the others.
//
// What makes it worth having: the guest's owners, modes and devices are kept in an extended attribute of host files that
// all belong to the one user who runs the sandbox, so they are exact for root and for anybody else; bytes and files are
// counted against a limit; and no path of the guest or planted by it leads out of the directory, because each name is
// opened by itself, beneath its parent, without following a link.
//
// A mount's life: [Annotate] writes its description into the spec, [Check] refuses what could not be served, both in the
// process that starts the sandbox. In the gofer [Register] comes before gVisor's main, PrepareGofer opens the directories
// while the host's /proc is there and the process may still do anything, and from then on all is done through file
// descriptors, below gVisor's seccomp filter.
package gofer

import (
	"encoding/json"
	"fmt"
	"path/filepath"
)

// Stat says where the owners and modes that the guest sees come from.
type Stat string

// The ways to see owners and modes (contract msb-0.6 §1.4, stat-virt).
const (
	// Store is a directory of ours alone: each file has the attribute, host permissions are 0600 and 0700, symbolic links
	// and devices are regular files, and one sandbox at a time has it.
	Store Stat = "store"
	// Strict keeps what the guest sets in the attribute, and fails where that cannot be stored. A file without it belongs
	// to the mount's owner and has its host mode.
	Strict Stat = "strict"
	// Relaxed is Strict, but what cannot be stored is forgotten.
	Relaxed Stat = "relaxed"
	// Off shows and sets what the host has.
	Off Stat = "off"
)

// Mount is one mount that this package serves.
type Mount struct {
	Target string // in the guest; the OCI mount with this destination says what is served
	Stat   Stat
	Mirror bool   // host permissions follow the guest's; else new files are 0600, directories 0700
	UID    uint32 // owner of files that have no attribute
	GID    uint32
	Shared bool   // others change it meanwhile, so the sentry remembers nothing and maps files through their descriptors
	Bytes  uint64 // limit on the sum of file sizes; 0 is none
	Inodes uint64 // limit on the number of files and directories; 0 is none
	// Source is the device and inode of what is to be served; nil is whatever is there.
	Source *[2]uint64
}

// annotation is where the OCI spec has the mounts.
const annotation = "dev.microsandbox.mounts"

// Annotate writes mounts into the annotations of an OCI spec, whose mounts of type "bind" have the same destinations.
func Annotate(annotations map[string]string, mounts []Mount) error {
	if len(mounts) == 0 {
		return nil
	}
	for i, m := range mounts {
		if err := m.check(); err != nil {
			return err
		}
		for _, o := range mounts[:i] {
			if filepath.Clean(o.Target) == filepath.Clean(m.Target) {
				return fmt.Errorf("two mounts at %s", m.Target)
			}
		}
	}
	if len(mounts) > maxMounts {
		return fmt.Errorf("%d mounts are more than the %d that can be served", len(mounts), maxMounts)
	}
	b, err := json.Marshal(mounts)
	if err != nil {
		return fmt.Errorf("encode the mounts: %w", err)
	}
	annotations[annotation] = string(b)
	return nil
}

// mountsOf is the reverse of Annotate.
func mountsOf(annotations map[string]string) ([]Mount, error) {
	text := annotations[annotation]
	if text == "" {
		return nil, nil
	}
	var mounts []Mount
	if err := json.Unmarshal([]byte(text), &mounts); err != nil {
		return nil, fmt.Errorf("read the mounts: %w", err)
	}
	if len(mounts) > maxMounts {
		return nil, fmt.Errorf("%d mounts are too many", len(mounts))
	}
	for _, m := range mounts {
		if err := m.check(); err != nil {
			return nil, err
		}
	}
	return mounts, nil
}

// Wanted reports whether a sandbox with these annotations needs this package's file server.
func Wanted(annotations map[string]string) bool { return annotations[annotation] != "" }

func (m Mount) check() error {
	if !filepath.IsAbs(m.Target) {
		return fmt.Errorf("mount target %q is not absolute", m.Target)
	}
	switch m.Stat {
	case Store, Strict, Relaxed, Off:
		return nil
	}
	return fmt.Errorf("mount %s: no such stat virtualization: %q", m.Target, m.Stat)
}

// virtual reports whether attributes are kept beside the host's own.
func (m Mount) virtual() bool { return m.Stat != Off }

// counted reports whether the bytes and files in the mount are counted.
func (m Mount) counted() bool { return m.Stat == Store || m.Bytes > 0 || m.Inodes > 0 }
