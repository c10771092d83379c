package local

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/image"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// root is what a sandbox starts from, with a lease that keeps it where it is until it is closed.
type root struct {
	*image.Root
	lease *os.File
}

func (r *root) launch() launch.Root {
	l := launch.Root{Image: r.Path}
	for _, bind := range r.Binds {
		l.Binds = append(l.Binds, launch.Bind{Source: bind.Source, Target: bind.Target})
	}
	return l
}

// root prepares what spec names as its image, gets it if the pull policy wants that, and merges its defaults into spec
// (contract msb-0.6 §2.1).
func (b *Backend) root(ctx context.Context, spec *sandbox.Spec, req backend.CreateRequest) (*root, error) {
	const tries = 3 // an image may be removed between its resolution and its lease
	for n := 1; ; n++ {
		img, err := b.resolve(ctx, spec, req)
		if err != nil {
			return nil, err
		}
		lease, err := img.Lease()
		if err == nil {
			merge(spec, img.Config)
			return &root{img, lease}, nil
		}
		if n == tries || !errors.Is(err, sandbox.ImageNotFound) {
			return nil, err
		}
	}
}

func (b *Backend) resolve(ctx context.Context, spec *sandbox.Spec, req backend.CreateRequest) (*image.Root, error) {
	i, progress := spec.Image, req.Progress
	if progress == nil {
		progress = func(backend.Event) {}
	}
	switch {
	case i.Bind == nil && (i.OCI == nil || i.OCI.Reference == ""):
		return nil, &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "no image", Hint: "name one, e.g.: msb run host -- COMMAND"}
	case i.Bind == nil && i.OCI.Reference == sandbox.HostImage:
		return image.Host(ctx, b.cfg.Home)
	}
	s := b.images()
	if i.Bind != nil {
		progress(backend.Event{Step: "image", Text: "Reading " + i.Bind.Path})
		path := i.Bind.Path
		if real, err := filepath.EvalSymlinks(path); err == nil && !req.Resolved { // else it is said when it is opened
			path = real
		}
		return s.DirRoot(ctx, path)
	}
	opt := image.PullOptions{Policy: image.IfMissing, Proven: req.Proven}
	switch spec.PullPolicy {
	case sandbox.PullAlways:
		opt.Policy = image.Always
	case sandbox.PullNever:
		opt.Policy = image.Never
	}
	if req.Pulled {
		opt.Policy = image.IfMissing
	}
	opt.Progress = func(p image.Progress) {
		e := pullEvent(p)
		progress(backend.Event{Step: "image", Pull: &e})
	}
	if a := req.Registry; a != nil {
		opt.Auth = &image.Auth{Username: a.Username, Password: image.Secret(a.Password)}
	} else {
		s.warnOfAuth(i.OCI.Reference, opt.Policy)
	}
	img, err := s.Pull(ctx, i.OCI.Reference, opt)
	if err != nil {
		return nil, err
	}
	spec.ManifestDigest = img.Digest
	return img, nil
}

// startup is the command that a detached sandbox runs by itself: the spec's, which its image has completed. What is no image of a
// registry has a shell for its command, which would end at once.
func startup(asked, merged sandbox.Spec) []string {
	ofRegistry := asked.Image.OCI != nil && asked.Image.OCI.Reference != sandbox.HostImage
	if !ofRegistry && len(asked.Runtime.Entrypoint)+len(asked.Runtime.Cmd) == 0 {
		return nil
	}
	command := append(append([]string{}, merged.Entrypoint()...), merged.Runtime.Cmd...)
	if asked.Lifecycle.OutlivesStartup && len(asked.Runtime.Entrypoint)+len(asked.Runtime.Cmd) == 0 && interactive(command) {
		return nil
	}
	return command
}

// interactive reports whether a command only waits for somebody to type, as those of language images and base images do: python3,
// node, bash.
func interactive(command []string) bool {
	if len(command) > 0 && path.Base(command[0]) == "docker-entrypoint.sh" { // of Node's image: it runs what follows
		command = command[1:]
	}
	if len(command) != 1 {
		return len(command) == 0
	}
	switch path.Base(command[0]) {
	case "sh", "bash", "dash", "ash", "zsh", "python", "python3", "node", "ruby", "irb", "php", "deno", "bun", "julia", "R", "ghci", "iex", "erl", "jshell", "perl", "lua":
		return true
	}
	return false
}

// users names the sandboxes that run from the image with this digest, or will again.
func (b *Backend) users(digest string) ([]string, error) {
	infos, err := b.List(context.Background(), "")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, i := range infos {
		if digest != "" && i.Spec.ManifestDigest == digest && !(i.Status.Terminal() && i.Spec.Lifecycle.Ephemeral) {
			names = append(names, i.Ref.String())
		}
	}
	return names, nil
}
