package microsandbox_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The programs of examples/ print what they are to print.
func TestExamples(t *testing.T) {
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("they are built once, as root")
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", "./examples/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, want := range map[string]string{
		"basic":      "6 times 7 is 42\n0\nexit code 3 error <nil>\n",
		"streaming":  "stdout hello you\nexited 5\nsorted 8\nsorted 9\nsorted 10\n",
		"filesystem": "\"1\\n2\\n\"\n. true\nin true\nin/data.csv false\nout.txt false\n",
		"worker":     "SOME TEXT\nExecTimeout\n",
		"detached":   "example-detached running\nnote\n",
		"volumes":    "hello\nfrom the first\n",
		"network":    "a name that is not allowed is found: false\n",
		"secrets":    "the guest has $MSB_API_KEY\n",
		"webservice": "served /hello <nil>\n",
		"errors":     "sandbox not found: example-nothing true\ntrue true\ntrue\nexit status 2\n",
		"embedded":   "one program\n",
	} {
		t.Run(name, func(t *testing.T) {
			h := home(t)
			cmd := exec.CommandContext(ctxOf(t), filepath.Join(dir, name))
			cmd.Env = append(os.Environ(), "MSB_HOME="+h)
			if name == "embedded" { // it must not find a runner
				cmd.Env = append(cmd.Env, "MSB_RUNNER=")
			}
			var errs strings.Builder
			cmd.Stderr = &errs
			out, err := cmd.Output()
			if err != nil || string(out) != want {
				t.Errorf("%v\n%s%s\nwant\n%s", err, out, errs.String(), want)
			}
			_ = os.RemoveAll(filepath.Join(h, "tls"))
		})
	}
}
