package project

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/sandboxfile"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Event tells of a step.
type Event struct {
	Name string
	Verb string // "Started", "Restarted", …; "" for what is going on
	Text string
	Err  error
}

// most is how many sandboxes are started or stopped at the same time.
func most() int { return max(4, 2*runtime.GOMAXPROCS(0)) }

// Run carries a plan out. report is called from one goroutine at a time. What depends on something that failed is left out; all else
// is done, and the errors are joined.
func (p *Project) Run(ctx context.Context, b backend.Backend, plan Plan, report func(Event)) error {
	var mu sync.Mutex
	say := func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		report(e)
	}
	for _, s := range plan.Steps {
		if s.Action == Build {
			if _, err := p.Build(ctx, b, s.Name, BuildOptions{}, func(e Event) { say(e) }); err != nil {
				return err
			}
		}
	}
	return p.each(plan.Steps, func(s Step) []string { return s.After }, func(s Step) error {
		if s.Action == Build {
			return nil
		}
		verb, err := p.settle(ctx, b, s, say)
		if err == nil && s.test {
			say(Event{Name: s.Name, Text: "Waiting for " + s.Name})
			err = p.healthy(ctx, b, s.Name, s.ref)
		}
		if err != nil {
			say(Event{Name: s.Name, Err: err})
			return err
		}
		if verb != "" {
			say(Event{Name: s.Name, Verb: verb})
		}
		return nil
	})
}

// ErrLeftOut is the error of a step that comes after one that failed.
var ErrLeftOut = errors.New("left out")

// Ready makes an entry's sandbox as the file says it, without starting it, and brings up what it depends on. One that runs stays as it
// is.
func (p *Project) Ready(ctx context.Context, b backend.Backend, name string, report func(Event)) (sandbox.Info, error) {
	plan, err := p.Plan(ctx, b, Options{Names: []string{name}})
	if err != nil {
		return sandbox.Info{}, err
	}
	last := len(plan.Steps) - 1 // it comes after what it depends on
	s := plan.Steps[last]
	plan.Steps = plan.Steps[:last]
	for i := range plan.Steps {
		if slices.Contains(s.After, plan.Steps[i].Name) && plan.Steps[i].Action != Build {
			plan.Steps[i].test = p.File.Sandboxes[plan.Steps[i].Name].Healthcheck != nil
		}
	}
	if err := p.Run(ctx, b, plan, report); err != nil {
		return sandbox.Info{}, err
	}
	create := backend.CreateRequest{Ref: s.ref, Spec: s.spec, Startup: p.starts(name), Prepare: true, Grace: 10 * time.Second, Progress: func(e backend.Event) {
		if e.Text != "" {
			report(Event{Name: name, Text: e.Text})
		}
	}}
	switch s.Action {
	case Create, Replace:
		create.Replace = s.Action == Replace
		return b.Create(ctx, create)
	case Start:
		if s.info.Spec.Labels[HashLabel] != s.spec.Labels[HashLabel] {
			if err := p.redefine(ctx, b, create); err != nil {
				return sandbox.Info{}, err
			}
		}
	}
	return b.Get(ctx, s.ref)
}

