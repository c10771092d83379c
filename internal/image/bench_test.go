package image

import (
	"context"
	"os"
	"testing"
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
