// Package project runs the sandboxes of a Sandboxfile together. A project is opened, what is to be done is planned, and the plan is
// carried out under the project's lock; what there is on the machine is looked at anew each time, so that a project whose msb was killed
// in the middle is put right by the next one.
//
// A project's sandbox NAME is the kept sandbox PROJECT-NAME with the labels below, and every other command can be used on it.
package project

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/sandboxfile"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Labels of a project's sandboxes.
const (
	FileLabel = sandboxfile.OwnLabels + "project"     // the path of the Sandboxfile
	NameLabel = sandboxfile.OwnLabels + "sandbox"     // its name there
	HashLabel = sandboxfile.OwnLabels + "sandboxfile" // of what it was made from
)

// Project is a Sandboxfile that was read.
type Project struct {
	Path      string // of the Sandboxfile, absolute
	Name      string
	Namespace string
	File      *sandboxfile.File
	// Defaults completes a spec as the settings have it; nil leaves it.
	Defaults func(*sandbox.Spec)
}

// Find is the path of the Sandboxfile that a -f means: "" and a directory are the one in it.
func Find(file string) (string, error) {
	path, err := filepath.Abs(cmp.Or(file, "."))
	if err != nil {
		return "", &sandbox.Error{Kind: sandbox.IO, Message: "find " + file, Err: err}
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, sandboxfile.Name)
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil { // one project by whatever path
		path = filepath.Join(dir, filepath.Base(path))
	}
	return path, nil
}

// Open reads the Sandboxfile that file means. A namespace of "" is the file's, or the default one.
func Open(file, namespace string) (*Project, error) {
	path, err := Find(file)
	if err != nil {
		return nil, err
	}
	f, err := sandboxfile.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &sandbox.Error{Kind: sandbox.InvalidArgument, Message: "there is no " + path, Hint: "make one with: msb init, or name it with -f"}
	}
	if err != nil {
		return nil, err
	}
	if err := (sandbox.Ref{Namespace: cmp.Or(f.Namespace, sandbox.DefaultNamespace), Name: "any"}).Validate(); err != nil {
		return nil, &sandbox.Error{Op: "read " + sandboxfile.Name, Kind: sandbox.InvalidConfig, Message: path + ": namespace: " + message(err)}
	}
	p := &Project{Path: path, Namespace: cmp.Or(namespace, f.Namespace, sandbox.DefaultNamespace), File: f, Name: f.Name}
	if p.Name == "" {
		p.Name = filepath.Base(filepath.Dir(path))
		if base := filepath.Base(path); base != sandboxfile.Name {
			p.Name += "-" + base
		}
	}
	p.Name = word(p.Name)
	return p, nil
}

// word makes a name of whatever a directory is called.
func word(s string) string {
	s = strings.Map(func(c rune) rune {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
			return c
		case 'A' <= c && c <= 'Z':
			return c + 'a' - 'A'
		}
		return '-'
	}, s)
	if s = strings.Trim(s, "-._"); s == "" {
		return "project"
	}
	return s[:min(len(s), 60)]
}

// Ref is the sandbox of an entry.
func (p *Project) Ref(name string) sandbox.Ref {
	if p.File.Namespace != "" {
		return sandbox.Ref{Namespace: p.Namespace, Name: sandbox.Name(name)}
	}
	return sandbox.Ref{Namespace: p.Namespace, Name: sandbox.Name(p.Name + "-" + name)}
}

// rules are those of the file.
func (p *Project) rules() sandboxfile.Rules {
	if p.File.Namespace != "" {
		return sandboxfile.Rules{Dir: p.dir(), Plain: true}
	}
	return sandboxfile.Rules{Dir: p.dir(), Volumes: p.Name + "-"}
}

// dir is where relative paths begin.
func (p *Project) dir() string { return filepath.Dir(p.Path) }

// Has reports whether there is an entry.
func (p *Project) Has(name string) bool { _, ok := p.File.Sandboxes[name]; return ok }

// Select checks names of entries; none are all, in the order of the alphabet.
func (p *Project) Select(names []string) ([]string, error) {
	if len(names) == 0 {
		for name := range p.File.Sandboxes {
			names = append(names, name)
		}
		slices.Sort(names)
		return names, nil
	}
	for _, name := range names {
		if !p.Has(name) {
			return nil, p.missing(name)
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(names))), nil
}

func (p *Project) missing(name string) error {
	hint := "it has: " + strings.Join(p.names(), ", ")
	if len(p.File.Sandboxes) == 0 {
		hint = "it has none yet: msb add " + name + " --image IMAGE"
	}
	return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("%s has no sandbox %q", p.Path, name), Hint: hint}
}

func (p *Project) names() []string {
	names, _ := p.Select(nil)
	return names
}

// Order returns the names and all that they depend on, each after what it depends on. Cycles are refused.
func (p *Project) Order(names []string) ([]string, error) {
	var order, above []string
	var visit func(name string) error
	visit = func(name string) error {
		if slices.Contains(order, name) {
			return nil
		}
		if i := slices.Index(above, name); i >= 0 {
			return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("%s: depends_on goes in a circle: %s", p.place(above[len(above)-1]), strings.Join(append(above[i:], name), " → "))}
		}
		if !p.Has(name) {
			if len(above) == 0 {
				return p.missing(name)
			}
			return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("%s: %s depends on %q, which is not there", p.place(above[len(above)-1]), above[len(above)-1], name)}
		}
		above = append(above, name)
		for _, on := range p.File.Sandboxes[name].DependsOn {
			if err := visit(on); err != nil {
				return err
			}
		}
		above = above[:len(above)-1]
		order = append(order, name)
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

func (p *Project) place(name string) string { return p.File.Sandboxes[name].Place("depends_on") }

// Infos are the sandboxes of the project that are there, by their names in the file; also those that the file has no more.
func (p *Project) Infos(ctx context.Context, b backend.Backend) (map[string]sandbox.Info, error) {
	all, err := b.List(ctx, p.Namespace)
	if err != nil {
		return nil, err
	}
	infos := map[string]sandbox.Info{}
	for _, i := range all {
		if name := i.Spec.Labels[NameLabel]; name != "" && i.Spec.Labels[FileLabel] == p.Path && i.Ref == p.Ref(name) {
			infos[name] = i
		}
	}
	return infos, nil
}

// Lock keeps others from changing the project, and returns when it has it. waiting is called if somebody else has it now.
func (p *Project) Lock(ctx context.Context, waiting func()) (unlock func(), err error) {
	fail := func(err error) (func(), error) {
		return nil, &sandbox.Error{Kind: sandbox.IO, Message: "lock " + p.dir(), Err: err}
	}
	d, err := os.Open(p.dir())
	if err != nil {
		return fail(err)
	}
	err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		waiting()
		got := make(chan error, 1)
		go func() {
			for {
				if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != unix.EINTR {
					got <- err
					return
				}
			}
		}()
		select {
		case err = <-got:
		case <-ctx.Done(): // the goroutine ends with the process
			return nil, &sandbox.Error{Kind: sandbox.Cancelled, Message: "wait for the project", Err: context.Cause(ctx)}
		}
	}
	if err != nil {
		d.Close()
		return fail(err)
	}
	return func() { d.Close() }, nil
}
