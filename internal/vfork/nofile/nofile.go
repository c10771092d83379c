//go:build linux && (amd64 || arm64)

// Package nofile knows the limit of open files that the process began with. Package syscall raises it for the process as it is
// initialized, restores it for those that it starts itself (go.dev/issue/46279), and tells nobody. This package has no imports, so it is
// initialized before.
package nofile

// Soft and Hard are the limits of RLIMIT_NOFILE at the beginning; Hard is 0 if they are not known.
var Soft, Hard = limit()

func limit() (soft, hard uint64) {
	var l [2]uint64
	if get(&l) != 0 {
		return 0, 0
	}
	return l[0], l[1]
}

// get is prlimit(0, RLIMIT_NOFILE, NULL, l). It returns 0 or a negative error number.
//
//go:noescape
func get(l *[2]uint64) int
