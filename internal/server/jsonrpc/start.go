package jsonrpc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/sandboxfile"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// How long a start may take before it is answered; it goes on then (contract server-v0.2 §1.7). And how long it may take at all.
const (
	configWait = 180 * time.Second
	plainWait  = 60 * time.Second
	startLimit = 30 * time.Minute
)

// configLabel is the label with the hash of the entry that a sandbox was made from.
const configLabel = "dev.microsandbox.sandboxfile"

// StartParams say what to start.
type StartParams struct {
	Sandbox, Namespace string
	// Config is what the sandbox is from now on; nil takes what the namespace's Sandboxfile says.
	Config *sandboxfile.Sandbox
	// Progress is called with what is being done, from one goroutine at a time; nil is silence.
	Progress func(backend.Event)
}

func (v *Service) rpcStart(ctx context.Context, params json.RawMessage) (any, error) {
	p, err := ParseStart(params)
	if err != nil {
		return nil, server.Invalid("Invalid params for sandbox.start: %v", err)
	}
	return v.Start(ctx, p)
}

// ParseStart reads the parameters of sandbox.start.
func ParseStart(params json.RawMessage) (p StartParams, err error) {
	var o, config object
	if err := json.Unmarshal(params, &o); err != nil || o == nil {
		return p, errors.New("expected an object")
	}
	if p.Sandbox, err = o.text("sandbox"); err != nil {
		return p, err
	}
	if p.Namespace, err = o.namespace(); err != nil {
		return p, err
	}
	if err := o.take("config", &config); err != nil {
		return p, errors.New("config: expected an object")
	}
	if image, ok := config["image"]; ok && !isNull(image) { // what has no image is no config
		p.Config = &sandboxfile.Sandbox{}
		c := p.Config
		for name, into := range map[string]any{"image": &c.Image, "memory": &c.Memory, "cpus": &c.CPUs, "volumes": &c.Volumes, "ports": &c.Ports, "envs": &c.Envs,
			"depends_on": &c.DependsOn, "workdir": &c.Workdir, "shell": &c.Shell, "scripts": &c.Scripts, "exec": &c.Exec} {
			if err := config.take(name, into); err != nil {
				return p, fmt.Errorf("config.%w", err)
			}
		}
		c.Ports = slices.DeleteFunc(c.Ports, func(port string) bool { return strings.HasSuffix(port, ":4444") })
	}
	return p, nil
}

// Start starts a sandbox, makes it if there is none, and says so when it can be used. One that runs stays as it is.
func (v *Service) Start(ctx context.Context, p StartParams) (string, error) {
	ref, err := Ref(ctx, p.Namespace, p.Sandbox)
	if err != nil {
		return "", err
	}
	plan, err := v.plan(ctx, ref, p.Config)
	if err == nil && p.Config != nil {
		err = sandboxfile.Update(v.dir(ref.Namespace), p.Sandbox, *p.Config)
	}
	if err != nil {
		v.server.Audited(ctx, "start", ref, err)
		return "", err
	}
	wait := plainWait
	if p.Config != nil {
		wait = configWait
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	report := &relay{to: p.Progress}
	defer report.stop()
	done := make(chan error, 1)
	v.server.Go(ctx, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, startLimit)
		defer cancel()
		var err error
		for _, one := range plan {
			if err = v.ensure(ctx, one, v.server.Pulling(report.event)); err != nil {
				break
			}
		}
		v.server.Audited(ctx, "start", ref, err)
		done <- err
	})
	select {
	case err := <-done:
		if err != nil {
			return "", err
		}
		return "Sandbox " + p.Sandbox + " started successfully", nil
	case <-timer.C:
		return "Sandbox " + p.Sandbox + " was started, but timed out waiting for it to be fully running. It may still be initializing.", nil
	case <-ctx.Done(): // who asked has gone; the start goes on
		return "", &sandbox.Error{Op: "start", Ref: ref, Kind: sandbox.Cancelled, Message: "start", Err: context.Cause(ctx)}
	}
}

