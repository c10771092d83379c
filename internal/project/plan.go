package project

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Action is what is done to one sandbox.
type Action string

// The actions.
const (
	Keep    Action = "keep"
	Create  Action = "create"
	Start   Action = "start"
	Restart Action = "restart" // with another configuration; its disk stays
	Replace Action = "replace" // with another image; its disk goes, its volumes stay
	Stop    Action = "stop"
	Build   Action = "build"
)

// Step is one action. After are the names of those that are done before it.
type Step struct {
	Action Action   `json:"action"`
	Name   string   `json:"name"` // of the entry, or of a build
	Why    string   `json:"why,omitempty"`
	After  []string `json:"after,omitempty"`

	ref  sandbox.Ref
	info sandbox.Info
	spec sandbox.Spec
	test bool // its healthcheck, before those that come after

	converge bool
}

// Plan is what brings a project to where it is to be.
type Plan struct{ Steps []Step }

// Nothing reports whether there is nothing to do.
func (p Plan) Nothing() bool {
	return !slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Action != Keep })
}

// Options say what to plan.
type Options struct {
	Names []string // entries, and what they depend on; none are all
	// Converge also restarts what has changed and, without Names, stops what the file has no more.
	Converge bool
}

// Plan looks at what there is and says what is to be done.
func (p *Project) Plan(ctx context.Context, b backend.Backend, opt Options) (Plan, error) {
	names, err := p.Select(opt.Names)
	if err != nil {
		return Plan{}, err
	}
	order, err := p.Order(names)
	if err != nil {
		return Plan{}, err
	}
	infos, err := p.Infos(ctx, b)
	if err != nil {
		return Plan{}, err
	}
	builds, err := p.planBuilds(ctx, b, order)
	if err != nil {
		return Plan{}, err
	}
	plan := Plan{Steps: builds}
	for _, name := range order {
		s, err := p.step(ctx, b, name, infos, opt.Converge)
		if err != nil {
			return Plan{}, err
		}
		plan.Steps = append(plan.Steps, s)
	}
	if opt.Converge && len(opt.Names) == 0 {
		for _, name := range slices.Sorted(maps.Keys(infos)) {
			if i := infos[name]; !p.Has(name) && !i.Status.Terminal() {
				plan.Steps = append(plan.Steps, Step{Action: Stop, Name: name, Why: "the file has it no more", ref: i.Ref, info: i})
			}
		}
	}
	for i := range plan.Steps { // a test is for those that wait for it
		s := &plan.Steps[i]
		waited := slices.ContainsFunc(plan.Steps, func(o Step) bool {
			return o.Action != Keep && o.Action != Stop && slices.Contains(o.After, s.Name)
		})
		s.test = p.File.Sandboxes[s.Name].Healthcheck != nil && s.Action != Stop && s.Action != Build && (waited || s.Action != Keep)
	}
	return plan, nil
}

func (p *Project) step(ctx context.Context, b backend.Backend, name string, infos map[string]sandbox.Info, converge bool) (Step, error) {
	s := Step{Name: name, ref: p.Ref(name), After: p.File.Sandboxes[name].DependsOn, converge: converge}
	var err error
	if s.spec, err = p.Spec(name); err != nil {
		return s, err
	}
	info, there := infos[name]
	if !there {
		other, err := b.Get(ctx, s.ref)
		if err == nil && (!other.Status.Terminal() || other.Booted) {
			return s, &sandbox.Error{Op: "up", Ref: s.ref, Kind: sandbox.AlreadyExists, Message: fmt.Sprintf("there is a sandbox %s already, and it is not of %s", s.ref.Name, p.Path),
				Hint: "give the project another name, with name: in its file, or remove that sandbox"}
		}
		if err != nil && sandbox.KindOf(err) != sandbox.NotFound {
			return s, err
		}
		s.Action = Create
		return s, nil
	}
	s.info = info
	changed := info.Spec.Labels[HashLabel] != s.spec.Labels[HashLabel]
	another := info.Spec.Image.String() != s.spec.Image.String()
	running := !info.Status.Terminal()
	switch {
	case running && info.Status != sandbox.Starting && changed && !converge:
		s.Action, s.Why = Keep, "it runs with an older configuration: msb apply restarts it"
	case changed && another:
		s.Action, s.Why = Replace, "the image is another one: its disk goes, its volumes stay"
	case changed && running:
		s.Action, s.Why = Restart, "it has changed"
	case changed:
		s.Action, s.Why = Start, "it has changed"
	case running && info.Status != sandbox.Starting: // what is starting may come to nothing
		s.Action = Keep
	default:
		s.Action = Start
	}
	return s, nil
}
