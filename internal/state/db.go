package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// busyTimeout is how long a statement waits for another process's write (contract msb-0.6 §5.3).
const busyTimeout = 30 * time.Second

// appID marks our files for file(1) and keeps us from writing into others: "msb1".
const appID = 0x6d736231

// DB is the record of what is kept: sandboxes that are not ephemeral, their runs, volumes. It is one SQLite file in WAL mode,
// which any number of processes use at once. Its methods may be called concurrently; they know no rules.
type DB struct {
	mu   sync.Mutex
	conn *sqlite.Conn
}

// DBPath is the file of the records below home.
func DBPath(home string) string { return filepath.Join(home, "db", "msb.db") }

// OpenDB opens the records below home, and makes them if there are none.
func OpenDB(home string) (*DB, error) {
	path := DBPath(home)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, ioError("make the directory of the records", err)
	}
	if f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil { // SQLite would let others read it
		return nil, ioError("make the records", err)
	} else if err := f.Close(); err != nil {
		return nil, ioError("make the records", err)
	}
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		return nil, dbError("open", err)
	}
	db := &DB{conn: conn}
	conn.SetBusyTimeout(busyTimeout)
	if err := db.prepare(path); err != nil {
		conn.Close()
		return nil, err
	}
	return db, nil
}

// HasDB reports whether anything was ever kept below home.
func HasDB(home string) bool {
	_, err := os.Stat(DBPath(home))
	return !errors.Is(err, fs.ErrNotExist)
}

func (db *DB) prepare(path string) error {
	for _, pragma := range []string{"foreign_keys = ON", "synchronous = NORMAL"} {
		if err := sqlitex.ExecuteTransient(db.conn, "PRAGMA "+pragma, nil); err != nil {
			return dbError("open", err)
		}
	}
	v, err := db.version()
	switch {
	case err != nil:
		return dbError("open", err)
	case v == len(migrations):
		return nil
	case v > len(migrations):
		return &sandbox.Error{Kind: sandbox.IO, Message: fmt.Sprintf("the records in %s are of a newer msb (version %d; this one knows %d)", path, v, len(migrations)),
			Hint: "use that msb, or another MSB_HOME"}
	}
	if err := sqlitex.ExecuteTransient(db.conn, "PRAGMA journal_mode = WAL", nil); err != nil {
		return dbError("open", err)
	}
	return db.tx(func() error {
		v, err := db.version() // again: another process may have been first
		for ; err == nil && v < len(migrations); v++ {
			err = sqlitex.ExecuteScript(db.conn, migrations[v]+fmt.Sprintf("; PRAGMA user_version = %d; PRAGMA application_id = %d", v+1, appID), nil)
		}
		return err
	})
}

func (db *DB) version() (int, error) {
	v, app := 0, 0
	read := func(pragma string, into *int) error {
		return sqlitex.ExecuteTransient(db.conn, "PRAGMA "+pragma, &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error { *into = s.ColumnInt(0); return nil }})
	}
	if err := errors.Join(read("user_version", &v), read("application_id", &app)); err != nil {
		return 0, err
	}
	if v > 0 && app != appID {
		return 0, fmt.Errorf("it is another program's file (application id %#x)", app)
	}
	return v, nil
}

// Close ends the use of the records.
func (db *DB) Close() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.conn.Close()
}

// tx runs f as one transaction that writes. Others' writes wait, and so does it for theirs.
func (db *DB) tx(f func() error) (err error) {
	end, err := sqlitex.ImmediateTransaction(db.conn)
	if err != nil {
		return err
	}
	defer end(&err)
	return f()
}

// do is tx with the connection to oneself, in the words of a user.
func (db *DB) do(op string, f func() error) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	return dbError(op, db.tx(f))
}

// exec runs one statement. Its arguments are a statement's ?1, ?2, …; each row is given to rows.
func (db *DB) exec(query string, rows func(*sqlite.Stmt) error, args ...any) error {
	return sqlitex.Execute(db.conn, query, &sqlitex.ExecOptions{Args: args, ResultFunc: rows})
}

// read runs one statement that reads.
func (db *DB) read(op, query string, rows func(*sqlite.Stmt) error, args ...any) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	return dbError(op, db.exec(query, rows, args...))
}

// Backup writes a copy of the records to path, for people and tests.
func (db *DB) Backup(path string) error {
	return db.read("copy", "VACUUM INTO ?1", nil, path)
}

// Check looks through the whole file and returns what is wrong with it.
func (db *DB) Check(ctx context.Context) ([]string, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.conn.SetInterrupt(ctx.Done())
	defer db.conn.SetInterrupt(nil)
	var bad []string
	err := db.exec("PRAGMA integrity_check(100)", func(s *sqlite.Stmt) error {
		if line := s.ColumnText(0); line != "ok" {
			bad = append(bad, line)
		}
		return nil
	})
	if err == nil {
		err = db.exec("PRAGMA foreign_key_check", func(s *sqlite.Stmt) error {
			bad = append(bad, fmt.Sprintf("row %d of %s refers to a %s that is not there", s.ColumnInt64(1), s.ColumnText(0), s.ColumnText(2)))
			return nil
		})
	}
	return bad, dbError("check", err)
}

// dbError tells the user what a failure of the records means; errors of ours it lets be.
func dbError(op string, err error) error {
	var known *sandbox.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	e := &sandbox.Error{Op: op, Kind: sandbox.IO, Message: op + " the records", Err: err}
	switch sqlite.ErrCode(err).ToPrimary() {
	case sqlite.ResultFull:
		e.Hint = "free some disk space, or set MSB_HOME to a directory on another disk"
	case sqlite.ResultReadOnly, sqlite.ResultCantOpen, sqlite.ResultPerm:
		e.Hint = "set MSB_HOME to a directory that you may write to"
	case sqlite.ResultCorrupt, sqlite.ResultNotADB:
		e.Hint = "see what is wrong with: msb fsck"
	case sqlite.ResultBusy, sqlite.ResultLocked:
		e.Hint = "another msb has been writing for 30 s: try again"
	}
	return e
}

// toJSON is for what always encodes: our own types.
func toJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("encode a record: " + err.Error())
	}
	return string(b)
}

func fromJSON(text string, v any) error {
	if text == "" {
		return nil
	}
	return json.Unmarshal([]byte(text), v)
}

func nanos(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixNano()
}

func timeOf(s *sqlite.Stmt, col string) time.Time {
	n := s.GetInt64(col)
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
