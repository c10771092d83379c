package local

import (
	"cmp"
	"context"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/internal/state"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

var _ backend.Modifier = (*Backend)(nil)

// Modify changes a sandbox that is kept.
func (b *Backend) Modify(ctx context.Context, ref sandbox.Ref, req backend.ModifyRequest) (sandbox.Plan, error) {
	row, err := b.row(ref)
	if sandbox.KindOf(err) == sandbox.NotFound {
		if _, eph := b.getEphemeral(ctx, ref); eph == nil {
			err = &sandbox.Error{Op: "modify", Ref: ref, Kind: sandbox.Unsupported, Message: "sandbox '" + string(ref.Name) + "' is ephemeral: it is not kept, so there is nothing to modify"}
		}
	}
	if err != nil {
		return sandbox.Plan{}, err
	}
	policy := cmp.Or(req.Policy, sandbox.ModifyNoRestart)
	plan, next, err := planOf(row, req.Modification, policy)
	if err != nil || req.DryRun || len(plan.Conflicts) > 0 || len(plan.Changes) == 0 {
		return plan, err
	}
	restart := policy == sandbox.ModifyRestart && slices.ContainsFunc(plan.Changes, func(c sandbox.Change) bool { return c.Disposition == sandbox.RequiresRestart })
	values, err := newValues(req.Secrets) // a value that is not there is told now
	sealed := row.Sealed
	if err == nil && len(req.Secrets)+len(req.SecretsRemove) > 0 {
		sealed, err = b.sealNext(row, next.Network, inline(req.Secrets), hasLive(plan, "secrets."))
	}
	if err == nil && restart { // the next start wants the others, too
		n := next.Network
		if err = b.unseal(row, &n); err == nil {
			_, err = b.proxy(n)
		}
	}
	if err != nil {
		return plan, err
	}
	db, err := b.records()
	if err != nil {
		return plan, err
	}
	if _, err := db.Edit(row.ID, func(r *state.Row) error {
		spec, _ := req.Apply(r.Spec)
		r.Spec, r.Sealed = spec.WithDefaults(), sealed
		if r.Active != nil && policy != sandbox.ModifyNextStart {
			live, _ := onlyLive(req.Modification, plan).Apply(*r.Active)
			live = live.WithDefaults()
			r.Active = &live
		}
		return nil
	}); err != nil {
		return plan, err
	}
	plan.Applied = true
	if !restart {
		return plan, b.tell(ctx, row, next, values, &plan)
	}
	if err := b.Stop(ctx, ref, backend.StopOptions{}); err != nil && sandbox.KindOf(err) != sandbox.NotRunning {
		return plan, err
	}
	_, err = b.Start(ctx, ref, backend.StartOptions{})
	return plan, err
}

// planOf says what a modification of the sandbox comes to, and what its spec would be.
func planOf(row state.Row, m sandbox.Modification, policy sandbox.ModifyPolicy) (sandbox.Plan, sandbox.Spec, error) {
	plan := sandbox.Plan{Sandbox: row.Ref.Name, Status: row.Status, Policy: policy, Changes: []sandbox.Change{}, Conflicts: []sandbox.PlanNote{}, Warnings: []sandbox.PlanNote{}}
	next, changes := m.Apply(row.Spec)
	next = next.WithDefaults()
	if err := next.Validate(); err != nil {
		return plan, next, err
	}
	plan.Conflicts = append(plan.Conflicts, m.Check(row.Spec)...)
	running := !row.Status.Terminal()
	for _, c := range changes {
		c.Disposition = sandbox.NextStart
		if running && policy != sandbox.ModifyNextStart {
			why := ""
			if c.Disposition, why = dispositionOf(c.Field, row, next); why != "" {
				c.Reason = &why
			}
		}
		if c.Disposition == sandbox.RequiresRestart {
			if policy == sandbox.ModifyNoRestart {
				note := sandbox.PlanNote{Field: c.Field, Message: "it needs a restart"}
				if c.Reason != nil {
					note.Message += ": " + *c.Reason
				}
				plan.Conflicts = append(plan.Conflicts, note)
			}
		}
		plan.Changes = append(plan.Changes, c)
	}
	return plan, next, nil
}

// dispositionOf says when a field of a running sandbox can change, and why not now.
func dispositionOf(field string, row state.Row, next sandbox.Spec) (d sandbox.Disposition, why string) {
	if row.Active == nil {
		return sandbox.RequiresRestart, "it is not known what it was started with"
	}
	now := *row.Active
	live, why := false, "the guest's kernel is given it when it starts"
	switch {
	case strings.HasPrefix(field, "env."), strings.HasPrefix(field, "labels."), field == "workdir":
		live = true // they are of what is run from now on
	case field == "cpus":
		live = next.Resources.CPUs <= now.Resources.MaxCPUs
	case field == "memory_mib":
		live = next.Resources.MemoryMiB <= now.Resources.MaxMemoryMiB
	case strings.HasPrefix(field, "network."):
		// Of a run whose policy was closed meanwhile, the confinement says that it has a link all the same.
		live, why = row.Confinement != nil && row.Confinement.Network == "gateway", "it was started without a network, so it has none to open"
	case strings.HasPrefix(field, "secrets."):
		live, why = len(now.Network.TLS.Ports()) > 0 && reflect.DeepEqual(now.Network.TLS, next.Network.TLS), "its TLS is not looked into, for which the guest has to trust this machine from its start"
	}
	if live {
		return sandbox.Live, ""
	}
	return sandbox.RequiresRestart, why
}

// onlyLive is the part of a modification that a running sandbox takes.
func onlyLive(m sandbox.Modification, plan sandbox.Plan) sandbox.Modification {
	m.MaxCPUs, m.MaxMemoryMiB, m.RootDiskMiB = nil, nil, nil
	if !hasLive(plan, "secrets.") {
		m.Secrets, m.SecretsRemove = nil, nil
	}
	if !hasLive(plan, "network.") {
		m.NetworkPolicy, m.NetworkStrict = nil, nil
	}
	return m
}

// hasLive reports whether fields that begin so change now; of one kind either all or none do.
func hasLive(plan sandbox.Plan, prefix string) bool {
	return slices.ContainsFunc(plan.Changes, func(c sandbox.Change) bool {
		return strings.HasPrefix(c.Field, prefix) && c.Disposition == sandbox.Live
	})
}

// tell has a running sandbox take what changed. values are those of secrets that are new or rotated.
func (b *Backend) tell(ctx context.Context, row state.Row, next sandbox.Spec, values map[string]string, plan *sandbox.Plan) error {
	if row.Active == nil || plan.Policy == sandbox.ModifyNextStart {
		return nil
	}
	if hasLive(*plan, "network.") { // first: it may be what the rest is about
		p := next.Network.PolicyOrDefault()
		if _, err := b.control(ctx, row.Ref, launch.ControlRequest{Op: launch.OpPolicy, Policy: &p, Strict: &next.Network.Strict}); err != nil {
			return err
		}
	}
	if hasLive(*plan, "secrets.") {
		if _, err := b.control(ctx, row.Ref, launch.ControlRequest{Op: launch.OpSecrets, Secrets: &launch.Secrets{Spec: next.Network.Secrets, Values: values}}); err != nil {
			return err
		}
	}
	if !slices.Equal(row.Active.Env, next.Env) || row.Active.Runtime.Workdir != next.Runtime.Workdir {
		req := launch.ControlRequest{Op: launch.OpDefaults, Defaults: &launch.Defaults{Env: next.Env, Workdir: next.Runtime.Workdir}}
		if _, err := b.control(ctx, row.Ref, req); err != nil {
			return err
		}
	}
	return b.tellLimits(ctx, row, next, plan)
}

// tellLimits has a running sandbox held to its new limits.
func (b *Backend) tellLimits(ctx context.Context, row state.Row, next sandbox.Spec, plan *sandbox.Plan) error {
	was, want := row.Active.Resources, next.Resources
	if was.CPUs == want.CPUs && was.MemoryMiB == want.MemoryMiB {
		return nil
	}
	_, err := b.control(ctx, row.Ref, launch.ControlRequest{Op: launch.OpLimits, Limits: &launch.Limits{CPUs: want.CPUs, MemoryMiB: want.MemoryMiB}})
	state := "applied"
	if err != nil {
		state = "failed"
	}
	for _, r := range []struct {
		resource  string
		was, want int
	}{{"cpus", was.CPUs, want.CPUs}, {"memory", was.MemoryMiB, want.MemoryMiB}} {
		if r.was == r.want {
			continue
		}
		actual := strconv.Itoa(r.want)
		if err != nil {
			actual = strconv.Itoa(r.was)
		}
		plan.Resizes = append(plan.Resizes, sandbox.Resize{Resource: r.resource, Requested: strconv.Itoa(r.want), Actual: actual, Enforced: actual, State: state})
	}
	return err
}
