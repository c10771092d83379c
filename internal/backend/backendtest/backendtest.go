// Package backendtest is the suite that every [backend.Backend] passes: the lives that a sandbox may have, what may be done to it at
// once, what a cancelled call leaves, and the kinds of the errors.
package backendtest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Options say what a backend can be asked. The zero value is all, with the image host.
type Options struct {
	Image string // of the sandboxes, with a sh in it; default host
	// NotPrepared backends start what they create.
	NotPrepared bool
}

// Run tests backends. Each test has a new one of open, whose sandboxes nobody else uses, and removes all that it made.
func Run(t *testing.T, open func(*testing.T) backend.Backend, o Options) {
	if o.Image == "" {
		o.Image = sandbox.HostImage
	}
	for name, test := range map[string]func(*suite){
		"Life": life, "Names": names, "Ephemeral": ephemeral, "Kinds": kinds, "Failed": failed, "Concurrency": concurrency, "Cancellation": cancellation,
	} {
		t.Run(name, func(t *testing.T) {
			s := &suite{T: t, Backend: open(t), opt: o}
			t.Cleanup(s.clean)
			test(s)
		})
	}
}

// patience bounds every call that is to succeed.
const patience = time.Minute

// suite is one test and its backend.
type suite struct {
	*testing.T
	backend.Backend
	opt Options
}

// namespaces are those that the tests use.
var namespaces = []string{sandbox.DefaultNamespace, "team"}

func (s *suite) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.T.Cleanup(cancel)
	return ctx
}

// clean removes what is left.
func (s *suite) clean() {
	for _, ns := range namespaces {
		infos, err := s.List(s.ctx(), ns)
		if err != nil {
			s.Error(err)
		}
		for _, i := range infos {
			if err := s.Remove(s.ctx(), i.Ref, true); err != nil && sandbox.KindOf(err) != sandbox.NotFound {
				s.Error(err)
			}
		}
		if infos, err = s.List(s.ctx(), ns); err != nil || len(infos) > 0 {
			s.Errorf("left in %s: %v, %v", ns, infos, err)
		}
	}
}

// request is to make a sandbox.
func (s *suite) request(ref sandbox.Ref) backend.CreateRequest {
	spec := sandbox.Spec{Name: ref.Name, Image: sandbox.Image{OCI: &sandbox.OCIImage{Reference: s.opt.Image}}}
	spec.Resources.MemoryMiB = 256
	return backend.CreateRequest{Ref: ref, Spec: spec}
}

// made makes a sandbox, which runs then.
func (s *suite) made(ref sandbox.Ref) sandbox.Info {
	s.Helper()
	info, err := s.Create(s.ctx(), s.request(ref))
	if err != nil {
		s.Fatal(err)
	}
	if info.Ref != ref || info.Status != sandbox.Running || info.ID == "" {
		s.Fatalf("made: %+v", info)
	}
	return info
}

// is checks the status that is recorded, there and in the list.
func (s *suite) is(ref sandbox.Ref, want sandbox.Status) sandbox.Info {
	s.Helper()
	info, err := s.Get(s.ctx(), ref)
	if err != nil || info.Status != want || info.Ref != ref {
		s.Errorf("%s is %s (%v), want %s", ref, info.Status, err, want)
	}
	infos, err := s.List(s.ctx(), ref.Namespace)
	i := slices.IndexFunc(infos, func(i sandbox.Info) bool { return i.Ref == ref })
	if err != nil || i < 0 || infos[i].Status != want || infos[i].ID != info.ID {
		s.Errorf("the list of %s has not %s as %s: %v, %v", ref.Namespace, ref, want, infos, err)
	}
	if ended := want == sandbox.Stopped || want == sandbox.Crashed; ended != (info.End != nil) {
		s.Errorf("%s is %s with the end %v", ref, info.Status, info.End)
	}
	return info
}

// kind checks that an error is of a kind, and names the sandbox.
func (s *suite) kind(what string, err error, want ...sandbox.Kind) {
	s.Helper()
	if err == nil || !slices.Contains(want, sandbox.KindOf(err)) {
		s.Errorf("%s: %v (%s), want %v", what, err, sandbox.KindOf(err), want)
	}
}

// exec runs a script in a sandbox and returns its output.
func (s *suite) exec(ref sandbox.Ref, script string) (string, error) {
	s.Helper()
	conn, err := s.Dial(s.ctx(), ref)
	if err != nil {
		return "", err
	}
	c, err := agentclient.Connect(s.ctx(), conn)
	if err != nil {
		return "", err
	}
	defer c.Close()
	var out bytes.Buffer
	x, err := c.Exec(s.ctx(), agentclient.ExecRequest{Cmd: "/bin/sh", Args: []string{"-c", script}, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out})
	if err != nil {
		return "", err
	}
	if code, err := x.Wait(); err != nil || code != 0 {
		return out.String(), fmt.Errorf("exit code %d, %w: %s", code, err, out.String())
	}
	return out.String(), nil
}

