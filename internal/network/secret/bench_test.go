package secret

import (
	"bytes"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// BenchmarkWatch searches 1 MiB of what bodies are made of.
func BenchmarkWatch(b *testing.B) {
	random := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	plan := newSet(b, nil).For(Target{})
	for name, body := range map[string][]byte{
		"random":  random,
		"JSON":    []byte(strings.Repeat(`{"name":"some text","path":"C:\\dir\\file","n":12345},`+"\n", 1<<20/55)),
		"percent": []byte(strings.Repeat("a%20b%2Fc%3D", 1<<20/12)),
		"zeros":   make([]byte, 1<<20),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if _, err := io.Copy(io.Discard, struct{ io.Reader }{plan.Watch(bytes.NewReader(body), "it")}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkReplace is what a body costs in which something may be replaced.
func BenchmarkReplace(b *testing.B) {
	random := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	set := newSet(b, nil)
	b.SetBytes(int64(len(random)))
	for b.Loop() {
		if _, err := io.Copy(io.Discard, struct{ io.Reader }{newReplaceReader(bytes.NewReader(random), set.list)}); err != nil {
			b.Fatal(err)
		}
	}
}
