package project

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/sandboxfile"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// BuildLabel is the label of an image with the hash of the build that it was made by.
const BuildLabel = sandboxfile.OwnLabels + "build"

// maxImage is the most that a build may make, in bytes.
const maxImage = 64 << 30

// BuildRef is the reference of the image that a build makes. Nothing is ever pulled for it.
func (p *Project) BuildRef(build string) string {
	return "localhost/" + imageWord(p.Name) + "/" + imageWord(build) + ":latest"
}

// imageWord makes a part of a reference of a name: separators stand alone between letters and digits.
func imageWord(s string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(s) {
		if 'a' <= c && c <= 'z' || '0' <= c && c <= '9' {
			b.WriteRune(c)
		} else if b.Len() > 0 && !strings.HasSuffix(b.String(), "-") {
			b.WriteByte('-')
		}
	}
	return cmp.Or(strings.Trim(b.String(), "-"), "x")
}

// buildHash is that of what a build says, and of what it is made upon in this file. above are those that are made upon it.
func (p *Project) buildHash(name string, build sandboxfile.Build, above []string) (string, error) {
	if slices.Contains(above, name) {
		return "", &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("%s: builds go in a circle: %s", p.Path, strings.Join(append(above, name), " → "))}
	}
	text, err := yaml.Marshal(build)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	sum.Write(text)
	for _, on := range p.buildOn(build) {
		other, ok := p.File.Builds[on]
		if !ok {
			return "", &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("%s: the build %q depends on %q, which is not there", p.Path, name, on)}
		}
		hash, err := p.buildHash(on, other, append(above, name))
		if err != nil {
			return "", err
		}
		io.WriteString(sum, "\n"+hash)
	}
	return hex.EncodeToString(sum.Sum(nil)[:8]), nil
}

// buildOn are the builds that have to be made before one.
func (p *Project) buildOn(build sandboxfile.Build) []string {
	on := slices.Clone(build.DependsOn)
	if _, ok := p.File.Builds[build.Image]; ok && !slices.Contains(on, build.Image) {
		on = append(on, build.Image)
	}
	return on
}