func (s *suite) says(ref sandbox.Ref, script, want string) {
	s.Helper()
	if out, err := s.exec(ref, script); out != want || err != nil {
		s.Errorf("%s: %q printed %q, %v; want %q", ref, script, out, err, want)
	}
}

// life is every legal move of a sandbox that is kept, and moves that are none.
func life(s *suite) {
	ref := sandbox.DefaultRef("life")
	if !s.opt.NotPrepared {
		req := s.request(ref)
		req.Prepare = true
		if info, err := s.Create(s.ctx(), req); err != nil || info.Status != sandbox.Created {
			s.Fatalf("prepared: %+v, %v", info, err)
		}
		s.is(ref, sandbox.Created)
		s.kind("stop of a created one", s.Stop(s.ctx(), ref, backend.StopOptions{}), sandbox.NotRunning)
		_, err := s.Dial(s.ctx(), ref)
		s.kind("dial of a created one", err, sandbox.NotRunning)
		if _, err := s.Start(s.ctx(), ref, backend.StartOptions{}); err != nil {
			s.Fatal(err)
		}
	} else {
		s.made(ref)
	}
	first := s.is(ref, sandbox.Running)
	s.says(ref, "echo kept >/file; sync; cat /file", "kept\n")
	if again, err := s.Start(s.ctx(), ref, backend.StartOptions{}); err != nil || again.ID != first.ID || again.Status != sandbox.Running {
		s.Errorf("start of a running one: %+v, %v", again, err)
	}
	_, err := s.Start(s.ctx(), ref, backend.StartOptions{Sole: true})
	s.kind("sole start of a running one", err, sandbox.AlreadyExists)
	s.kind("removal of a running one", s.Remove(s.ctx(), ref, false), sandbox.StillRunning)
	s.is(ref, sandbox.Running)

	for _, opt := range []backend.StopOptions{{}, {Force: true}, {Timeout: time.Millisecond}} {
		if err := s.Stop(s.ctx(), ref, opt); err != nil {
			s.Errorf("stop %+v: %v", opt, err)
		}
		if end := s.is(ref, sandbox.Stopped).End; end != nil && end.Reason != sandbox.ReasonShutdown {
			s.Errorf("stop %+v: it ended as %+v", opt, end)
		}
		s.kind("stop of a stopped one", s.Stop(s.ctx(), ref, opt), sandbox.NotRunning)
		_, err := s.Dial(s.ctx(), ref)
		s.kind("dial of a stopped one", err, sandbox.NotRunning)
		info, err := s.Start(s.ctx(), ref, backend.StartOptions{Sole: true})
		if err != nil || info.ID != first.ID || info.Status != sandbox.Running || info.End != nil {
			s.Fatalf("start again: %+v, %v", info, err)
		}
		s.is(ref, sandbox.Running)
		s.says(ref, "cat /file", "kept\n")
	}
	if err := s.Remove(s.ctx(), ref, true); err != nil {
		s.Error(err)
	}
	s.missing(ref)
}

// missing checks that nobody knows of a sandbox.
func (s *suite) missing(ref sandbox.Ref) {
	s.Helper()
	_, err := s.Get(s.ctx(), ref)
	s.kind("get", err, sandbox.NotFound)
	_, err = s.Start(s.ctx(), ref, backend.StartOptions{})
	s.kind("start", err, sandbox.NotFound)
	_, err = s.Dial(s.ctx(), ref)
	s.kind("dial", err, sandbox.NotFound)
	s.kind("stop", s.Stop(s.ctx(), ref, backend.StopOptions{}), sandbox.NotFound)
	s.kind("remove", s.Remove(s.ctx(), ref, false), sandbox.NotFound)
	s.kind("remove by force", s.Remove(s.ctx(), ref, true), sandbox.NotFound)
}

