package sandbox

import "strings"

// ParseVolume reads SOURCE:DEST[:OPTIONS] (contract msb-0.6 §1.4). A source that starts with /, ./ or ../ is a path of the
// host, which the caller makes absolute; any other is the name of a volume. OPTIONS is a comma list.
func ParseVolume(s string) (Mount, error) {
	const want = "of the form SOURCE:DEST[:ro,noexec,nosuid,nodev,follow-root-symlinks]"
	src, rest, ok := strings.Cut(s, ":")
	if !ok || src == "" {
		return Mount{}, unreadable("volume", s, want)
	}
	dst, opts, _ := strings.Cut(rest, ":")
	if dst == "" {
		return Mount{}, unreadable("volume", s, want)
	}
	m := Mount{Type: MountNamed, Host: src, Guest: dst}
	if IsHostPath(src) {
		m.Type = MountBind
	}
	if opts == "" {
		return m, nil
	}
	for _, o := range strings.Split(opts, ",") {
		key, _, _ := strings.Cut(o, "=")
		switch {
		case m.Options.set(o):
		case o == "follow-root-symlinks":
			m.FollowRootSymlinks = true
		case o == "stat-virt=off":
		case key == "stat-virt" || key == "host-perms" || key == "quota" || key == "uid" || key == "gid" || key == "kind" || key == "size":
			return Mount{}, &Error{Kind: Unsupported, Message: "the volume option " + key + " is not supported yet",
				Hint: "leave it out: files have the owners and modes that they have on this machine"}
		default:
			return Mount{}, unreadable("volume option", o, "one of ro, rw, noexec, nosuid, nodev and follow-root-symlinks")
		}
	}
	return m, nil
}

// IsHostPath reports whether a source names a path of the host, not a volume or an image.
func IsHostPath(s string) bool {
	return strings.HasPrefix(s, "/") || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../") || s == "." || s == ".."
}

// ParseCopy reads SRC:DST of a copy into the guest; the caller makes SRC absolute.
func ParseCopy(s string) (src, dst string, err error) {
	// The destination is an absolute guest path, which has no colon: the last colon is the separator.
	i := strings.LastIndexByte(s, ':')
	if i <= 0 || !strings.HasPrefix(s[i+1:], "/") {
		return "", "", unreadable("copy", s, "of the form SRC:DST, with an absolute DST")
	}
	return s[:i], s[i+1:], nil
}