// each calls do for every step as soon as those that come before it are done.
func (p *Project) each(steps []Step, before func(Step) []string, do func(Step) error) error {
	type end struct {
		done chan struct{}
		err  error
	}
	ends := map[string]*end{}
	for _, s := range steps {
		if s.Action != Build {
			ends[s.Name] = &end{done: make(chan struct{})}
		}
	}
	slots := make(chan struct{}, most())
	var all sync.WaitGroup
	for _, s := range steps {
		mine := ends[s.Name]
		if mine == nil || s.Action == Build {
			continue
		}
		all.Go(func() {
			defer close(mine.done)
			for _, name := range before(s) {
				other := ends[name]
				if other == nil {
					continue
				}
				<-other.done
				if other.err != nil {
					mine.err = fmt.Errorf("%s is %w: %s failed", s.Name, ErrLeftOut, name)
					return
				}
			}
			slots <- struct{}{}
			defer func() { <-slots }()
			mine.err = do(s)
		})
	}
	all.Wait()
	var errs []error
	for _, s := range steps {
		if e := ends[s.Name]; e != nil && e.err != nil && s.Action != Build {
			errs = append(errs, e.err)
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return &Failed{errs}
}

// Failed is the end of what failed in part. Each failure has been reported but for those that were left out.
type Failed struct{ Errs []error }

func (f *Failed) Error() string {
	var all []string
	for _, err := range f.Errs {
		all = append(all, err.Error())
	}
	return strings.Join(all, "; ")
}

// Unwrap has the parts.
func (f *Failed) Unwrap() []error { return f.Errs }

// settle does a step. A sandbox that came or went since it was planned, as one does that a killed msb was starting, is looked at
// again.
func (p *Project) settle(ctx context.Context, b backend.Backend, s Step, say func(Event)) (verb string, err error) {
	const tries = 20
	for n := 1; ; n++ {
		verb, err = p.do(ctx, b, s, say)
		if k := sandbox.KindOf(err); err == nil || n == tries || s.Action == Stop || k != sandbox.AlreadyExists && k != sandbox.NotFound {
			return verb, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return "", err
		}
		infos, lerr := p.Infos(ctx, b)
		if lerr != nil {
			return "", lerr
		}
		again, serr := p.step(ctx, b, s.Name, infos, s.converge)
		if serr != nil {
			return "", serr
		}
		again.test = s.test
		s = again
	}
}

// starts reports whether an entry's sandbox runs its command by itself.
func (p *Project) starts(name string) bool {
	return p.File.Sandboxes[name].AtStart != sandboxfile.StartsNothing
}

func (p *Project) do(ctx context.Context, b backend.Backend, s Step, say func(Event)) (verb string, err error) {
	progress := func(e backend.Event) {
		if e.Text != "" {
			say(Event{Name: s.Name, Text: e.Text})
		}
	}
	create := backend.CreateRequest{Ref: s.ref, Spec: s.spec, Startup: p.starts(s.Name), Progress: progress}
	if err := cancelled(ctx); err != nil {
		return "", err
	}
	switch s.Action {
	case Keep:
		return "", nil
	case Stop:
		return "Stopped", stop(ctx, b, s.ref, backend.StopOptions{})
	case Create:
		_, err = b.Create(ctx, create)
		return "Created", err
	case Replace:
		create.Replace, create.Grace = true, 10*time.Second
		_, err = b.Create(ctx, create)
		return "Replaced", err
	}
	verb = "Started"
	if s.Action == Restart {
		verb = "Restarted"
		if err := stop(ctx, b, s.ref, backend.StopOptions{}); err != nil {
			return "", err
		}
	}
	if s.info.Spec.Labels[HashLabel] != s.spec.Labels[HashLabel] {
		if err := p.redefine(ctx, b, create); err != nil {
			return "", err
		}
	}
	_, err = b.Start(ctx, s.ref, backend.StartOptions{Progress: progress})
	return verb, err
}

// redefine gives a sandbox that does not run its new configuration. Where its image is another one in truth (the tag has moved on), that
// is only said: its disk is the user's.
func (p *Project) redefine(ctx context.Context, b backend.Backend, create backend.CreateRequest) error {
	r, ok := b.(backend.Redefiner)
	if !ok {
		return &sandbox.Error{Kind: sandbox.Unsupported, Message: "this backend cannot change a sandbox", Hint: "use a local backend"}
	}
	err := r.Redefine(ctx, create)
	if sandbox.KindOf(err) == sandbox.Unsupported {
		return &sandbox.Error{Op: "apply", Ref: create.Ref, Kind: sandbox.Unsupported, Message: fmt.Sprintf("sandbox '%s' cannot have its new configuration: %s", create.Ref.Name, message(err)),
			Hint: "to make it anew, without its disk: msb rm -f " + string(create.Ref.Name)}
	}
	return err
}

func cancelled(ctx context.Context) error {
	if ctx.Err() != nil {
		return &sandbox.Error{Kind: sandbox.Cancelled, Message: "cancelled", Err: context.Cause(ctx)}
	}
	return nil
}

// stop ends a sandbox; one that does not run is as good.
func stop(ctx context.Context, b backend.Backend, ref sandbox.Ref, opt backend.StopOptions) error {
	err := b.Stop(ctx, ref, opt)
	if k := sandbox.KindOf(err); k == sandbox.NotRunning || k == sandbox.NotFound {
		return nil
	}
	return err
}

// Down stops the entries that are named, all if none are, and those that the file has no more; what depends on a sandbox is stopped
// before it.
func (p *Project) Down(ctx context.Context, b backend.Backend, names []string, opt backend.StopOptions, report func(Event)) error {
	infos, err := p.Infos(ctx, b)
	if err != nil {
		return err
	}
	all := len(names) == 0
	for _, name := range names {
		if _, there := infos[name]; !there && !p.Has(name) {
			return p.missing(name)
		}
	}
	var steps []Step
	for name, i := range infos {
		if (all || slices.Contains(names, name)) && !i.Status.Terminal() {
			steps = append(steps, Step{Action: Stop, Name: name, ref: i.Ref})
		}
	}
	slices.SortFunc(steps, func(a, b Step) int { return strings.Compare(a.Name, b.Name) })
	if _, err := p.Order(p.names()); err != nil { // in a circle nobody is first
		for i := range steps {
			steps[i].After = nil
		}
	} else {
		for i := range steps {
			for _, other := range steps {
				if slices.Contains(p.File.Sandboxes[other.Name].DependsOn, steps[i].Name) {
					steps[i].After = append(steps[i].After, other.Name)
				}
			}
		}
	}
	var mu sync.Mutex
	return p.each(steps, func(s Step) []string { return s.After }, func(s Step) error {
		err := stop(ctx, b, s.ref, opt)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			report(Event{Name: s.Name, Err: err})
		} else {
			report(Event{Name: s.Name, Verb: "Stopped"})
		}
		return err
	})
}

// The defaults of a healthcheck.
const (
	checkInterval = time.Second
	checkTimeout  = 10 * time.Second
	checkRetries  = 30
)

// healthy waits until the healthcheck of an entry succeeds.
func (p *Project) healthy(ctx context.Context, b backend.Backend, name string, ref sandbox.Ref) error {
	entry := p.File.Sandboxes[name]
	check := entry.Healthcheck
	start := time.Now()
	failed := 0
	var last string
	for {
		info, err := b.Get(ctx, ref)
		if err != nil {
			return err
		}
		if info.Status.Terminal() {
			why := ""
			if info.End != nil {
				why = ": " + cmp.Or(info.End.Message, string(info.End.Reason))
			}
			return &sandbox.Error{Op: "up", Ref: ref, Kind: sandbox.NotRunning, Message: fmt.Sprintf("sandbox %q ended before it was healthy%s", name, why), Hint: "see: msb logs " + string(ref.Name)}
		}
		test, cancel := context.WithTimeout(ctx, check.Timeout.Or(checkTimeout))
		var out tail
		code, err := run(test, b, info, command{argv: check.Test.Argv(info.Effective().Runtime.Shell), out: &out, err: &out})
		cancel()
		if err == nil && code == 0 {
			return nil
		}
		if err := cancelled(ctx); err != nil {
			return err
		}
		if last = strings.TrimSpace(string(out)); err != nil {
			last = message(err)
		}
		if time.Since(start) >= check.StartPeriod.Or(0) {
			failed++
		}
		if failed > cmp.Or(check.Retries, checkRetries) {
			return &sandbox.Error{Op: "up", Ref: ref, Kind: sandbox.BootFailed, Message: fmt.Sprintf("sandbox %q is not healthy after %d tests: %s", name, failed, cmp.Or(last, fmt.Sprintf("exit code %d", code))),
				Hint: "see: msb logs " + string(ref.Name), Err: errors.New("not healthy")}
		}
		select {
		case <-time.After(check.Interval.Or(checkInterval)):
		case <-ctx.Done():
		}
	}
}

// tail keeps the end of what is written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	const most = 500
	*t = append(*t, p...)
	if len(*t) > most {
		*t = append((*t)[:0], (*t)[len(*t)-most:]...)
	}
	return len(p), nil
}

// command is one for a sandbox.
type command struct {
	argv     []string
	user     string
	cwd      string
	out, err interface{ Write([]byte) (int, error) }
}

// run runs a command in a sandbox that runs, and returns its exit code.
func run(ctx context.Context, b backend.Backend, info sandbox.Info, c command) (int, error) {
	conn, err := b.Dial(ctx, info.Ref)
	if err != nil {
		return 0, err
	}
	client, err := agentclient.Connect(ctx, conn)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	req := agentclient.ExecRequest{Cmd: c.argv[0], Args: c.argv[1:], User: c.user, Cwd: c.cwd, Stdout: c.out, Stderr: c.err}
	req.Complete(info.Effective(), nil)
	x, err := client.Exec(ctx, req)
	if err != nil {
		return 0, err
	}
	_ = x.CloseStdin()
	return x.Wait()
}
