package cli

import (
	"errors"
	"os"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/config"
)

// BenchmarkDispatch is what comes before a command's first call of the backend: building the commands, reading the
// command line, checking the spec.
func BenchmarkDispatch(b *testing.B) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	enough := errors.New("enough")
	env := Env{Stdin: null, Stdout: null, Stderr: null, Backend: func(config.Settings, Use, func(string, ...string)) (backend.Backend, error) { return nil, enough }}
	for b.Loop() {
		if code := Main(env, []string{"run", "-m", "256M", "-e", "A=1", "host", "--", "true"}); code != exitError {
			b.Fatal(code)
		}
	}
}
