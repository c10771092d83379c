package sandbox

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// ParseVolume reads SOURCE:DEST[:OPTIONS] (contract msb-0.6 §1.4). A source that starts with /, ./ or ../ is a path of the
// host, which the caller makes absolute; any other is the name of a volume, which is made if it is not there. OPTIONS is a
// comma list.
func ParseVolume(s string) (Mount, error) {
	const want = "of the form SOURCE:DEST[:OPTIONS]"
	src, rest, ok := strings.Cut(s, ":")
	if !ok || src == "" {
		return Mount{}, unreadable("volume", s, want)
	}
	dst, opts, _ := strings.Cut(rest, ":")
	if dst == "" {
		return Mount{}, unreadable("volume", s, want)
	}
	m := Mount{Type: MountNamed, Host: src, Guest: dst, Create: VolumeEnsure}
	if IsHostPath(src) {
		m.Type, m.Create = MountBind, ""
	}
	if opts == "" {
		return m, nil
	}
	ids := 0
	for _, o := range strings.Split(opts, ",") {
		id, err := m.option(o)
		if err != nil {
			return Mount{}, err
		}
		ids += id
	}
	if ids != 0 && ids != uidGiven|gidGiven {
		return Mount{}, &Error{Kind: InvalidArgument, Message: "the volume options uid and gid belong together", Hint: "for example: uid=1000,gid=1000"}
	}
	return m, nil
}

// Text says a mount as ParseVolume or, of a tmpfs, ParseTmpfs reads it; ok is false where that has no words for it. Whether a volume has
// to be there is none of it.
func (m Mount) Text() (text string, ok bool) {
	var opts []string
	for _, o := range []struct {
		word string
		on   bool
	}{{"ro", m.Options.ReadOnly}, {"noexec", m.Options.NoExec}, {"nosuid", m.Options.NoSUID}, {"nodev", m.Options.NoDev},
		{"follow-root-symlinks", m.FollowRootSymlinks}, {"stat-virt=" + m.StatVirtualization, m.StatVirtualization != ""},
		{"host-perms=" + m.HostPermissions, m.HostPermissions != ""}, {"quota=" + strconv.Itoa(m.QuotaMiB) + "M", m.QuotaMiB > 0}} {
		if o.on {
			opts = append(opts, o.word)
		}
	}
	if m.Owner != nil {
		opts = append(opts, fmt.Sprintf("uid=%d,gid=%d", m.Owner.UID, m.Owner.GID))
	}
	parse, fields := ParseVolume, []string{m.Host, m.Guest}
	if m.Type == MountTmpfs {
		if parse, fields = ParseTmpfs, []string{m.Guest}; m.SizeMiB > 0 {
			fields = append(fields, strconv.Itoa(m.SizeMiB)+"M")
		}
	}
	if len(opts) > 0 {
		fields = append(fields, strings.Join(opts, ","))
	}
	text = strings.Join(fields, ":")
	read, err := parse(text) // whatever it is that they have no words for
	read.Create = m.Create
	return text, err == nil && reflect.DeepEqual(read, m)
}

// Which of the options uid and gid was read.
const (
	uidGiven = 1 << iota
	gidGiven
)

// option reads one option of a volume.
func (m *Mount) option(o string) (id int, err error) {
	key, value, _ := strings.Cut(o, "=")
	words := map[string][]string{"stat-virt": {StatStrict, StatRelaxed, StatOff}, "host-perms": {PermissionsPrivate, PermissionsMirror}}
	switch {
	case m.Options.set(o):
		return 0, nil
	case o == "follow-root-symlinks":
		m.FollowRootSymlinks = true
		return 0, nil
	case words[key] != nil:
		if !slices.Contains(words[key], value) {
			return 0, unreadable("volume option", o, key+"= and one of "+strings.Join(words[key], ", "))
		}
		if key == "stat-virt" {
			m.StatVirtualization = value
		} else {
			m.HostPermissions = value
		}
		return 0, nil
	case key == "quota":
		if m.QuotaMiB, err = ParseSize(value); err != nil || m.QuotaMiB == 0 {
			return 0, unreadable("volume option", o, "quota= and a size such as 512M or 2G")
		}
		return 0, nil
	case key == "uid" || key == "gid":
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || n == 1<<32-1 {
			return 0, unreadable("volume option", o, key+"= and a number")
		}
		if m.Owner == nil {
			m.Owner = &Owner{}
		}
		if key == "uid" {
			m.Owner.UID = uint32(n)
			return uidGiven, nil
		}
		m.Owner.GID = uint32(n)
		return gidGiven, nil
	case o == "kind=dir" && m.Type == MountNamed:
		return 0, nil
	case o == "kind=disk" || key == "size" || key == "format" || key == "fstype":
		return 0, &Error{Kind: Unsupported, Message: "the volume option " + key + " is not supported: disk images need a microVM",
			Hint: "use a directory, and quota=SIZE to bound it"}
	}
	return 0, unreadable("volume option", o, "one of ro, rw, noexec, nosuid, nodev, follow-root-symlinks, stat-virt=, host-perms=, quota=, uid=, gid= and kind=")
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
