package rest

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/microsandbox-go/microsandbox/internal/sandboxfile"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// minPort is the first port of this machine that sandboxes of clients may publish.
const minPort = 1024

// confine holds a spec to what clients may have of this machine: directories below the roots that the server was given, no variables of
// its environment but for a key that may do everything, ports from 1024. Kind: InvalidConfig, with the field.
func (h *Handler) confine(ctx context.Context, s *sandbox.Spec) error {
	refused := func(field string, err error) error {
		return &sandbox.Error{Op: "create", Kind: sandbox.InvalidConfig, Message: field, Err: err, Hint: "the server's --volume-root says which directories sandboxes may have"}
	}
	rules := sandboxfile.Rules{Dir: "/", Confined: true, Roots: h.server.Config().VolumeRoots}
	var err error
	if b := s.Image.Bind; b != nil {
		bind := *b
		if bind.Path, err = rules.Path(b.Path); err != nil {
			return refused("image.path", err)
		}
		s.Image.Bind = &bind
	}
	for i := range s.Mounts {
		m := &s.Mounts[i]
		if m.Type != sandbox.MountBind {
			continue
		}
		if !filepath.IsAbs(m.Host) {
			return refused(fmt.Sprintf("mounts[%d].host", i), fmt.Errorf("it is not absolute"))
		}
		if m.Host, err = rules.Path(m.Host); err != nil {
			return refused(fmt.Sprintf("mounts[%d].host", i), err)
		}
	}
	for i := range s.Patches {
		p := &s.Patches[i]
		if p.Type != sandbox.PatchCopyFile && p.Type != sandbox.PatchCopyDir {
			continue
		}
		if p.Src, err = rules.Path(p.Src); err != nil {
			return refused(fmt.Sprintf("patches[%d].src", i), err)
		}
	}
	for i, p := range s.Network.Ports {
		if p.HostPort > 0 && p.HostPort < minPort {
			return &sandbox.Error{Op: "create", Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("network.ports[%d].host_port: ports of this server below %d are not for sandboxes", i, minPort)}
		}
	}
	if err := h.server.ConfineHost(ctx, s); err != nil {
		return err
	}
	return h.confineNetwork(ctx, s.Network)
}

// confineNetwork looks at what a network would take from the server's machine: its environment and its files.
func (h *Handler) confineNetwork(ctx context.Context, n sandbox.Network) error {
	if !h.server.Confined(ctx) {
		return nil
	}
	refused := func(field string) error {
		return &sandbox.Error{Op: "create", Kind: sandbox.InvalidConfig, Message: field + ": the server's environment and files are not for keys of one namespace", Hint: "send the value itself"}
	}
	if n.Secrets != nil {
		for i, s := range n.Secrets.Secrets {
			if s.Source != nil {
				return refused(fmt.Sprintf("network.secrets.entries[%d].source", i))
			}
		}
	}
	if o := n.OutboundProxy; o != nil && o.PasswordEnv != "" {
		return refused("network.outbound_proxy.password_env")
	}
	if t := n.TLS; t != nil && (len(t.UpstreamCACert) > 0 || len(t.ScopedUpstreamCACert) > 0 || t.InterceptCA != nil) {
		return refused("network.tls")
	}
	return nil
}