func (v *Service) dir(namespace string) string {
	return sandboxfile.Namespace(v.server.Config().Namespaces, namespace)
}

// wanted is one sandbox to start.
type wanted struct {
	ref  sandbox.Ref
	spec *sandbox.Spec // nil: as it was made
	// quiet sandboxes run nothing by themselves.
	quiet bool
}

// maxDepth is how far dependencies may go (contract server-v0.2 §3.1).
const maxDepth = 32

// planner gathers what is to be started, what others depend on first.
type planner struct {
	v    *Service
	file func() (*sandboxfile.File, error)
	done map[sandbox.Ref]bool
	all  []wanted
}

// plan is what to start for ref, what it depends on first.
func (v *Service) plan(ctx context.Context, ref sandbox.Ref, config *sandboxfile.Sandbox) ([]wanted, error) {
	p := planner{v: v, done: map[sandbox.Ref]bool{}}
	p.file = sync.OnceValues(func() (*sandboxfile.File, error) { return sandboxfile.Load(sandboxfile.Path(v.dir(ref.Namespace))) })
	err := p.add(ctx, ref, config, nil)
	return p.all, err
}

// add adds ref, once. above are those that depend on it.
func (p *planner) add(ctx context.Context, ref sandbox.Ref, config *sandboxfile.Sandbox, above []sandbox.Ref) error {
	if slices.Contains(above, ref) || len(above) > maxDepth {
		return server.Invalid("sandbox '%s' depends on itself, or on too many others in turn", ref.Name)
	}
	if p.done[ref] {
		return nil
	}
	p.done[ref] = true
	if err := ctx.Err(); err != nil {
		return &sandbox.Error{Op: "start", Ref: ref, Kind: sandbox.Cancelled, Message: "start", Err: context.Cause(ctx)}
	}
	entry := config
	if entry == nil {
		f, err := p.file()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil {
			if have, ok := f.Sandboxes[string(ref.Name)]; ok {
				entry = &have
			}
		}
		if entry == nil { // one that was made in another way is as good
			if _, gerr := p.v.backend.Get(ctx, ref); gerr == nil {
				p.all = append(p.all, wanted{ref: ref})
				return nil
			}
			if _, serr := os.Stat(p.v.dir(ref.Namespace)); err != nil && serr == nil {
				return server.Invalid("No configuration provided and no existing configuration found for sandbox '%s'", ref.Name)
			}
			return server.Invalid("Sandbox '%s' not found in existing configuration", ref.Name)
		}
	}
	spec, err := p.v.spec(ctx, ref, *entry)
	if err != nil {
		return err
	}
	above = append(slices.Clone(above), ref)
	for _, name := range entry.DependsOn {
		other, err := Ref(ctx, ref.Namespace, name)
		if err == nil {
			err = p.add(ctx, other, nil, above)
		}
		if err != nil {
			return err
		}
	}
	p.all = append(p.all, wanted{ref, &spec, entry.AtStart == sandboxfile.StartsNothing})
	return nil
}

// spec is what an entry asks for here.
func (v *Service) spec(ctx context.Context, ref sandbox.Ref, entry sandboxfile.Sandbox) (sandbox.Spec, error) {
	cfg := v.server.Config()
	spec, err := entry.Spec(string(ref.Name), sandboxfile.Rules{Dir: v.dir(ref.Namespace), Confined: true, Roots: cfg.VolumeRoots})
	if err != nil {
		return spec, err
	}
	cfg.Settings.Defaults.Apply(&spec)
	spec.DeploymentProfile = cfg.Settings.DeploymentProfile
	text, err := json.Marshal(spec)
	if err != nil {
		return spec, err
	}
	sum := sha256.Sum256(text)
	spec.Labels = map[string]string{configLabel: hex.EncodeToString(sum[:8])}
	if err := v.server.ConfineHost(ctx, &spec); err != nil {
		return spec, err
	}
	return spec, spec.WithDefaults().Validate()
}

