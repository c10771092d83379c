package project

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/sandboxfile"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// ExportOptions say what to export.
type ExportOptions struct {
	Names []string // sandboxes; none are all that are kept
	// Files has what depends_on and healthcheck say taken from the Sandboxfiles on this machine that sandboxes were made from. They are
	// read by who exports, so a server does not.
	Files bool
	// Defaults are those that such files are read with, as in [Project].
	Defaults func(*sandbox.Spec)
}

// Exported is a namespace as a Sandboxfile.
type Exported struct {
	Text []byte
	// Warnings name what is not in it, a line each.
	Warnings []string
}

// Export says the sandboxes of a namespace as a Sandboxfile that makes them again: neither their files nor the values of secrets are in
// it. Kind: NotFound.
func Export(ctx context.Context, b backend.Backend, namespace string, opt ExportOptions) (Exported, error) {
	all, err := b.List(ctx, namespace)
	if err != nil {
		return Exported{}, err
	}
	for _, name := range opt.Names {
		if !slices.ContainsFunc(all, func(i sandbox.Info) bool { return string(i.Ref.Name) == name }) {
			return Exported{}, &sandbox.Error{Op: "export", Ref: sandbox.Ref{Namespace: namespace, Name: sandbox.Name(name)}, Kind: sandbox.NotFound}
		}
	}
	e := exporter{b: b, opt: opt, projects: map[string]*Project{}, images: map[string]*backend.ImageDetail{}}
	f := &sandboxfile.File{Namespace: namespace, Sandboxes: map[string]sandboxfile.Sandbox{}}
	var out Exported
	infos := map[string]sandbox.Info{}
	for _, i := range all {
		name := string(i.Ref.Name)
		switch {
		case len(opt.Names) > 0 && !slices.Contains(opt.Names, name):
			continue
		case i.Spec.Lifecycle.Ephemeral:
			if len(opt.Names) > 0 {
				out.Warnings = append(out.Warnings, name+" is left out: it is not kept")
			}
			continue
		}
		infos[name] = i
	}
	secrets := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(infos)) {
		i := infos[name]
		spec, err := e.asked(ctx, i.Spec)
		if err != nil {
			return Exported{}, err
		}
		entry, lost := sandboxfile.EntryOf(spec, i.Startup)
		e.recall(i, &entry, infos)
		for secret := range entry.Secrets {
			secrets[secret] = true
		}
		if strings.HasPrefix(entry.Image, "localhost/") {
			out.Warnings = append(out.Warnings, fmt.Sprintf("%s runs an image that is only here (%s): msb save takes it along", name, entry.Image))
		}
		if len(lost) > 0 {
			out.Warnings = append(out.Warnings, fmt.Sprintf("of %s the file cannot say: %s", name, strings.Join(lost, ", ")))
		}
		f.Sandboxes[name] = entry
	}
	if len(secrets) > 0 {
		out.Warnings = append(out.Warnings, "the values of secrets are not in it: they are those of the variables "+strings.Join(slices.Sorted(maps.Keys(secrets)), ", ")+" where it is applied")
	}
	comment := []string{"The sandboxes of the namespace " + namespace + ", as msb export found them; msb apply -f FILE makes them again.",
		"Variables and scripts are in it as they are, files of sandboxes and volumes are not."}
	for _, w := range out.Warnings {
		comment = append(comment, "Note: "+w+".")
	}
	if out.Text, err = f.Text(comment); err != nil {
		return Exported{}, err
	}
	back, err := sandboxfile.Parse(sandboxfile.Name, out.Text) // what cannot be read is no export
	if err != nil {
		return Exported{}, &sandbox.Error{Op: "export", Kind: sandbox.Internal, Message: "what was written cannot be read", Err: err}
	}
	for name, entry := range f.Sandboxes {
		if !back.Sandboxes[name].Equal(entry) {
			return Exported{}, &sandbox.Error{Op: "export", Kind: sandbox.Internal, Message: "the entry of " + name + " is another one when it is read"}
		}
	}
	return out, nil
}