// names are unique within a namespace, and made anew only where that is asked for.
func names(s *suite) {
	one, other := sandbox.DefaultRef("same"), sandbox.Ref{Namespace: "team", Name: "same"}
	s.missing(one)
	first, elsewhere := s.made(one), s.made(other)
	if first.ID == elsewhere.ID {
		s.Error("two sandboxes have one ID")
	}
	s.says(one, "echo first >/file; hostname", "same\n")
	s.says(other, "ls /file 2>/dev/null || echo none", "none\n")
	_, err := s.Create(s.ctx(), s.request(one))
	s.kind("a name that is taken", err, sandbox.AlreadyExists)
	s.says(one, "cat /file", "first\n")
	if err := s.Stop(s.ctx(), one, backend.StopOptions{}); err != nil {
		s.Error(err)
	}
	_, err = s.Create(s.ctx(), s.request(one))
	s.kind("the name of a stopped one", err, sandbox.AlreadyExists)
	s.is(one, sandbox.Stopped)

	for _, grace := range []time.Duration{0, 10 * time.Second} {
		req := s.request(one)
		req.Replace, req.Grace = true, grace
		anew, err := s.Create(s.ctx(), req)
		if err != nil || anew.ID == first.ID || anew.Status != sandbox.Running {
			s.Fatalf("replaced: %+v, %v", anew, err)
		}
		s.says(one, "ls /file 2>/dev/null || echo none; echo anew >/file", "none\n")
		first = anew
	}
	s.is(other, sandbox.Running)

	later := s.made(sandbox.DefaultRef("later"))
	infos, err := s.List(s.ctx(), sandbox.DefaultNamespace)
	if err != nil || len(infos) != 2 || infos[0].ID != later.ID || infos[1].ID != first.ID {
		s.Errorf("the list, newest first, is %v, %v", infos, err)
	}
	if infos, err = s.List(s.ctx(), "nobody"); err != nil || len(infos) != 0 {
		s.Errorf("the list of an empty namespace is %v, %v", infos, err)
	}
}

// ephemeral sandboxes leave nothing.
func ephemeral(s *suite) {
	ref := sandbox.DefaultRef("brief")
	req := s.request(ref)
	req.Spec.Lifecycle.Ephemeral = true
	if info, err := s.Create(s.ctx(), req); err != nil || info.Status != sandbox.Running {
		s.Fatalf("%+v, %v", info, err)
	}
	s.is(ref, sandbox.Running)
	s.says(ref, "echo hi", "hi\n")
	if err := s.Stop(s.ctx(), ref, backend.StopOptions{}); err != nil {
		s.Error(err)
	}
	if infos, err := s.List(s.ctx(), ref.Namespace); err != nil || len(infos) != 0 {
		s.Errorf("it is listed still: %v, %v", infos, err)
	}
	s.made(ref) // its name is free
	req = s.request(sandbox.DefaultRef("never"))
	req.Spec.Lifecycle.Ephemeral, req.Prepare = true, true
	_, err := s.Create(s.ctx(), req)
	s.kind("an ephemeral one that is not started", err, sandbox.InvalidConfig, sandbox.Unsupported)
}

// kinds are those of requests that are wrong. Nothing is left of them.
func kinds(s *suite) {
	for what, c := range map[string]struct {
		change func(*backend.CreateRequest)
		want   sandbox.Kind
	}{
		"a name with a slash": {func(r *backend.CreateRequest) { r.Ref.Name = "a/b" }, sandbox.InvalidConfig},
		"no name":             {func(r *backend.CreateRequest) { r.Ref.Name = "" }, sandbox.InvalidConfig},
		"a namespace above":   {func(r *backend.CreateRequest) { r.Ref.Namespace = ".." }, sandbox.InvalidConfig},
		"no image":            {func(r *backend.CreateRequest) { r.Spec.Image = sandbox.Image{} }, sandbox.InvalidConfig},
		"an image that is not here": {func(r *backend.CreateRequest) {
			r.Spec.Image.OCI.Reference = "127.0.0.1:1/nothing"
			r.Spec.PullPolicy = sandbox.PullNever
		}, sandbox.ImageNotFound},
		"a variable without a name":   {func(r *backend.CreateRequest) { r.Spec.Env = []sandbox.EnvVar{{Key: "", Value: "x"}} }, sandbox.InvalidConfig},
		"a directory that is no path": {func(r *backend.CreateRequest) { r.Spec.Runtime.Workdir = "relative" }, sandbox.InvalidConfig},
	} {
		req := s.request(sandbox.DefaultRef("wrong"))
		c.change(&req)
		_, err := s.Create(s.ctx(), req)
		s.kind(what, err, c.want)
	}
	if infos, err := s.List(s.ctx(), sandbox.DefaultNamespace); err != nil || len(infos) != 0 {
		s.Errorf("left: %v, %v", infos, err)
	}
}

// failed is a start that fails: its record stays until the next one of that name.
func failed(s *suite) {
	ref := sandbox.DefaultRef("failed")
	req := s.request(ref)
	req.Spec.Runtime.User = "nobody-at-all"
	_, err := s.Create(s.ctx(), req)
	s.kind("a start that fails", err, sandbox.BootFailed)
	if end := s.is(ref, sandbox.Stopped).End; end == nil || end.Reason != sandbox.ReasonFailed || end.Message == "" {
		s.Errorf("it ended as %+v", end)
	}
	_, err = s.Start(s.ctx(), ref, backend.StartOptions{})
	s.kind("the same again", err, sandbox.BootFailed)
	s.made(ref)
}

