package state

import (
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Usage is a run of a sandbox that has ended, and what it had and used.
type Usage struct {
	ID             string // the sandbox's
	Ref            sandbox.Ref
	Started, Ended time.Time
	CPUs           int
	MemoryMiB      int
	DiskMiB        int
	CPUTime        time.Duration
}

// Measured is what the last sample of a run says. The zero value is that there is none.
type Measured struct {
	At      time.Time
	CPUTime time.Duration
}

// keptUsage is how long runs are remembered after their end.
const keptUsage = 400 * 24 * time.Hour

// useOf records the run of a sandbox that ends now. One whose agent never answered used nothing.
func (db *DB) useOf(r Row, end sandbox.End, m Measured) error {
	var began time.Time
	err := db.exec("SELECT running_at FROM run WHERE id = "+lastRun, func(s *sqlite.Stmt) error { began = timeOf(s, "running_at"); return nil }, r.Seq)
	if err != nil || began.IsZero() {
		return err
	}
	u := Usage{ID: r.ID, Ref: r.Ref, Started: began, Ended: end.At, CPUTime: m.CPUTime}
	if end.Reason == sandbox.ReasonLost { // nobody saw when
		u.Ended = began
		if m.At.After(began) {
			u.Ended = m.At
		}
	}
	u.Of(r.Effective())
	return db.insertUsage(u)
}

// Of fills in what a sandbox of that spec has.
func (u *Usage) Of(spec sandbox.Spec) {
	u.CPUs, u.MemoryMiB = spec.Resources.CPUs, spec.Resources.MemoryMiB
	if d := spec.Image.Disk(); d.Kind == sandbox.RootDiskManaged {
		u.DiskMiB = d.SizeMiB
	}
}

func (db *DB) insertUsage(u Usage) error {
	err := db.exec("INSERT INTO usage (sandbox, namespace, name, started_at, ended_at, cpus, memory_mib, disk_mib, cpu_ns) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)", nil,
		u.ID, u.Ref.Namespace, string(u.Ref.Name), u.Started.UnixNano(), max(u.Ended.UnixNano(), u.Started.UnixNano()), u.CPUs, u.MemoryMiB, u.DiskMiB, int64(u.CPUTime))
	if err == nil {
		err = db.exec("DELETE FROM usage WHERE namespace = ?1 AND ended_at < ?2", nil, u.Ref.Namespace, u.Ended.Add(-keptUsage).UnixNano())
	}
	return err
}

// AddUsage records the run of a sandbox that has no record of its own.
func (db *DB) AddUsage(u Usage) error {
	return db.do("write", func() error { return db.insertUsage(u) })
}

// Usage returns the runs of a namespace's sandboxes that ended after a time, oldest first.
func (db *DB) Usage(namespace string, since time.Time) ([]Usage, error) {
	var all []Usage
	err := db.read("read", `SELECT sandbox, name, started_at, ended_at, cpus, memory_mib, disk_mib, cpu_ns FROM usage
		WHERE namespace = ?1 AND ended_at > ?2 ORDER BY ended_at, id`, func(s *sqlite.Stmt) error {
		all = append(all, Usage{ID: s.GetText("sandbox"), Ref: sandbox.Ref{Namespace: namespace, Name: sandbox.Name(s.GetText("name"))}, Started: timeOf(s, "started_at"), Ended: timeOf(s, "ended_at"),
			CPUs: int(s.GetInt64("cpus")), MemoryMiB: int(s.GetInt64("memory_mib")), DiskMiB: int(s.GetInt64("disk_mib")), CPUTime: time.Duration(s.GetInt64("cpu_ns"))})
		return nil
	}, namespace, since.UnixNano())
	return all, err
}
