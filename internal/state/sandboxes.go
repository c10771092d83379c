package state

import (
	"fmt"
	"strings"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Row is what is recorded of a kept sandbox. Its status is what was last written: whether it is still so, its lock knows.
type Row struct {
	sandbox.Info        // Active is nil while it does not run
	Sealed       string // values of its secrets, encrypted; "" is none
}

// Run is one run of a sandbox.
type Run struct {
	Runner    int
	StartedAt time.Time
	RunningAt time.Time
	End       *sandbox.End
}

const rowColumns = `seq, id, namespace, name, status, spec, coalesce(active, '') AS active, startup, booted,
	coalesce(confinement, '') AS confinement, coalesce(ended, '') AS ended, coalesce(sealed, '') AS sealed, created_at, updated_at`

func rowOf(s *sqlite.Stmt) (Row, error) {
	r := Row{Info: sandbox.Info{
		Ref: sandbox.Ref{Namespace: s.GetText("namespace"), Name: sandbox.Name(s.GetText("name"))}, ID: s.GetText("id"), Seq: s.GetInt64("seq"),
		Status: sandbox.Status(s.GetText("status")), CreatedAt: timeOf(s, "created_at"), UpdatedAt: timeOf(s, "updated_at"),
		Booted: s.GetInt64("booted") != 0,
	}, Sealed: s.GetText("sealed")}
	for _, f := range []struct {
		col  string
		into any
	}{{"spec", &r.Spec}, {"active", &r.Active}, {"startup", &r.Startup}, {"confinement", &r.Confinement}, {"ended", &r.End}} {
		if err := fromJSON(s.GetText(f.col), f.into); err != nil {
			return r, &sandbox.Error{Ref: r.Ref, Kind: sandbox.IO, Message: fmt.Sprintf("the record of %s is damaged (%s)", r.Ref, f.col), Err: err, Hint: "see what is wrong with: msb fsck"}
		}
	}
	if r.Status != sandbox.Stopped && r.Status != sandbox.Crashed {
		r.End = nil
	}
	return r, nil
}

// Insert records a new sandbox and returns its Seq. Kind: AlreadyExists.
func (db *DB) Insert(r Row) (int64, error) {
	var seq int64
	err := db.do("write", func() error {
		taken := false
		err := db.exec("SELECT 1 FROM sandbox WHERE namespace = ?1 AND name = ?2", func(*sqlite.Stmt) error { taken = true; return nil }, r.Ref.Namespace, string(r.Ref.Name))
		if err != nil {
			return err
		}
		if taken {
			return &sandbox.Error{Op: "create", Ref: r.Ref, Kind: sandbox.AlreadyExists}
		}
		startup := r.Startup
		if startup == nil {
			startup = []string{}
		}
		err = db.exec(`INSERT INTO sandbox (id, namespace, name, status, spec, startup, sealed, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, nullif(?7, ''), ?8, ?9)`, nil,
			r.ID, r.Ref.Namespace, string(r.Ref.Name), string(r.Status), toJSON(r.Spec), toJSON(startup), r.Sealed, r.CreatedAt.UnixNano(), r.UpdatedAt.UnixNano())
		if err != nil {
			return err
		}
		seq = db.conn.LastInsertRowID()
		return db.writeLabels(seq, r.Spec.Labels)
	})
	return seq, err
}

func (db *DB) writeLabels(seq int64, labels map[string]string) error {
	if err := db.exec("DELETE FROM label WHERE sandbox = ?1", nil, seq); err != nil {
		return err
	}
	for k, v := range labels {
		if err := db.exec("INSERT INTO label (sandbox, key, value) VALUES (?1, ?2, ?3)", nil, seq, k, v); err != nil {
			return err
		}
	}
	return nil
}

// Get returns the record of ref. Kind: NotFound.
func (db *DB) Get(ref sandbox.Ref) (Row, error) {
	return db.one(&sandbox.Error{Ref: ref, Kind: sandbox.NotFound, Message: string(ref.Name)},
		"SELECT "+rowColumns+" FROM sandbox WHERE namespace = ?1 AND name = ?2", ref.Namespace, string(ref.Name))
}

// GetID returns the record of the sandbox with that ID. Kind: NotFound.
func (db *DB) GetID(id string) (Row, error) {
	return db.one(&sandbox.Error{Kind: sandbox.NotFound, Message: id}, "SELECT "+rowColumns+" FROM sandbox WHERE id = ?1", id)
}

func (db *DB) one(missing *sandbox.Error, query string, args ...any) (Row, error) {
	var (
		r     Row
		found bool
	)
	err := db.read("read", query, func(s *sqlite.Stmt) (err error) {
		found = true
		r, err = rowOf(s)
		return err
	}, args...)
	if err == nil && !found {
		err = missing
	}
	return r, err
}

// Query selects sandboxes. The zero value is all.
type Query struct {
	Namespace string            // "" is all
	Labels    map[string]string // all of them
	Before    int64             // Seq; 0 is no bound
	Limit     int               // 0 is none
}

// List returns sandboxes, newest first.
func (db *DB) List(q Query) ([]Row, error) {
	where, args := []string{"1"}, []any{}
	add := func(cond string, vals ...any) {
		for _, v := range vals {
			args = append(args, v)
			cond = strings.Replace(cond, "?", fmt.Sprintf("\x00%d", len(args)), 1)
		}
		where = append(where, strings.ReplaceAll(cond, "\x00", "?"))
	}
	if q.Namespace != "" {
		add("namespace = ?", q.Namespace)
	}
	for k, v := range q.Labels {
		add("EXISTS (SELECT 1 FROM label WHERE label.sandbox = seq AND key = ? AND value = ?)", k, v)
	}
	if q.Before > 0 {
		add("seq < ?", q.Before)
	}
	query := "SELECT " + rowColumns + " FROM sandbox WHERE " + strings.Join(where, " AND ") + " ORDER BY seq DESC"
	if q.Limit > 0 {
		query += fmt.Sprintf(" LIMIT %d", q.Limit)
	}
	var all []Row
	err := db.read("read", query, func(s *sqlite.Stmt) error {
		r, err := rowOf(s)
		if err == nil {
			all = append(all, r)
		}
		return err
	}, args...)
	return all, err
}

// change runs f with the present record of a sandbox, as one transaction, and writes its status and time. Kind: NotFound.
func (db *DB) change(id string, f func(*Row) error) error {
	return db.do("write", func() error {
		var r *Row
		err := db.exec("SELECT "+rowColumns+" FROM sandbox WHERE id = ?1", func(s *sqlite.Stmt) error {
			one, err := rowOf(s)
			r = &one
			return err
		}, id)
		if err != nil {
			return err
		}
		if r == nil {
			return &sandbox.Error{Kind: sandbox.NotFound, Message: id}
		}
		from := r.Status
		r.UpdatedAt = time.Now().UTC()
		if err := f(r); err != nil {
			return err
		}
		if from != r.Status {
			if err := sandbox.Move(from, r.Status); err != nil {
				return err
			}
		}
		return db.exec("UPDATE sandbox SET status = ?2, updated_at = ?3 WHERE seq = ?1", nil, r.Seq, string(r.Status), r.UpdatedAt.UnixNano())
	})
}

// Begin records that a run begins, with what the sandbox's spec is now. Its status must allow that.
func (db *DB) Begin(id string) (Row, error) {
	var begun Row
	err := db.change(id, func(r *Row) error {
		if err := sandbox.Move(r.Status, sandbox.Starting); err != nil {
			return err
		}
		r.Status = sandbox.Starting
		err := db.exec("UPDATE sandbox SET active = spec, ended = NULL, confinement = NULL WHERE seq = ?1", nil, r.Seq)
		if err == nil {
			err = db.exec("INSERT INTO run (sandbox, started_at) VALUES (?1, ?2)", nil, r.Seq, r.UpdatedAt.UnixNano())
		}
		begun = *r
		begun.Active, begun.End, begun.Confinement = &begun.Spec, nil, nil
		return err
	})
	return begun, err
}

// lastRun names the last run of the sandbox ?1.
const lastRun = "(SELECT max(id) FROM run WHERE sandbox = ?1)"

// Running records that the agent answered.
func (db *DB) Running(id string, run launch.Running) error {
	return db.change(id, func(r *Row) error {
		r.Status, r.UpdatedAt = sandbox.Running, run.StartedAt
		err := db.exec("UPDATE sandbox SET booted = 1, confinement = ?2 WHERE seq = ?1", nil, r.Seq, toJSON(run.Confinement))
		if err == nil {
			err = db.exec("UPDATE run SET runner = ?2, running_at = ?3 WHERE id = "+lastRun, nil, r.Seq, run.PID, run.StartedAt.UnixNano())
		}
		return err
	})
}

// SetStatus records a move that is neither a beginning nor an end.
func (db *DB) SetStatus(id string, to sandbox.Status) error {
	return db.change(id, func(r *Row) error { r.Status = to; return nil })
}

// End records how a run ended, and what was measured of it; to is Stopped or Crashed.
func (db *DB) End(id string, to sandbox.Status, end sandbox.End, m Measured) error {
	return db.change(id, func(r *Row) error {
		if r.Status == to { // another reader was first
			return nil
		}
		r.Status, r.UpdatedAt = to, end.At
		err := db.useOf(*r, end, m)
		if err == nil {
			err = db.exec("UPDATE sandbox SET active = NULL, ended = ?2 WHERE seq = ?1", nil, r.Seq, toJSON(end))
		}
		if err == nil {
			var code, signal any
			if end.ExitCode != nil {
				code = *end.ExitCode
			}
			if end.Signal != nil {
				signal = *end.Signal
			}
			err = db.exec("UPDATE run SET ended_at = ?2, reason = ?3, message = ?4, exit_code = ?5, signal = ?6 WHERE id = "+lastRun+" AND ended_at IS NULL", nil,
				r.Seq, end.At.UnixNano(), string(end.Reason), end.Message, code, signal)
		}
		return err
	})
}

// Edit changes what the next start gets, and with live what is recorded of the present run.
func (db *DB) Edit(id string, edit func(r *Row) error) (Row, error) {
	var edited Row
	err := db.change(id, func(r *Row) error {
		if err := edit(r); err != nil {
			return err
		}
		var active any
		if r.Active != nil {
			active = toJSON(r.Active)
		}
		startup := r.Startup
		if startup == nil {
			startup = []string{}
		}
		err := db.exec("UPDATE sandbox SET spec = ?2, active = ?3, startup = ?4, sealed = nullif(?5, '') WHERE seq = ?1", nil, r.Seq, toJSON(r.Spec), active, toJSON(startup), r.Sealed)
		if err == nil {
			err = db.writeLabels(r.Seq, r.Spec.Labels)
		}
		edited = *r
		return err
	})
	return edited, err
}

// Rename gives a sandbox that does not run another name; move is called before, and nothing changes if it fails. Kinds: NotFound,
// AlreadyExists, StillRunning.
func (db *DB) Rename(id string, to sandbox.Name, move func() error) (Row, error) {
	var renamed Row
	err := db.change(id, func(r *Row) error {
		taken := false
		err := db.exec("SELECT 1 FROM sandbox WHERE namespace = ?1 AND name = ?2", func(*sqlite.Stmt) error { taken = true; return nil }, r.Ref.Namespace, string(to))
		switch {
		case err != nil:
			return err
		case taken:
			return &sandbox.Error{Op: "rename", Ref: sandbox.Ref{Namespace: r.Ref.Namespace, Name: to}, Kind: sandbox.AlreadyExists}
		case !r.Status.Terminal():
			return &sandbox.Error{Op: "rename", Ref: r.Ref, Kind: sandbox.StillRunning}
		}
		if err := move(); err != nil {
			return err
		}
		r.Ref.Name, r.Spec.Name = to, to
		err = db.exec("UPDATE sandbox SET name = ?2, spec = ?3 WHERE seq = ?1", nil, r.Seq, string(to), toJSON(r.Spec))
		if err == nil {
			err = db.exec("UPDATE usage SET name = ?2 WHERE sandbox = ?1", nil, r.ID, string(to))
		}
		renamed = *r
		return err
	})
	return renamed, err
}

// Delete forgets a sandbox and its runs.
func (db *DB) Delete(id string) error {
	return db.do("write", func() error { return db.exec("DELETE FROM sandbox WHERE id = ?1", nil, id) })
}

// Runs returns the last runs of a sandbox, newest first.
func (db *DB) Runs(id string, most int) ([]Run, error) {
	var all []Run
	err := db.read("read", `SELECT runner, started_at, running_at, ended_at, reason, message, exit_code, signal FROM run
		WHERE sandbox = (SELECT seq FROM sandbox WHERE id = ?1) ORDER BY id DESC LIMIT ?2`, func(s *sqlite.Stmt) error {
		r := Run{Runner: int(s.GetInt64("runner")), StartedAt: timeOf(s, "started_at"), RunningAt: timeOf(s, "running_at")}
		if at := timeOf(s, "ended_at"); !at.IsZero() {
			r.End = &sandbox.End{Reason: sandbox.Reason(s.GetText("reason")), Message: s.GetText("message"), At: at}
			for col, into := range map[string]**int{"exit_code": &r.End.ExitCode, "signal": &r.End.Signal} {
				if i := s.ColumnIndex(col); !s.ColumnIsNull(i) {
					n := s.ColumnInt(i)
					*into = &n
				}
			}
		}
		all = append(all, r)
		return nil
	}, id, most)
	return all, err
}

// KeepRuns forgets all runs of a sandbox but the last ones.
func (db *DB) KeepRuns(id string, last int) error {
	return db.do("write", func() error {
		return db.exec(`DELETE FROM run WHERE sandbox = (SELECT seq FROM sandbox WHERE id = ?1)
			AND id NOT IN (SELECT id FROM run WHERE sandbox = (SELECT seq FROM sandbox WHERE id = ?1) ORDER BY id DESC LIMIT ?2)`, nil, id, last)
	})
}

// Names returns the namespaces and names of all sandboxes, as paths: namespace/name.
func (db *DB) Names() (map[string]bool, error) {
	names := map[string]bool{}
	err := db.read("read", "SELECT namespace || '/' || name FROM sandbox", func(s *sqlite.Stmt) error {
		names[s.ColumnText(0)] = true
		return nil
	})
	return names, err
}

// LiveRefs are the sandboxes that have, or had, processes when they were last written.
func (db *DB) LiveRefs() ([]sandbox.Ref, error) {
	var refs []sandbox.Ref
	err := db.read("read", "SELECT namespace, name FROM sandbox WHERE status NOT IN (?, ?, ?)", func(s *sqlite.Stmt) error {
		refs = append(refs, sandbox.Ref{Namespace: s.ColumnText(0), Name: sandbox.Name(s.ColumnText(1))})
		return nil
	}, string(sandbox.Created), string(sandbox.Stopped), string(sandbox.Crashed))
	return refs, err
}