// starting is a start that is under way.
type starting struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// begin waits for its turn to start or stop ref; others have theirs when end is called.
func (v *Service) begin(ctx context.Context, ref sandbox.Ref) (_ context.Context, end func(), err error) {
	for {
		v.mu.Lock()
		other := v.starts[ref]
		if other == nil {
			ctx, cancel := context.WithCancel(ctx)
			s := &starting{cancel, make(chan struct{})}
			v.starts[ref] = s
			v.mu.Unlock()
			return ctx, func() {
				cancel()
				v.mu.Lock()
				delete(v.starts, ref)
				v.mu.Unlock()
				close(s.done)
			}, nil
		}
		v.mu.Unlock()
		select {
		case <-other.done:
		case <-ctx.Done():
			return nil, nil, &sandbox.Error{Op: "start", Ref: ref, Kind: sandbox.Cancelled, Message: "the start was cancelled", Err: context.Cause(ctx)}
		}
	}
}

// interrupt ends a start that is under way, and returns when it has ended.
func (v *Service) interrupt(ctx context.Context, ref sandbox.Ref) {
	v.mu.Lock()
	s := v.starts[ref]
	v.mu.Unlock()
	if s == nil {
		return
	}
	s.cancel()
	select {
	case <-s.done:
	case <-ctx.Done():
	}
}

// ensure makes a sandbox run.
func (v *Service) ensure(ctx context.Context, w wanted, progress func(backend.Event)) error {
	ctx, end, err := v.begin(ctx, w.ref)
	if err != nil {
		return err
	}
	defer end()
	const tries = 5 // of others that make and remove it all the time
	for n := 1; ; n++ {
		info, err := v.backend.Get(ctx, w.ref)
		switch {
		case err == nil && !info.Status.Terminal():
			if info.Status != sandbox.Starting {
				return nil
			}
			_, err = v.backend.Start(ctx, w.ref, backend.StartOptions{Progress: progress})
		case err == nil || sandbox.KindOf(err) == sandbox.NotFound:
			err = v.bring(ctx, w, info, err == nil, progress)
		}
		if k := sandbox.KindOf(err); n < tries && (k == sandbox.AlreadyExists || k == sandbox.NotFound && w.spec != nil) {
			continue
		}
		return err
	}
}

// bring makes or starts a sandbox that does not run.
func (v *Service) bring(ctx context.Context, w wanted, info sandbox.Info, there bool, progress func(backend.Event)) error {
	spec := info.Spec
	if w.spec != nil {
		spec = *w.spec
	}
	create := backend.CreateRequest{Ref: w.ref, Spec: spec, Startup: !w.quiet, Resolved: true, Proven: v.server.Confined(ctx), Replace: there, Progress: progress}
	// One that says something else now keeps its files if its image is the same.
	changed := there && w.spec != nil && info.Spec.Labels[configLabel] != w.spec.Labels[configLabel]
	r, ok := v.backend.(backend.Redefiner)
	if !there || changed && (!ok || info.Spec.Image.String() != w.spec.Image.String()) {
		return v.create(ctx, create)
	}
	done, err := v.server.Admit(ctx, w.ref, spec)
	if err != nil {
		return err
	}
	if changed {
		err = r.Redefine(ctx, create)
	}
	if changed && sandbox.KindOf(err) == sandbox.Unsupported {
		done()
		return v.create(ctx, create)
	}
	defer done()
	if err != nil {
		return err
	}
	_, err = v.backend.Start(ctx, w.ref, backend.StartOptions{Progress: progress})
	return err
}

func (v *Service) create(ctx context.Context, req backend.CreateRequest) error {
	done, err := v.server.AdmitCreate(ctx, &req)
	if err != nil {
		return err
	}
	defer done()
	_, err = v.backend.Create(ctx, req)
	return err
}
