package image

import (
	"context"
	"os"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/testimage"
)

func BenchmarkHostWarm(b *testing.B) {
	home := b.TempDir()
	for b.Loop() {
		if _, err := Host(context.Background(), home); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAgentImageWarm(b *testing.B) {
	home := b.TempDir()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := AgentImage(home, exe); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkResolve(b *testing.B) {
	reg := testimage.Serve(b, testimage.Options{})
	ref := reg.Push(b, "layers", layered(b, 3))
	s := Open(b.TempDir(), Options{})
	mustPull(b, s, ref, PullOptions{})
	for b.Loop() {
		if _, err := s.Resolve(ref); err != nil {
			b.Fatal(err)
		}
	}
}
