package gofer

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Bytes and files that are left to the host: guest data is refused before the host's disk is full, because gVisor's overlay
// takes down the whole sandbox if it cannot make a whiteout.
const (
	headroom       = 32 << 20
	headroomInodes = 1024
	lookEvery      = 4 << 20 // bytes charged between two looks at the host's disk
)

// quota counts what a mount holds. Its methods may be called at once.
type quota struct {
	on            bool
	bytes, inodes uint64 // limits; 0 is none
	used          *slot
	fd            int          // a directory of the file system, to see what is left of it; -1 is not to look
	unseen        atomic.Int64 // bytes that may be charged before the next look
}

// take charges up to n bytes, and returns how many.
func (q *quota) take(n uint64) uint64 {
	if !q.on || n == 0 {
		return n
	}
	if !q.room(n) {
		return 0
	}
	for {
		used := q.used.bytes.Load()
		m := n
		if q.bytes > 0 {
			m = min(n, q.bytes-min(used, q.bytes))
		}
		if m == 0 || q.used.bytes.CompareAndSwap(used, used+m) {
			return m
		}
	}
}

// give is the reverse of take.
func (q *quota) give(n uint64) {
	if q.on {
		sub(&q.used.bytes, n)
	}
}

// takeAll charges n bytes or none.
func (q *quota) takeAll(n uint64) error {
	if got := q.take(n); got < n {
		q.give(got)
		return unix.ENOSPC
	}
	return nil
}

// takeInode charges one file.
func (q *quota) takeInode() error {
	if !q.on {
		return nil
	}
	if !q.room(4096) {
		return unix.ENOSPC
	}
	for {
		used := q.used.inodes.Load()
		if q.inodes > 0 && used >= q.inodes {
			return unix.ENOSPC
		}
		if q.used.inodes.CompareAndSwap(used, used+1) {
			return nil
		}
	}
}

// hasInode reports whether there is room for one file.
func (q *quota) hasInode() bool {
	return !q.on || q.room(4096) && (q.inodes == 0 || q.used.inodes.Load() < q.inodes)
}

// forceInode charges one file, whether there is room or not.
func (q *quota) forceInode() {
	if q.on {
		q.used.inodes.Add(1)
	}
}

func (q *quota) giveInode() {
	if q.on {
		sub(&q.used.inodes, 1)
	}
}

// sub subtracts, and stops at zero: in a mount that others write to, more may go than was counted.
func sub(v *atomic.Uint64, n uint64) {
	for {
		have := v.Load()
		if v.CompareAndSwap(have, have-min(n, have)) {
			return
		}
	}
}

// room reports whether the host's disk has space for n bytes more.
func (q *quota) room(n uint64) bool {
	if q.fd < 0 || q.unseen.Add(-int64(n)) >= 0 {
		return true
	}
	var s unix.Statfs_t
	if err := unix.Fstatfs(q.fd, &s); err != nil {
		return true
	}
	free := s.Bavail * uint64(s.Bsize)
	if free < headroom+n || s.Files > 0 && s.Ffree < headroomInodes {
		q.unseen.Store(0)
		return false
	}
	q.unseen.Store(int64(min(lookEvery, (free-headroom-n)/2)))
	return true
}