// BuildOrder returns the builds that are named, all if none are, each after what it is made upon.
func (p *Project) BuildOrder(names []string) ([]string, error) {
	if len(names) == 0 {
		for name := range p.File.Builds {
			names = append(names, name)
		}
		slices.Sort(names)
	}
	var order []string
	var visit func(name string) error
	visit = func(name string) error {
		if slices.Contains(order, name) {
			return nil
		}
		build, ok := p.File.Builds[name]
		if !ok {
			return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("%s has no build %q", p.Path, name)}
		}
		if _, err := p.buildHash(name, build, nil); err != nil { // no circle
			return err
		}
		for _, on := range p.buildOn(build) {
			if err := visit(on); err != nil {
				return err
			}
		}
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

// planBuilds are the steps for the images of those entries that are not there, or are of an older file.
func (p *Project) planBuilds(ctx context.Context, b backend.Backend, names []string) ([]Step, error) {
	var wanted []string
	for _, name := range names {
		if image := p.File.Sandboxes[name].Image; p.File.Builds[image].Image != "" {
			wanted = append(wanted, image)
		}
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	order, err := p.BuildOrder(wanted)
	if err != nil {
		return nil, err
	}
	var steps []Step
	for _, name := range order {
		built, err := p.built(ctx, b, name)
		if err != nil {
			return nil, err
		}
		if !built {
			steps = append(steps, Step{Action: Build, Name: name})
		}
	}
	return steps, nil
}

// built reports whether the image of a build is there as the file says it.
func (p *Project) built(ctx context.Context, b backend.Backend, name string) (bool, error) {
	images, ok := b.(backend.Images)
	if !ok {
		return false, &sandbox.Error{Kind: sandbox.Unsupported, Message: "builds are not supported by this backend: use a local backend"}
	}
	hash, err := p.buildHash(name, p.File.Builds[name], nil)
	if err != nil {
		return false, err
	}
	detail, err := images.InspectImage(ctx, p.BuildRef(name))
	if sandbox.KindOf(err) == sandbox.ImageNotFound {
		return false, nil
	}
	return err == nil && detail.Config.Labels[BuildLabel] == hash, err
}

// BuildOptions say how to build.
type BuildOptions struct {
	Force bool // also what is there already
	// Out gets what the steps print; nil keeps it for the error.
	Out io.Writer
}

// Build makes the image of one build, whose own have been made, and returns whether there was something to do.
func (p *Project) Build(ctx context.Context, b backend.Backend, name string, opt BuildOptions, report func(Event)) (bool, error) {
	build := p.File.Builds[name]
	if built, err := p.built(ctx, b, name); err != nil || built && !opt.Force {
		return false, err
	}
	fail := func(err error) (bool, error) {
		return true, fmt.Errorf("build %s: %w", name, err)
	}
	archives, ok := b.(backend.ImageArchives)
	if !ok {
		return fail(&sandbox.Error{Kind: sandbox.Unsupported, Message: "this backend cannot load images"})
	}
	spec, err := p.buildSpec(name, build)
	if err != nil {
		return fail(err)
	}
	ref := sandbox.Ref{Namespace: p.Namespace, Name: spec.Name}
	report(Event{Name: name, Text: "Building " + name})
	info, err := b.Create(ctx, backend.CreateRequest{Ref: ref, Spec: spec, Attached: true, Replace: true, Progress: func(e backend.Event) {
		if e.Text != "" {
			report(Event{Name: name, Text: e.Text})
		}
	}})
	if err != nil {
		return fail(err)
	}
	defer func() {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if rerr := b.Remove(after, ref, true); rerr != nil && sandbox.KindOf(rerr) != sandbox.NotFound {
			report(Event{Name: name, Err: fmt.Errorf("remove the sandbox of the build %s: %w", name, rerr)})
		}
	}()
	for i, step := range build.Steps {
		title := cmp.Or(step.Name, firstLine(step.Run))
		report(Event{Name: name, Text: fmt.Sprintf("Building %s: step %d of %d: %s", name, i+1, len(build.Steps), title)})
		var last tail
		out := io.Writer(&last)
		if opt.Out != nil {
			out = io.MultiWriter(&last, opt.Out)
		}
		code, err := run(ctx, b, info, command{argv: []string{cmp.Or(build.Shell, sandbox.DefaultShell), "-c", step.Run}, user: "0", out: out, err: out})
		if err == nil && code != 0 {
			err = &sandbox.Error{Op: "build", Kind: sandbox.ExecFailed, Message: fmt.Sprintf("step %d (%s) ended with exit code %d", i+1, title, code), Hint: strings.TrimSpace(string(last))}
		}
		if err != nil {
			return fail(err)
		}
	}
	report(Event{Name: name, Text: "Building " + name + ": keeping it"})
	if err := p.commit(ctx, b, archives, name, build, info); err != nil {
		return fail(err)
	}
	return true, nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	if r := []rune(line); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return line
}

// buildSpec is the sandbox that a build is made in.
func (p *Project) buildSpec(name string, build sandboxfile.Build) (sandbox.Spec, error) {
	entry := sandboxfile.Sandbox{Image: build.Image, Memory: build.Memory, CPUs: build.CPUs, Volumes: build.Volumes, Envs: build.Envs, Workdir: build.Workdir,
		Shell: build.Shell, Network: build.Network, RootDisk: build.RootDisk}
	spec, err := entry.Spec(p.Name+"-build-"+name, p.rules())
	if err != nil {
		return spec, err
	}
	if i := spec.Image.OCI; i != nil && i.Reference == sandbox.HostImage { // all of this machine's /usr would be in it
		return spec, &sandbox.Error{Kind: sandbox.InvalidConfig, Message: p.Path + ": nothing is built upon the image host: it is this machine's own /usr", Hint: "name an image of a registry, or a directory"}
	}
	spec.Patches = nil // they would be in the image
	if _, ok := p.File.Builds[build.Image]; ok && spec.Image.OCI != nil {
		spec.Image.OCI.Reference, spec.PullPolicy = p.BuildRef(build.Image), sandbox.PullNever
	}
	spec.Runtime.User = "0"
	spec.Labels = map[string]string{FileLabel: p.Path}
	if p.Defaults != nil {
		p.Defaults(&spec)
	}
	return spec, spec.WithDefaults().Validate()
}

// imageConfig is the part of an OCI image's configuration that a build says something about.
type imageConfig struct {
	User         string              `json:"User,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Env          []string            `json:"Env,omitempty"`
	Entrypoint   []string            `json:"Entrypoint,omitempty"`
	Cmd          []string            `json:"Cmd,omitempty"`
	WorkingDir   string              `json:"WorkingDir,omitempty"`
	Labels       map[string]string   `json:"Labels,omitempty"`
}

// config is that of the image that a build makes: what it is made upon, and what the build says.
func (p *Project) config(ctx context.Context, b backend.Backend, name string, build sandboxfile.Build, info sandbox.Info) (imageConfig, error) {
	var c imageConfig
	if i := info.Spec.Image; i.OCI != nil && i.OCI.Reference != sandbox.HostImage {
		images, ok := b.(backend.Images)
		if !ok {
			return c, &sandbox.Error{Kind: sandbox.Unsupported, Message: "this backend has no images"}
		}
		base, err := images.InspectImage(ctx, i.OCI.Reference)
		if err != nil {
			return c, err
		}
		o := base.Config
		c = imageConfig{User: o.User, Env: o.Env, Entrypoint: o.Entrypoint, Cmd: o.Cmd, WorkingDir: o.WorkingDir, Labels: o.Labels}
	}
	for _, kv := range build.Envs {
		k, _, _ := strings.Cut(kv, "=")
		c.Env = append(slices.DeleteFunc(slices.Clone(c.Env), func(have string) bool { return strings.HasPrefix(have, k+"=") }), kv)
	}
	if len(build.Command) > 0 {
		c.Entrypoint, c.Cmd = nil, build.Command
	}
	c.WorkingDir = cmp.Or(build.Workdir, c.WorkingDir)
	c.User = cmp.Or(build.User, c.User)
	for _, port := range build.Ports {
		guest := port[strings.LastIndexByte(port, ':')+1:]
		if _, err := strconv.ParseUint(guest, 10, 16); err != nil {
			return c, &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "invalid port pair: " + port}
		}
		if c.ExposedPorts == nil {
			c.ExposedPorts = map[string]struct{}{}
		}
		c.ExposedPorts[guest+"/tcp"] = struct{}{}
	}
	labels := map[string]string{}
	for k, v := range c.Labels {
		labels[k] = v
	}
	hash, err := p.buildHash(name, build, nil)
	labels[BuildLabel] = hash
	c.Labels = labels
	return c, err
}

// left are the paths whose contents are each sandbox's own.
var left = []string{"/proc", "/sys", "/dev", "/.msb", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}

// commit makes an image of what a sandbox has now.
func (p *Project) commit(ctx context.Context, b backend.Backend, archives backend.ImageArchives, name string, build sandboxfile.Build, info sandbox.Info) error {
	config, err := p.config(ctx, b, name, build, info)
	if err != nil {
		return err
	}
	layer, err := os.CreateTemp("", "msb-build-*")
	if err != nil {
		return &sandbox.Error{Kind: sandbox.IO, Message: "keep the image", Err: err}
	}
	defer layer.Close()
	if err := os.Remove(layer.Name()); err != nil {
		return &sandbox.Error{Kind: sandbox.IO, Message: "keep the image", Err: err}
	}
	skip := slices.Clone(left)
	for _, m := range info.Effective().Mounts {
		skip = append(skip, m.Guest)
	}
	sum := sha256.New()
	sized := &bounded{to: io.MultiWriter(layer, sum), left: maxImage}
	var errs tail
	code, err := run(ctx, b, info, command{argv: append([]string{"/.msb/agent", "archive", "/"}, skip...), user: "0", cwd: "/", out: sized, err: &errs})
	if err == nil && code != 0 {
		err = &sandbox.Error{Kind: sandbox.IO, Message: "read the sandbox's files: " + strings.TrimSpace(string(errs))}
	}
	if err != nil {
		return err
	}
	size := maxImage - sized.left
	configText, err := json.Marshal(map[string]any{"architecture": runtime.GOARCH, "os": "linux", "created": time.Now().UTC(), "config": config,
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum.Sum(nil))}},
		"history": []map[string]any{{"created": time.Now().UTC(), "created_by": "msb build " + name}}})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{p.BuildRef(name)}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return &sandbox.Error{Kind: sandbox.IO, Message: "keep the image", Err: err}
	}
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		t := tar.NewWriter(w)
		err := errors.Join(entry(t, "manifest.json", int64(len(manifest)), strings.NewReader(string(manifest))),
			entry(t, "config.json", int64(len(configText)), strings.NewReader(string(configText))), entry(t, "layer.tar", size, layer), t.Close())
		w.CloseWithError(err)
		done <- err
	}()
	_, err = archives.LoadImages(ctx, r, "", nil)
	r.CloseWithError(errors.New("it was read"))
	if werr := <-done; err == nil {
		err = werr
	}
	return err
}

func entry(t *tar.Writer, name string, size int64, from io.Reader) error {
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	_, err := io.Copy(t, from)
	return err
}

// bounded writes no more than what is left.
type bounded struct {
	to   io.Writer
	left int64
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, &sandbox.Error{Kind: sandbox.IO, Message: fmt.Sprintf("the image would be larger than %d GiB", int64(maxImage)>>30)}
	}
	return b.to.Write(p)
}
