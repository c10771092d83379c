package main

import (
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/leakcheck"
	"github.com/microsandbox-go/microsandbox/internal/testimage"
)

// TestImages runs what needs images. Each script has a registry of its own, REG, with the images busybox and tool:1. It
// shares one that wants a password, PRIVATE, and one with a certificate that CAFILE has signed, TLS, with busybox in them.
func TestImages(t *testing.T) {
	needSandboxes(t)
	busybox := testimage.Busybox(t)
	cfg, err := busybox.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	tool, err := mutate.Config(busybox, v1.Config{
		Env:        append([]string{"GREETING=hello", "MSB_OWN=dropped"}, cfg.Config.Env...),
		Entrypoint: []string{"/bin/echo", "tool"},
		Cmd:        []string{"a", "default"},
		User:       "1000",
		WorkingDir: "/home/user",
		Labels:     map[string]string{"team": "tools", "service.name": "dropped"},
	})
	if err != nil {
		t.Fatal(err)
	}
	private := testimage.Serve(t, testimage.Options{Username: "user", Password: "secret", Bearer: true})
	private.Push(t, "busybox", busybox)
	secure := testimage.Serve(t, testimage.Options{TLS: true})
	secure.Push(t, "busybox", busybox)

	top := t.TempDir()
	leakcheck.Check(t, leakcheck.Home(top, "script-*"), leakcheck.Binaries(filepath.Dir(os.Getenv(config.RunnerVar))))
	testscript.Run(t, testscript.Params{Dir: "testdata/image", RequireExplicitExec: true, WorkdirRoot: top,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"usage": commands["usage"], "config": commands["config"], "exits": exits, "registry": registry},
		Setup: func(env *testscript.Env) error {
			if err := setup(env); err != nil {
				return err
			}
			for _, v := range []string{config.RunnerVar, config.AgentVar} {
				env.Setenv(v, os.Getenv(v))
			}
			s := &switched{}
			reg := testimage.Serve(t, testimage.Options{Wrap: s.wrap})
			reg.Push(t, "busybox", busybox)
			reg.Push(t, "tool:1", tool)
			env.Setenv("REG", reg.Host)
			env.Setenv("PRIVATE", private.Host)
			env.Setenv("SECRET", "secret")
			env.Setenv("TLS", secure.Host)
			env.Setenv("CAFILE", secure.CAFile)
			env.Values["registry"] = s
			home := env.Getenv(config.HomeVar)
			env.Defer(func() {
				nothingLeft(t, home)
				halfMade, _ := filepath.Glob(filepath.Join(home, "images", "tmp", "*"))
				temporary, _ := filepath.Glob(filepath.Join(home, "images", "*", ".tmp-*"))
				for _, path := range append(halfMade, temporary...) {
					t.Errorf("left behind: %s", path)
				}
			})
			return nil
		}})
}

// switched is a registry that can be made to break every connection.
type switched struct {
	down  atomic.Bool
	asked atomic.Bool // while it was down
}

func (s *switched) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.down.Load() {
			s.asked.Store(true)
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	})
}

// registry switches REG: registry down, registry up. registry unasked fails if somebody tried while it was down.
func registry(ts *testscript.TestScript, _ bool, args []string) {
	s := ts.Value("registry").(*switched)
	switch args[0] {
	case "down":
		s.down.Store(true)
	case "up":
		s.down.Store(false)
	case "unasked":
		if s.asked.Load() {
			ts.Fatalf("the registry was asked")
		}
	}
}