type exporter struct {
	b        backend.Backend
	opt      ExportOptions
	projects map[string]*Project // by their paths; nil is none that can be read
	images   map[string]*backend.ImageDetail
}

// asked is a spec without what its image says anyway.
func (e *exporter) asked(ctx context.Context, spec sandbox.Spec) (sandbox.Spec, error) {
	c, err := e.config(ctx, spec)
	if err != nil || c == nil {
		return spec, err
	}
	env := map[string]string{}
	for _, kv := range c.Env {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	spec.Env = slices.DeleteFunc(slices.Clone(spec.Env), func(v sandbox.EnvVar) bool {
		have, ok := env[v.Key]
		return ok && have == v.Value
	})
	labels := map[string]string{}
	for k, v := range spec.Labels {
		if have, ok := c.Labels[k]; !ok || have != v {
			labels[k] = v
		}
	}
	spec.Labels = labels
	r := &spec.Runtime
	switch {
	case slices.Equal(r.Entrypoint, c.Entrypoint) && slices.Equal(r.Cmd, c.Cmd):
		r.Entrypoint, r.Cmd = nil, nil
	case slices.Equal(r.Entrypoint, c.Entrypoint) && len(r.Cmd) > 0: // with no word of its own, an entrypoint has no command
		r.Entrypoint = nil
	}
	if c.WorkingDir != "" && r.Workdir == path.Join("/", c.WorkingDir) {
		r.Workdir = ""
	}
	if r.User == c.User {
		r.User = ""
	}
	return spec, nil
}

// ofNoRegistry is what the image host and directories say.
var ofNoRegistry = backend.ImageConfig{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Cmd: []string{"/bin/sh"}}

// config is what the image says that a sandbox runs; nil where that is not known any more.
func (e *exporter) config(ctx context.Context, spec sandbox.Spec) (*backend.ImageConfig, error) {
	if i := spec.Image.OCI; i == nil || i.Reference == sandbox.HostImage {
		return &ofNoRegistry, nil
	}
	images, ok := e.b.(backend.Images)
	if !ok {
		return nil, nil
	}
	ref := spec.Image.OCI.Reference
	detail, known := e.images[ref]
	if !known {
		d, err := images.InspectImage(ctx, ref)
		if k := sandbox.KindOf(err); err != nil && k != sandbox.ImageNotFound && k != sandbox.Unsupported {
			return nil, err
		}
		if err == nil {
			detail = &d
		}
		e.images[ref] = detail
	}
	if detail == nil || detail.Digest != spec.ManifestDigest {
		return nil, nil
	}
	return &detail.Config, nil
}

// recall takes what a sandbox does not record from the Sandboxfile that it was made from, if that still says what it is.
func (e *exporter) recall(i sandbox.Info, entry *sandboxfile.Sandbox, exported map[string]sandbox.Info) {
	file, name := i.Spec.Labels[FileLabel], i.Spec.Labels[NameLabel]
	if !e.opt.Files || file == "" || name == "" {
		return
	}
	p, known := e.projects[file]
	if !known {
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			if p, err = Open(file, i.Ref.Namespace); err == nil {
				p.Defaults = e.opt.Defaults
			}
		}
		e.projects[file] = p
	}
	if p == nil || p.Ref(name) != i.Ref {
		return
	}
	spec, err := p.Spec(name)
	if err != nil || cmp.Or(spec.Labels[HashLabel], "-") != i.Spec.Labels[HashLabel] {
		return
	}
	said := p.File.Sandboxes[name]
	entry.Healthcheck = said.Healthcheck
	for _, on := range said.DependsOn {
		if other := string(p.Ref(on).Name); exported[other].ID != "" {
			entry.DependsOn = append(entry.DependsOn, other)
		}
	}
}
