package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/config"
)

// bare is a backend that can do no more than every backend can.
type bare struct{ backend.Backend }

// What the backend cannot do is said in the words of contract msb-0.6 §2.10, before anything is read or asked.
func TestUnsupportedByBackend(t *testing.T) {
	dir := t.TempDir()
	archive := filepath.Join(dir, "archive")
	if err := os.WriteFile(archive, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for command, op := range map[string]string{
		"pull x":                 "Image::pull",
		"image ls":               "Image::list",
		"images":                 "Image::list",
		"image inspect x":        "Image::inspect",
		"rmi x":                  "Image::remove",
		"image prune -y":         "Image::prune",
		"load -i " + archive:     "Image::load",
		"save x":                 "Image::save",
		"registry logout x":      "Registry::logout",
		"registries":             "Registry::list",
		"system df":              "System::df",
		"image ls --format json": "Image::list",
	} {
		out, err := os.Create(filepath.Join(dir, "out"))
		if err != nil {
			t.Fatal(err)
		}
		env := Env{Stdin: out, Stdout: out, Stderr: out, Backend: func(config.Settings, Use, func(string, ...string)) (backend.Backend, error) { return bare{}, nil }}
		code := Main(env, strings.Fields(command))
		said, err := os.ReadFile(out.Name())
		out.Close()
		want := "error: " + op + " is not supported by this backend: use a local backend\n"
		if err != nil || code != exitError || string(said) != want {
			t.Errorf("msb %s: exit code %d, %q, want %q", command, code, said, want)
		}
	}
}
