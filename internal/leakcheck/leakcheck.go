// Package leakcheck finds what a test leaves on the machine.
//
// [Check] looks at the machine when it is called and again when the test ends: processes, threads in other namespaces, mounts,
// cgroups, unix sockets, TAP devices, open files and, if asked, goroutines and files below MSB_HOME. What is new and does not
// vanish within a moment fails the test, one line for each thing, with what is needed to find out whose it is.
//
// Other tests may run on the machine at the same time, so something counts only when it has to do with the calling process or
// with the MSB_HOME that is given. Tests of the same process must not run in parallel with one that checks.
package leakcheck

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Option says what else to look at, or what to overlook.
type Option func(*check)

// Within gives things so long to vanish after the test, instead of a second.
func Within(d time.Duration) Option { return func(c *check) { c.within = d } }

// Home names the MSB_HOME of the test. Processes, mounts and sockets that have to do with it count, wherever they come from,
// and so do new files below it, but for those at or below the paths in keep (relative to dir, a star matches within a name).
func Home(dir string, keep ...string) Option {
	return func(c *check) {
		c.homes = append(c.homes, home{clean(dir), keep})
	}
}

// Binaries counts processes whose executable is in one of the directories. Without it those of the test itself count.
func Binaries(dirs ...string) Option {
	return func(c *check) {
		for _, d := range dirs {
			c.binaries = append(c.binaries, clean(d))
		}
	}
}

// Cgroups counts cgroups whose name begins with one of the prefixes, instead of "msb-" and "microsandbox".
func Cgroups(prefixes ...string) Option { return func(c *check) { c.cgroups = prefixes } }

// Goroutines counts goroutines, too.
func Goroutines() Option { return func(c *check) { c.goroutines = true } }

// Alone says that nothing else uses the machine, so that every new mount, namespace and network interface counts.
func Alone() Option { return func(c *check) { c.alone = true } }

// Check fails t when, some time after it and its later cleanups ended, there is something that was not there before.
func Check(t testing.TB, opts ...Option) {
	t.Helper()
	c := &check{within: time.Second, cgroups: []string{"msb-", "microsandbox"}}
	for _, o := range opts {
		o(c)
	}
	startPoller(t)
	var current goleak.Option
	if c.goroutines {
		current = goleak.IgnoreCurrent()
	}
	before := c.look(nil)
	t.Cleanup(func() {
		t.Helper()
		left := c.wait(before)
		if c.goroutines {
			if err := goleak.Find(current); err != nil {
				left["goroutines"] = err.Error()
			}
		}
		if len(left) > 0 {
			t.Errorf("left behind, %v after the test:\n%s", c.within, report(left))
		}
	})
}

// check is one call of Check.
type check struct {
	within     time.Duration
	homes      []home
	binaries   []string
	cgroups    []string
	goroutines bool
	alone      bool
}

type home struct {
	dir  string
	keep []string
}

// things are what there is: a name that is different for each and stays the same, and what to say of it.
type things map[string]string

// look returns the things there are now and were not before; all of them when before is nil.
func (c *check) look(before things) things {
	v := &view{check: c, before: before, now: things{}}
	ours := v.processes()
	v.namespaces()
	v.mounts()
	v.groups(ours)
	v.sockets()
	v.interfaces()
	v.files()
	v.open()
	return v.now
}

// view is one look at the machine.
type view struct {
	*check
	before, now things
}

func (v *view) first() bool { return v.before == nil }

func (v *view) old(id string) bool { _, ok := v.before[id]; return ok }

func (v *view) add(id, text string) {
	if !v.old(id) {
		v.now[id] = text
	}
}

// wait returns what there is after c.within, or nothing as soon as there is nothing.
// A thing that comes and goes meanwhile is somebody else's, or in order.
func (c *check) wait(before things) things {
	left := c.look(before)
	for end := time.Now().Add(c.within); len(left) > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
		now := c.look(before)
		if still := both(now, left); len(still) > 0 {
			left = still
		} else {
			left = now // if any, they were made late: wait for these
		}
	}
	return left
}

// both returns what is in a and in b, in the words of a.
func both(a, b things) things {
	common := things{}
	for id, text := range a {
		if _, ok := b[id]; ok {
			common[id] = text
		}
	}
	return common
}

// report sorts by kind, and shortens what is too much to read.
func report(left things) string {
	const most = 40
	lines := slices.Sorted(maps.Values(left))
	if len(lines) > most {
		lines = append(lines[:most], fmt.Sprintf("and %d more", len(lines)-most))
	}
	return "  " + strings.Join(lines, "\n  ")
}

// mentions reports whether s has the path of one of the homes in it.
func (c *check) mentions(s string) bool {
	return slices.ContainsFunc(c.homes, func(h home) bool { return strings.Contains(s, h.dir) })
}

// clean returns dir as the kernel shows it.
func clean(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	return dir
}

// startPoller makes the runtime open what it opens once and keeps.
func startPoller(t testing.TB) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.SetReadDeadline(time.Now())
	_ = r.Close()
	_ = w.Close()
}
