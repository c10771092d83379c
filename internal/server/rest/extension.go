package rest

import (
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/internal/project"
	"github.com/microsandbox-go/microsandbox/internal/version"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// capabilities says that this is a server of ours.
func (h *Handler) capabilities(*request) (any, error) {
	return cloudapi.Capabilities{Server: "microsandbox-go", Version: version.Version, Extension: cloudapi.ExtensionVersion}, nil
}

func unsupported(what string) error {
	return &sandbox.Error{Kind: sandbox.Unsupported, Message: what + " is not supported by this server"}
}

// export answers with the namespace's sandboxes as a Sandboxfile (ADR 24); what that cannot say is in its comment.
func (h *Handler) export(r *request) (any, error) {
	out, err := project.Export(r.Context(), h.backend, r.namespace, project.ExportOptions{Names: r.URL.Query()["name"]})
	if err != nil {
		return nil, err
	}
	r.w.Header().Set("Content-Type", "application/yaml")
	_, _ = r.w.Write(out.Text) // who asked may have gone
	return streamed, nil
}

func (h *Handler) drain(r *request, info sandbox.Info) (any, error) {
	d, ok := h.backend.(backend.Drainer)
	if !ok {
		return nil, unsupported("drain")
	}
	err := d.Drain(r.Context(), info.Ref)
	h.server.Audited(r.Context(), "drain", info.Ref, err)
	return shown(info), err
}

func (h *Handler) metrics(r *request, info sandbox.Info) (any, error) {
	m, ok := h.backend.(backend.Meterer)
	if !ok {
		return nil, unsupported("metrics")
	}
	return m.Metrics(r.Context(), info.Ref)
}

func (h *Handler) allMetrics(r *request) (any, error) {
	m, ok := h.backend.(backend.Meterer)
	if !ok {
		return nil, unsupported("metrics")
	}
	all, err := m.AllMetrics(r.Context(), r.namespace)
	if all == nil {
		all = []sandbox.Metrics{}
	}
	return all, err
}

func (h *Handler) modify(r *request, info sandbox.Info) (any, error) {
	m, ok := h.backend.(backend.Modifier)
	if !ok {
		return nil, unsupported("modify")
	}
	var b cloudapi.ModifyBody
	if err := r.body(&b); err != nil {
		return nil, err
	}
	for i := range b.Secrets {
		s := &b.Secrets[i]
		if v := b.Values[s.EnvVar]; v != "" {
			s.Value = sandbox.SecretValue(v)
		}
	}
	err := h.confineNetwork(r.Context(), sandbox.Network{Secrets: &sandbox.Secrets{Secrets: b.Secrets}})
	if b.NetworkPolicy != nil {
		p := h.server.ConfinePolicy(r.Context(), *b.NetworkPolicy)
		b.NetworkPolicy = &p
	}
	var plan sandbox.Plan
	done := func() {}
	if err == nil && !b.DryRun {
		done, err = h.reserve(r, info, b)
	}
	if err == nil {
		defer done()
		plan, err = m.Modify(r.Context(), info.Ref, backend.ModifyRequest{Modification: b.Modification, Policy: b.Policy, DryRun: b.DryRun})
	}
	if !b.DryRun {
		h.server.Audited(r.Context(), "modify", info.Ref, err)
	}
	return plan, err
}

// reserve looks whether the namespace may have what the sandbox is to be. What does not grow it may always.
func (h *Handler) reserve(r *request, info sandbox.Info, b cloudapi.ModifyBody) (done func(), err error) {
	next, _ := b.Modification.Apply(info.Spec)
	next = next.WithDefaults()
	was, runs := info.Effective().WithDefaults(), !info.Status.Terminal() && b.Policy != sandbox.ModifyNextStart
	if !runs {
		was = info.Spec.WithDefaults()
	}
	n, w := next.Resources, was.Resources
	if n.MaxCPUs <= w.MaxCPUs && n.MaxMemoryMiB <= w.MaxMemoryMiB && next.Image.Disk().SizeMiB <= was.Image.Disk().SizeMiB {
		return func() {}, nil
	}
	return h.server.Reserve(r.Context(), info.Ref, next, runs)
}

func (h *Handler) network(r *request, info sandbox.Info) (any, error) {
	n, ok := h.backend.(backend.Networker)
	if !ok {
		return nil, unsupported("network")
	}
	return n.Network(r.Context(), info.Ref)
}

func (h *Handler) setNetwork(r *request, info sandbox.Info) (any, error) {
	n, ok := h.backend.(backend.Networker)
	if !ok {
		return nil, unsupported("network")
	}
	var p sandbox.NetworkPolicy
	if err := r.body(&p); err != nil {
		return nil, err
	}
	err := n.SetNetworkPolicy(r.Context(), info.Ref, h.server.ConfinePolicy(r.Context(), p))
	h.server.Audited(r.Context(), "network", info.Ref, err)
	return shown(info), err
}

func (h *Handler) redefine(r *request, info sandbox.Info) (any, error) {
	d, ok := h.backend.(backend.Redefiner)
	if !ok {
		return nil, unsupported("redefine")
	}
	var b cloudapi.CreateBody
	if err := r.body(&b); err != nil {
		return nil, err
	}
	b.Name = string(info.Ref.Name)
	req, err := h.request(r.Context(), info.Ref.Namespace, b)
	done := func() {}
	if err == nil {
		done, err = h.server.Reserve(r.Context(), info.Ref, req.Spec, false) // only what is stopped is redefined
	}
	if err == nil {
		defer done()
		err = d.Redefine(r.Context(), req)
	}
	h.server.Audited(r.Context(), "redefine", info.Ref, err)
	if err != nil {
		return nil, err
	}
	now, err := h.backend.Get(r.Context(), info.Ref)
	return shown(now), err
}
