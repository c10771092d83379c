package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cgroup"
	"github.com/microsandbox-go/microsandbox/internal/state"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

var _ backend.Checker = (*Backend)(nil)

// Check looks through MSB_HOME. What it mends every other command does without a word when it comes by; what it adds is to say
// so, and what takes longer: reading all the records, looking for volumes that lost theirs.
func (b *Backend) Check(ctx context.Context, fix bool) ([]backend.Finding, error) {
	c := &checker{Backend: b, fix: fix}
	if err := c.runs(); err != nil {
		return c.found, err
	}
	if !state.HasDB(b.cfg.Home) {
		return c.found, nil
	}
	db, err := state.OpenDB(b.cfg.Home)
	if err != nil {
		return append(c.found, backend.Finding{Area: "records", Subject: state.DBPath(b.cfg.Home), Problem: err.Error(),
			Action: "move the file away: images stay, sandboxes and volumes have to be found again by their directories", Loss: true}), nil
	}
	defer db.Close()
	c.db = db
	for _, check := range []func(context.Context) error{c.records, c.sandboxes, c.directories, c.volumes} {
		if err := ctx.Err(); err != nil {
			return c.found, &sandbox.Error{Op: "check", Kind: sandbox.Cancelled, Message: "the check was cancelled", Err: err}
		}
		if err := check(ctx); err != nil {
			return c.found, err
		}
	}
	return c.found, nil
}

// checker is one check.
type checker struct {
	*Backend
	db    *state.DB
	fix   bool
	found []backend.Finding
}

// note records a finding, and mends it.
func (c *checker) note(area, subject, problem, action string, mend func() error) {
	f := backend.Finding{Area: area, Subject: subject, Problem: problem, Action: action, Loss: mend == nil}
	if c.fix && mend != nil {
		switch err := mend(); {
		case sandbox.KindOf(err) == sandbox.StillRunning:
			return // it came alive meanwhile
		case err != nil:
			f.Action = "it could not be mended: " + err.Error()
		default:
			f.Fixed = true
		}
	}
	c.found = append(c.found, f)
}

// runs looks at the run directories of ephemeral sandboxes, and at control groups.
func (c *checker) runs() error {
	dead, err := c.store.Dead()
	if err != nil {
		return err
	}
	for _, d := range dead {
		c.note("runs", d, "a sandbox that was killed left its run directory", "remove it", func() error {
			_, err := c.store.Sweep()
			return err
		})
	}
	for _, g := range cgroup.Strays(c.cfg.Home, c.store.Live) {
		c.note("runs", g, "a sandbox that was killed left its control group", "remove it", func() error { return cgroup.Sweep(c.cfg.Home, c.store.Live) })
	}
	return nil
}

func (c *checker) records(ctx context.Context) error {
	bad, err := c.db.Check(ctx)
	for _, line := range bad {
		c.note("records", state.DBPath(c.cfg.Home), line, "restore it from a copy, or move the file away", nil)
	}
	return err
}

// sandboxes looks at each record, and at what belongs to it.
func (c *checker) sandboxes(context.Context) error {
	rows, err := c.db.List(state.Query{})
	if err != nil {
		return err
	}
	for _, r := range rows {
		if !r.Status.Terminal() && !c.store.Live(r.Ref.ShortID()) {
			c.note("sandboxes", r.Ref.String(), fmt.Sprintf("it is recorded as %s and its runner is gone", r.Status), "record how it ended", func() error { return c.settleIn(c.db, r.Ref) })
			continue
		}
		if _, err := os.Stat(filepath.Join(c.dirOf(r.Ref), rootFile)); err != nil && !c.store.Live(r.Ref.ShortID()) {
			c.note("sandboxes", r.Ref.String(), "its files are gone: "+c.dirOf(r.Ref), "remove its record with: msb rm "+string(r.Ref.Name), nil)
		}
	}
	return nil
}

// directories looks for directories of sandboxes that nobody knows.
func (c *checker) directories(context.Context) error {
	temps, _ := filepath.Glob(filepath.Join(c.cfg.Home, "sandboxes", "*", ".*"))
	for _, p := range temps {
		if atomicfile.IsTemp(p) {
			c.note("sandboxes", p, "the removal of a sandbox was cut off", "remove the rest", func() error { return atomicfile.RemoveAll(p) })
		}
	}
	found := listDirectories(filepath.Join(c.cfg.Home, "sandboxes")) // before the records: see tidy
	names, err := c.db.Names()
	if err != nil {
		return err
	}
	for name, ref := range found {
		if !names[name] {
			c.note("sandboxes", c.dirOf(ref), "no sandbox has this directory", "remove it", func() error { return c.discardStray(c.db, ref) })
		}
	}
	return nil
}

// volumes looks for volumes that have files and no record, or the other way round.
func (c *checker) volumes(context.Context) error {
	found := listDirectories(filepath.Join(c.cfg.Home, "volumes"))
	names, err := c.db.VolumeNames()
	if err != nil {
		return err
	}
	for name, ref := range found {
		if names[name] || sandbox.ValidateVolumeName(string(ref.Name)) != nil {
			continue
		}
		c.note("volumes", name, "it has files and no record", "record it again", func() error {
			now := time.Now().UTC()
			err := c.db.InsertVolume(state.Volume{ID: newID(), Namespace: ref.Namespace, Name: string(ref.Name), CreatedAt: now, UpdatedAt: now})
			if sandbox.KindOf(err) == sandbox.VolumeExists {
				err = nil
			}
			return err
		})
	}
	for name := range names {
		if _, there := found[name]; there {
			continue
		}
		ns, vol, _ := strings.Cut(name, "/")
		c.note("volumes", name, "its directory is gone", "make an empty one", func() error { return c.makeVolumeDir(ns, vol) })
	}
	return nil
}

// listDirectories are those two levels below top, by namespace/name. What is on its way out is left out.
func listDirectories(top string) map[string]sandbox.Ref {
	found := map[string]sandbox.Ref{}
	spaces, _ := os.ReadDir(top)
	for _, ns := range spaces {
		dirs, err := os.ReadDir(filepath.Join(top, ns.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		for _, d := range dirs {
			if d.IsDir() && !atomicfile.IsTemp(d.Name()) {
				found[ns.Name()+"/"+d.Name()] = sandbox.Ref{Namespace: ns.Name(), Name: sandbox.Name(d.Name())}
			}
		}
	}
	return found
}
