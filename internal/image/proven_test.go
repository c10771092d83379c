package image

import (
	"context"
	"errors"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/testimage"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// TestProven has an image that one pull's credentials got asked for by others.
func TestProven(t *testing.T) {
	noDocker(t)
	reg := testimage.Serve(t, testimage.Options{Username: "me", Password: "secret-word", Bearer: true})
	ref := reg.Push(t, "private/x", layered(t, 1))
	right, wrong := &Auth{"me", "secret-word"}, &Auth{"me", "other-word"}
	home := t.TempDir()
	pull := func(cfg Options, o PullOptions) error {
		cfg.Backoff = quick().Backoff
		_, err := Open(home, cfg).Pull(context.Background(), ref, o)
		return err
	}
	refused := func(what string, want error, o PullOptions) {
		t.Helper()
		o.Proven = true
		if err := pull(Options{}, o); !errors.Is(err, want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := pull(Options{}, PullOptions{Auth: right, Proven: true}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // that somebody showed credentials again does not open it
		refused("without credentials", sandbox.ImagePullFailed, PullOptions{})
		refused("with wrong ones", sandbox.ImagePullFailed, PullOptions{Auth: wrong})
		refused("never", sandbox.ImageNotFound, PullOptions{Policy: Never, Auth: right})
		if err := pull(Options{}, PullOptions{Auth: right, Proven: true}); err != nil {
			t.Errorf("with the right ones: %v", err)
		}
	}
	if err := pull(Options{}, PullOptions{Policy: Never}); err != nil { // the machine's own user
		t.Errorf("who need not prove it: %v", err)
	}
	// The Store's own credentials are everybody's.
	if err := pull(Options{Registries: map[string]Registry{reg.Host: {Auth: right}}}, PullOptions{Proven: true}); err != nil {
		t.Errorf("the Store's own: %v", err)
	}
	for _, o := range []PullOptions{{}, {Policy: Never}} {
		o.Proven = true
		if err := pull(Options{}, o); err != nil {
			t.Errorf("what the Store's own got: %v", err)
		}
	}
	if err := pull(Options{}, PullOptions{Policy: Always, Auth: right}); err != nil {
		t.Fatal(err)
	}
	if err := pull(Options{}, PullOptions{Policy: Never, Proven: true}); err != nil {
		t.Errorf("what was everybody's, after another pull with credentials: %v", err)
	}
}
