package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/leakcheck"
	"github.com/microsandbox-go/microsandbox/internal/testimage"
)

// TestPython runs a program in an image from Debian's own registry, as root and as an ordinary user.
func TestPython(t *testing.T) {
	needSandboxes(t)
	ref := testimage.ServeDebian(t).Push(t, "python", testimage.Python(t))
	dir := shared(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{self: "msb", os.Getenv(config.RunnerVar): config.Runner, os.Getenv(config.AgentVar): config.Agent} {
		copyFile(t, from, filepath.Join(dir, to))
	}
	for name, id := range map[string]int{"root": 0, "ordinary user": ordinaryID} {
		if id != os.Geteuid() && os.Geteuid() != 0 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			top := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			if err := os.Mkdir(top, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(top, id, id); err != nil {
				t.Fatal(err)
			}
			home := filepath.Join(top, "home")
			leakcheck.Check(t, leakcheck.Home(home, "images", "bin", "run/.lock"), leakcheck.Binaries(dir))
			msb := func(want string, args ...string) {
				t.Helper()
				var out, errs bytes.Buffer
				cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "msb"), args...)
				cmd.Dir, cmd.Stdout, cmd.Stderr = top, &out, &errs
				cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + top, config.HomeVar + "=" + home,
					config.RunnerVar + "=" + filepath.Join(dir, config.Runner), config.AgentVar + "=" + filepath.Join(dir, config.Agent)}
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(id), Gid: uint32(id), NoSetGroups: os.Geteuid() != 0}}
				if err := cmd.Run(); err != nil || strings.TrimSpace(out.String()) != want || errs.Len() > 0 {
					t.Errorf("msb %s: %v, printed %q, want %q; stderr %s", strings.Join(args, " "), err, out.String(), want, errs.String())
				}
			}
			const program = `import json, os, ssl, subprocess, sys
print(json.dumps([sys.version_info[0], os.getuid(), subprocess.run(["id", "-u"], capture_output=True, text=True).stdout.strip()]))`
			const want = `[3, 0, "0"]`
			msb(want, "run", "-q", ref, "--", "python3", "-c", program)
			msb(want, "run", ref, "--", "python3", "-c", program) // from the cache: nothing to say
			msb(strings.ReplaceAll(want, "0", "1000"), "run", "--pull", "never", "-u", "1000", ref, "--", "python3", "-c", program)
			msb("", "image", "prune", "-yq")
			msb("[]", "image", "ls", "--format", "json")
		})
	}
}
