package local

import (
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/internal/state"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

var _ backend.Stamper = (*Backend)(nil)

// stamp is the state of the files that a record is read from.
type stamp [5]fileStamp

type fileStamp struct {
	inode   uint64
	size    int64
	changed int64 // nanoseconds; all are 0 if the file is not there
}

// settled is after how long the time of a change tells it from the next one: a file system's clock may tick as seldom as every 10 ms.
const settled = 100 * time.Millisecond

// Stamp implements [backend.Stamper]. A file that was changed just now could be changed again and look the same.
func (b *Backend) Stamp(ref sandbox.Ref) any {
	var s stamp
	run, db := b.store.Path(ref), state.DBPath(b.cfg.Home)
	now := time.Now().UnixNano()
	for i, path := range [...]string{filepath.Join(run, launch.InfoFile), filepath.Join(run, launch.RunningFile), filepath.Join(run, launch.EndFile), db, db + "-wal"} {
		var st unix.Stat_t
		switch err := unix.Stat(path, &st); err {
		case nil:
			s[i] = fileStamp{inode: st.Ino, size: st.Size, changed: st.Ctim.Nano()}
			if age := now - s[i].changed; age < int64(settled) {
				return nil
			}
		case unix.ENOENT:
		default:
			return nil
		}
	}
	return s
}