// together calls f so many times at once and returns the errors.
func together(n int, f func(i int) error) []error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = f(i) })
	}
	all.Wait()
	return errs
}

// count counts the errors of a kind; "" is none.
func count(errs []error, k sandbox.Kind) (n int) {
	for _, err := range errs {
		if err == nil && k == "" || err != nil && sandbox.KindOf(err) == k {
			n++
		}
	}
	return n
}

// concurrency does the same thing at once.
func concurrency(s *suite) {
	const n = 6
	ref := sandbox.DefaultRef("shared")
	for range 3 {
		errs := together(n, func(int) error { _, err := s.Create(s.ctx(), s.request(ref)); return err })
		if count(errs, "") != 1 || count(errs, sandbox.AlreadyExists) != n-1 {
			s.Errorf("creates at once: %v", errs)
		}
		id := s.is(ref, sandbox.Running).ID
		errs = together(n, func(i int) error {
			_, err := s.exec(ref, fmt.Sprintf("echo %d >/f%d; sync", i, i))
			return err
		})
		if count(errs, "") != n {
			s.Errorf("commands at once: %v", errs)
		}
		errs = together(n, func(int) error { return s.Stop(s.ctx(), ref, backend.StopOptions{}) })
		if count(errs, "") == 0 || count(errs, "")+count(errs, sandbox.NotRunning) != n {
			s.Errorf("stops at once: %v", errs)
		}
		s.is(ref, sandbox.Stopped)
		errs = together(n, func(int) error {
			info, err := s.Start(s.ctx(), ref, backend.StartOptions{})
			if err == nil && (info.Status != sandbox.Running || info.ID != id) {
				err = fmt.Errorf("started: %+v", info)
			}
			return err
		})
		if count(errs, "") != n {
			s.Errorf("starts at once: %v", errs)
		}
		s.says(ref, "cat /f*", "0\n1\n2\n3\n4\n5\n")
		errs = together(n, func(int) error { return s.Remove(s.ctx(), ref, true) })
		if count(errs, "") == 0 || count(errs, "")+count(errs, sandbox.NotFound) != n {
			s.Errorf("removals at once: %v", errs)
		}
		s.missing(ref)
	}
	errs := together(n, func(i int) error {
		_, err := s.Create(s.ctx(), s.request(sandbox.DefaultRef(fmt.Sprint("many", i))))
		return err
	})
	if infos, err := s.List(s.ctx(), sandbox.DefaultNamespace); count(errs, "") != n || err != nil || len(infos) != n {
		s.Errorf("creates of %d names at once: %v; %d are listed, %v", n, errs, len(infos), err)
	}
}

// cancellation ends calls early. What was cancelled was not done, or done to its end.
func cancellation(s *suite) {
	ref := sandbox.DefaultRef("cancelled")
	soon := func(after time.Duration) context.Context {
		ctx, cancel := context.WithTimeout(context.Background(), after)
		s.T.Cleanup(cancel)
		return ctx
	}
	for _, after := range []time.Duration{0, 5, 10, 20, 40, 60, 80, 100, 150} {
		_, err := s.Create(soon(after*time.Millisecond), s.request(ref))
		switch {
		case err == nil:
			s.is(ref, sandbox.Running)
			if err := s.Remove(s.ctx(), ref, true); err != nil {
				s.Error(err)
			}
		default:
			s.kind(fmt.Sprintf("a create that is cancelled after %d ms", after), err, sandbox.Cancelled)
			s.missing(ref)
		}
	}
	s.made(ref)
	s.says(ref, "echo kept >/file; sync", "")
	for _, after := range []time.Duration{0, 5, 20, 40, 80} {
		if err := s.Stop(s.ctx(), ref, backend.StopOptions{}); err != nil {
			s.Error(err)
		}
		if _, err := s.Start(soon(after*time.Millisecond), ref, backend.StartOptions{}); err != nil {
			s.kind(fmt.Sprintf("a start that is cancelled after %d ms", after), err, sandbox.Cancelled)
			s.is(ref, sandbox.Stopped)
			if _, err := s.Start(s.ctx(), ref, backend.StartOptions{}); err != nil {
				s.Fatal(err)
			}
		}
		s.says(ref, "cat /file", "kept\n")
	}
	if err := s.Stop(soon(0), ref, backend.StopOptions{}); err != nil {
		s.kind("a stop that is cancelled", err, sandbox.Cancelled)
	}
}
