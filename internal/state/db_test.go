package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func open(t *testing.T, home string) *DB {
	t.Helper()
	db, err := OpenDB(home)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func row(name string, labels map[string]string) Row {
	now := time.Now().UTC()
	return Row{Info: sandbox.Info{Ref: sandbox.DefaultRef(name), ID: "id-" + name, Status: sandbox.Created, CreatedAt: now, UpdatedAt: now,
		Spec: sandbox.Spec{Name: sandbox.Name(name), Labels: labels, Network: sandbox.Network{Enabled: true}, Env: []sandbox.EnvVar{{Key: "A", Value: "b"}}}, Startup: []string{"sleep", "9"}}}
}

func insert(t *testing.T, db *DB, r Row) {
	t.Helper()
	if _, err := db.Insert(r); err != nil {
		t.Fatal(err)
	}
}

func TestLifeOfARow(t *testing.T) {
	db := open(t, t.TempDir())
	want := row("one", map[string]string{"team": "ml"})
	insert(t, db, want)
	if _, err := db.Insert(row("one", nil)); !errors.Is(err, sandbox.AlreadyExists) {
		t.Fatalf("a second of the name: %v, want AlreadyExists", err)
	}
	got, err := db.Get(want.Ref)
	if err != nil {
		t.Fatal(err)
	}
	want.Seq = 1
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("read %+v, want %+v", got, want)
	}
	if _, err := db.Begin(want.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Begin(want.ID); err == nil {
		t.Fatal("a sandbox that starts may start again")
	}
	run := launch.Running{PID: 42, StartedAt: time.Now().UTC(), Confinement: sandbox.Confinement{Driver: "gvisor"}}
	if err := db.Running(want.ID, run); err != nil {
		t.Fatal(err)
	}
	got, err = db.Get(want.Ref)
	if err != nil || got.Status != sandbox.Running || !got.Booted || got.Active == nil || got.Confinement.Driver != "gvisor" {
		t.Fatalf("running: %+v, %v", got, err)
	}
	code := 3
	end := sandbox.End{Reason: sandbox.ReasonCompleted, Message: "m", ExitCode: &code, At: time.Now().UTC()}
	if err := db.End(want.ID, sandbox.Stopped, end, Measured{}); err != nil {
		t.Fatal(err)
	}
	if err := db.End(want.ID, sandbox.Stopped, sandbox.End{Reason: sandbox.ReasonLost, At: time.Now()}, Measured{}); err != nil {
		t.Fatal("a second reader's end:", err)
	}
	got, err = db.Get(want.Ref)
	if err != nil || got.Status != sandbox.Stopped || got.Active != nil || !reflect.DeepEqual(got.End, &end) {
		t.Fatalf("ended: %+v, %v, want %+v", got, err, end)
	}
	runs, err := db.Runs(want.ID, 10)
	if err != nil || len(runs) != 1 || runs[0].Runner != 42 || !reflect.DeepEqual(runs[0].End, &end) {
		t.Fatalf("runs: %+v, %v", runs, err)
	}
	if _, err := db.Edit(want.ID, func(r *Row) error { r.Spec.Labels = map[string]string{"x": "y"}; return nil }); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		labels map[string]string
		n      int
	}{{map[string]string{"x": "y"}, 1}, {map[string]string{"team": "ml"}, 0}, {nil, 1}} {
		if all, err := db.List(Query{Labels: c.labels}); err != nil || len(all) != c.n {
			t.Errorf("list %v: %d, %v, want %d", c.labels, len(all), err, c.n)
		}
	}
	if err := db.Delete(want.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Get(want.Ref); !errors.Is(err, sandbox.NotFound) {
		t.Fatalf("deleted: %v, want NotFound", err)
	}
	if runs, err := db.Runs(want.ID, 10); err != nil || len(runs) != 0 {
		t.Fatalf("runs of a deleted sandbox: %v, %v", runs, err)
	}
	if bad, err := db.Check(t.Context()); err != nil || len(bad) > 0 {
		t.Fatalf("check: %v, %v", bad, err)
	}
}

func TestKeepRuns(t *testing.T) {
	db := open(t, t.TempDir())
	insert(t, db, row("one", nil))
	for range 5 {
		if _, err := db.Begin("id-one"); err != nil {
			t.Fatal(err)
		}
		if err := db.End("id-one", sandbox.Stopped, sandbox.End{Reason: sandbox.ReasonShutdown, At: time.Now()}, Measured{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.KeepRuns("id-one", 2); err != nil {
		t.Fatal(err)
	}
	if runs, err := db.Runs("id-one", 10); err != nil || len(runs) != 2 {
		t.Fatalf("%d runs, %v, want 2", len(runs), err)
	}
}

// TestListPages looks at all sandboxes in pages while others come and go.
func TestListPages(t *testing.T) {
	db := open(t, t.TempDir())
	for i := range 25 {
		insert(t, db, row(fmt.Sprintf("s%02d", i), map[string]string{"odd": fmt.Sprint(i % 2)}))
	}
	var got []string
	for before := int64(0); ; {
		page, err := db.List(Query{Namespace: sandbox.DefaultNamespace, Labels: map[string]string{"odd": "1"}, Before: before, Limit: 5})
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			got = append(got, string(r.Ref.Name))
		}
		before = page[len(page)-1].Seq
		insert(t, db, row("late-"+got[len(got)-1], map[string]string{"odd": "1"}))
	}
	if len(got) != 12 || !slices.IsSortedFunc(got, func(a, b string) int { return strings.Compare(b, a) }) {
		t.Fatalf("pages: %v", got)
	}
	if all, err := db.List(Query{Namespace: "other"}); err != nil || len(all) != 0 {
		t.Fatalf("another namespace: %d, %v", len(all), err)
	}
}

// TestOneWinner has many processes' worth of connections create the same name.
func TestOneWinner(t *testing.T) {
	home := t.TempDir()
	open(t, home)
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			db, err := OpenDB(home)
			if err != nil {
				t.Error(err)
				return
			}
			defer db.Close()
			r := row("one", nil)
			switch _, err := db.Insert(r); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, sandbox.AlreadyExists):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d have created it, want 1", won.Load())
	}
}

func TestVolumes(t *testing.T) {
	db := open(t, t.TempDir())
	now := time.Now().UTC()
	v := Volume{ID: "v1", Namespace: sandbox.DefaultNamespace, Name: "data", QuotaMiB: 10, Labels: map[string]string{"a": "b"}, CreatedAt: now, UpdatedAt: now}
	if err := db.InsertVolume(v); err != nil {
		t.Fatal(err)
	}
	if err := db.InsertVolume(v); !errors.Is(err, sandbox.VolumeExists) {
		t.Fatalf("again: %v, want VolumeExists", err)
	}
	insert(t, db, row("one", nil))
	if err := db.UseVolumes("id-one", []string{"nothing"}); !errors.Is(err, sandbox.VolumeNotFound) {
		t.Fatalf("use what is not there: %v, want VolumeNotFound", err)
	}
	if err := db.UseVolumes("id-one", []string{"data"}); err != nil {
		t.Fatal(err)
	}
	got, err := db.GetVolume(v.Namespace, v.Name)
	v.Seq, v.Users = 1, []sandbox.Ref{sandbox.DefaultRef("one")}
	if err != nil || !reflect.DeepEqual(got, v) {
		t.Fatalf("read %+v, %v, want %+v", got, err, v)
	}
	never := func() error { t.Error("the files of a volume in use were to go"); return nil }
	if err := db.DeleteVolume(v.Namespace, v.Name, never); !errors.Is(err, sandbox.VolumeInUse) {
		t.Fatalf("delete one in use: %v, want VolumeInUse", err)
	}
	if err := db.Delete("id-one"); err != nil {
		t.Fatal(err)
	}
	failed := errors.New("the files stay")
	if err := db.DeleteVolume(v.Namespace, v.Name, func() error { return failed }); !errors.Is(err, failed) {
		t.Fatalf("delete whose files stay: %v", err)
	}
	if err := db.DeleteVolume(v.Namespace, v.Name, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := db.GetVolume(v.Namespace, v.Name); !errors.Is(err, sandbox.VolumeNotFound) {
		t.Fatalf("deleted: %v, want VolumeNotFound", err)
	}
}

// TestUpgrade opens a copy of each schema there ever was, with a row in each table, and looks that nothing is lost, and that the
// schema is that of a new database. To add the dump of a new schema, run it with MSB_TEST_DUMP=1.
func TestUpgrade(t *testing.T) {
	if os.Getenv("MSB_TEST_DUMP") != "" {
		dump(t)
	}
	want := schema(t, open(t, t.TempDir()))
	for v := 1; v <= len(migrations); v++ {
		t.Run(fmt.Sprint(v), func(t *testing.T) {
			b, err := os.ReadFile(fmt.Sprintf("testdata/schema-%d.sql", v))
			if err != nil {
				t.Fatal(err)
			}
			home := t.TempDir()
			if err := os.MkdirAll(filepath.Dir(DBPath(home)), 0o700); err != nil {
				t.Fatal(err)
			}
			conn, err := sqlite.OpenConn(DBPath(home))
			if err == nil {
				err = errors.Join(sqlitex.ExecuteScript(conn, string(b), nil), conn.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
			db := open(t, home)
			if got := schema(t, db); !slices.Equal(got, want) {
				t.Fatalf("upgraded schema:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			r, err := db.Get(sandbox.DefaultRef("old"))
			if err != nil || r.Status != sandbox.Stopped || r.Spec.Labels["team"] != "ml" || !r.Booted || r.End.Reason != sandbox.ReasonShutdown {
				t.Fatalf("read %+v, %v", r, err)
			}
			if runs, err := db.Runs(r.ID, 10); err != nil || len(runs) != 1 {
				t.Fatalf("runs: %v, %v", runs, err)
			}
			if vol, err := db.GetVolume(sandbox.DefaultNamespace, "data"); err != nil || len(vol.Users) != 1 {
				t.Fatalf("volume: %+v, %v", vol, err)
			}
			if bad, err := db.Check(t.Context()); err != nil || len(bad) > 0 {
				t.Fatalf("check: %v, %v", bad, err)
			}
		})
	}
}

// schema lists the statements that make a database's tables and indexes.
func schema(t *testing.T, db *DB) (all []string) {
	t.Helper()
	if err := db.exec("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name", func(s *sqlite.Stmt) error {
		all = append(all, s.ColumnText(0))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// dump writes a database of the present schema as SQL.
func dump(t *testing.T) {
	db := open(t, t.TempDir())
	insert(t, db, row("old", map[string]string{"team": "ml"}))
	now := time.Now().UTC()
	err := errors.Join(db.InsertVolume(Volume{ID: "v1", Namespace: sandbox.DefaultNamespace, Name: "data", CreatedAt: now, UpdatedAt: now}),
		db.UseVolumes("id-old", []string{"data"}))
	if err == nil {
		_, err = db.Begin("id-old")
	}
	if err == nil {
		err = errors.Join(db.Running("id-old", launch.Running{PID: 1, StartedAt: now}), db.End("id-old", sandbox.Stopped, sandbox.End{Reason: sandbox.ReasonShutdown, At: now}, Measured{}))
	}
	var b strings.Builder
	if err == nil {
		err = db.exec("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid", func(s *sqlite.Stmt) error {
			fmt.Fprintln(&b, s.ColumnText(0)+";")
			return nil
		})
	}
	var tables []string
	if err == nil {
		err = db.exec("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY rowid", func(s *sqlite.Stmt) error {
			tables = append(tables, s.ColumnText(0))
			return nil
		})
	}
	for _, table := range tables {
		if err == nil {
			err = db.exec("SELECT * FROM "+table, func(s *sqlite.Stmt) error {
				var vals []string
				for i := range s.ColumnCount() {
					switch s.ColumnType(i) {
					case sqlite.TypeNull:
						vals = append(vals, "NULL")
					case sqlite.TypeInteger:
						vals = append(vals, fmt.Sprint(s.ColumnInt64(i)))
					default:
						vals = append(vals, "'"+strings.ReplaceAll(s.ColumnText(i), "'", "''")+"'")
					}
				}
				fmt.Fprintf(&b, "INSERT INTO %s VALUES (%s);\n", table, strings.Join(vals, ", "))
				return nil
			})
		}
	}
	fmt.Fprintf(&b, "PRAGMA user_version = %d;\nPRAGMA application_id = %d;\n", len(migrations), appID)
	if err == nil {
		err = os.WriteFile(fmt.Sprintf("testdata/schema-%d.sql", len(migrations)), []byte(b.String()), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestForeignFiles(t *testing.T) {
	for name, script := range map[string]string{
		"newer":   fmt.Sprintf("PRAGMA user_version = %d; PRAGMA application_id = %d", len(migrations)+1, appID),
		"foreign": "CREATE TABLE t (x); PRAGMA user_version = 1",
	} {
		home := t.TempDir()
		if err := os.MkdirAll(filepath.Dir(DBPath(home)), 0o700); err != nil {
			t.Fatal(err)
		}
		conn, err := sqlite.OpenConn(DBPath(home))
		if err == nil {
			err = errors.Join(sqlitex.ExecuteScript(conn, script, nil), conn.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		if db, err := OpenDB(home); !errors.Is(err, sandbox.IO) {
			t.Errorf("%s: %v, want an IO error", name, err)
			if err == nil {
				db.Close()
			}
		}
	}
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Dir(DBPath(home)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(DBPath(home), []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := OpenDB(home)
	if !errors.Is(err, sandbox.IO) || !strings.Contains(sandbox.HintOf(err), "fsck") {
		t.Errorf("garbage: %v (hint %q)", err, sandbox.HintOf(err))
	}
}

func TestOnlyTheOwnerReads(t *testing.T) {
	home := t.TempDir()
	db := open(t, home)
	insert(t, db, row("one", nil))
	files, err := os.ReadDir(filepath.Dir(DBPath(home)))
	if err != nil || len(files) < 2 {
		t.Fatalf("files: %v, %v", files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f.Name(), info.Mode(), err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	home := b.TempDir()
	db, err := OpenDB(home)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := db.Insert(row("one", nil)); err != nil {
		b.Fatal(err)
	}
	db.Close()
	for b.Loop() {
		db, err := OpenDB(home)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := db.Get(sandbox.DefaultRef("one")); err != nil {
			b.Fatal(err)
		}
		db.Close()
	}
}

func TestLiveRefs(t *testing.T) {
	db := open(t, t.TempDir())
	for _, name := range []string{"made", "begun", "ended"} {
		insert(t, db, row(name, nil))
	}
	for _, id := range []string{"id-begun", "id-ended"} {
		if _, err := db.Begin(id); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.End("id-ended", sandbox.Crashed, sandbox.End{Reason: sandbox.ReasonLost, At: time.Now()}, Measured{}); err != nil {
		t.Fatal(err)
	}
	refs, err := db.LiveRefs()
	if want := []sandbox.Ref{sandbox.DefaultRef("begun")}; err != nil || !slices.Equal(refs, want) {
		t.Errorf("live are %v, %v; want %v", refs, err, want)
	}
}
