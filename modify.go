package microsandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// ModificationPolicy says what happens with changes that a running sandbox cannot take.
type ModificationPolicy string

// The policies: nothing is changed if one of the changes needs a restart (the default), all changes are for the next start,
// the sandbox is restarted if one of them needs that.
const (
	ModificationPolicyNoRestart ModificationPolicy = "no_restart"
	ModificationPolicyNextStart ModificationPolicy = "next_start"
	ModificationPolicyRestart   ModificationPolicy = "restart"
)

// ModifyOptions say what of a sandbox is to change. Zero fields stay as they are.
type ModifyOptions struct {
	CPUs            uint8
	MaxCPUs         uint8
	MemoryMiB       uint32
	MaxMemoryMiB    uint32
	RootDiskSizeMiB uint32 // it can only grow
	Env             map[string]string
	EnvRemove       []string
	Labels          map[string]string
	LabelsRemove    []string
	Workdir         string
	Secrets         map[string]SecretModifySpec
	SecretsRemove   []string
	Policy          ModificationPolicy
	DryRun          bool // plan only
}

// SecretModifySpec is what a secret is to be. At most one of Env, Value and Store is set; none is Env of the secret's own name. Store is
// ErrUnsupportedOperation here, and so is Value for a start to come, as records have no values. Without AllowedHosts a secret that is there keeps its own.
type SecretModifySpec struct {
	Env          string // variable of this machine that has the value
	Value        string
	Store        string
	Placeholder  string
	AllowedHosts []string
}

// SandboxModificationPlan is what a modification comes to (contract msb-0.6 §2.9).
type SandboxModificationPlan struct {
	Sandbox      string                 `json:"sandbox"`
	Status       string                 `json:"status"`
	Applied      bool                   `json:"applied"`
	Policy       ModificationPolicy     `json:"policy"`
	Changes      []PlannedChange        `json:"changes"`
	Conflicts    []ModificationConflict `json:"conflicts"`
	Warnings     []ModificationWarning  `json:"warnings"`
	ResizeStatus []ResourceResizeStatus `json:"resize_status,omitempty"`
}

// PlannedChange is one thing that changes. Kind is config or secret.
type PlannedChange struct {
	Kind        string   `json:"kind"`
	Field       string   `json:"field"`
	Name        string   `json:"name,omitempty"`
	Change      string   `json:"change"`
	Before      *string  `json:"before,omitempty"`
	After       *string  `json:"after,omitempty"`
	BeforeRef   *string  `json:"before_ref,omitempty"`
	AfterRef    *string  `json:"after_ref,omitempty"`
	Disposition string   `json:"disposition"` // live, next start, requires restart
	AllowHosts  []string `json:"allow_hosts,omitempty"`
	Reason      *string  `json:"reason,omitempty"`
}

// ModificationConflict keeps a modification from being made.
type ModificationConflict struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// ModificationWarning does not.
type ModificationWarning struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// ResourceResizeStatus says how far a change of a running sandbox's limits is.
type ResourceResizeStatus struct {
	Resource  string `json:"resource"`
	Requested string `json:"requested"`
	Actual    string `json:"actual"`
	Enforced  string `json:"enforced"`
	State     string `json:"state"`
}

// Modify changes the sandbox, or only says what would change. A plan with conflicts is not applied, which is no error.
func (s *Sandbox) Modify(ctx context.Context, opts ModifyOptions) (*SandboxModificationPlan, error) {
	return s.handle.Modify(ctx, opts)
}

// Modify changes the sandbox, or only says what would change. A plan with conflicts is not applied, which is no error.
func (h *SandboxHandle) Modify(ctx context.Context, opts ModifyOptions) (*SandboxModificationPlan, error) {
	b, err := capable[backend.Modifier](h.e, "SandboxHandle::modify")
	if err == nil {
		if _, err = h.refresh(ctx); err == nil && opts.Policy == ModificationPolicyRestart {
			_, err = h.e.starter() // a restart takes what a start does
		}
		if err == nil {
			b, err = capable[backend.Modifier](h.e, "SandboxHandle::modify")
		}
	}
	if err != nil {
		return nil, wrap(err)
	}
	change, err := opts.modification()
	if err != nil {
		return nil, wrap(err)
	}
	plan, err := b.Modify(ctx, h.ref, backend.ModifyRequest{Modification: change, Policy: sandbox.ModifyPolicy(opts.Policy), DryRun: opts.DryRun})
	if err != nil {
		return nil, wrap(err)
	}
	raw, err := json.Marshal(plan)
	var out SandboxModificationPlan
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	if err != nil {
		return nil, wrap(err)
	}
	return &out, nil
}

func (o ModifyOptions) modification() (sandbox.Modification, error) {
	m := sandbox.Modification{EnvRemove: o.EnvRemove, Labels: o.Labels, LabelsRemove: o.LabelsRemove, SecretsRemove: o.SecretsRemove}
	set := func(to **int, n int) {
		if n > 0 {
			*to = &n
		}
	}
	set(&m.CPUs, int(o.CPUs))
	set(&m.MaxCPUs, int(o.MaxCPUs))
	set(&m.MemoryMiB, int(o.MemoryMiB))
	set(&m.MaxMemoryMiB, int(o.MaxMemoryMiB))
	set(&m.RootDiskMiB, int(o.RootDiskSizeMiB))
	for _, key := range slices.Sorted(maps.Keys(o.Env)) {
		m.Env = append(m.Env, sandbox.EnvVar{Key: key, Value: o.Env[key]})
	}
	if o.Workdir != "" {
		m.Workdir = &o.Workdir
	}
	for _, name := range slices.Sorted(maps.Keys(o.Secrets)) {
		secret, err := o.Secrets[name].secret(name)
		if err != nil {
			return m, err
		}
		m.Secrets = append(m.Secrets, secret)
	}
	return m, nil
}

// secret is what a secret is to be.
func (s SecretModifySpec) secret(name string) (sandbox.Secret, error) {
	out := sandbox.Secret{EnvVar: name, Placeholder: s.Placeholder, Source: &sandbox.SecretSource{Kind: sandbox.SecretFromEnv, Var: cmp.Or(s.Env, name)}}
	switch {
	case s.Env != "" && s.Store != "" || s.Value != "" && s.Env+s.Store != "":
		return out, badConfig("the secret %.100s has more than one of Env, Value and Store", name)
	case s.Value != "":
		out.Source, out.Value = nil, sandbox.SecretValue(s.Value)
	case s.Store != "":
		out.Source = &sandbox.SecretSource{Kind: sandbox.SecretFromStore, Reference: s.Store}
	}
	for _, h := range s.AllowedHosts {
		p, err := sandbox.ParseHostPattern(h)
		if err != nil {
			return out, badHost(name, h)
		}
		out.AllowedHosts = append(out.AllowedHosts, p)
	}
	return out, nil
}
