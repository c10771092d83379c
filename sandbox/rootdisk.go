package sandbox

import "strings"

// ParseRootDisk reads --root-disk (contract msb-0.6 §1.2): a size is a managed disk, tmpfs[:SIZE] one in the sandbox's memory.
// The others are disk images, which a kernel of its own would have to read. Kind: Unsupported for those.
func ParseRootDisk(s string) (RootDisk, error) {
	const want = "a size such as 8G, or tmpfs[:SIZE]"
	kind, opts, more := strings.Cut(s, ":")
	switch {
	case s == "":
		return RootDisk{}, unreadable("root disk", s, want)
	case kind == RootDiskTmpfs:
		d := RootDisk{Kind: RootDiskTmpfs}
		if more {
			size, err := ParseSize(opts)
			if err != nil || size == 0 {
				return RootDisk{}, unreadable("root disk", s, want)
			}
			d.SizeMiB = size
		}
		return d, nil
	case kind == "flat":
		return RootDisk{}, &Error{Kind: Unsupported, Message: "a flat root disk is not supported: it is a disk image, which only a microVM can use",
			Hint: "use a managed one: --root-disk 8G"}
	case IsHostPath(s) || strings.ContainsAny(s, "/."):
		return RootDisk{}, &Error{Kind: Unsupported, Message: "a disk image as the root disk is not supported: only a microVM can use it",
			Hint: "use a managed one: --root-disk 8G"}
	}
	size, err := ParseSize(s)
	if err != nil || size == 0 {
		return RootDisk{}, unreadable("root disk", s, want)
	}
	return RootDisk{Kind: RootDiskManaged, SizeMiB: size}, nil
}
