package sandboxfile

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// TestRestartSaysTheExitCode runs the script with a command that fails once. It does not sleep.
func TestRestartSaysTheExitCode(t *testing.T) {
	once := `[ -e "$0" ] && exit 0; : > "$0"; exit 7`
	c := exec.Command("/bin/sh", "-c", "sleep() { :; }\n"+restartText, "sh", "/bin/sh", "-c", once, filepath.Join(t.TempDir(), "failed"))
	out, err := c.CombinedOutput()
	if err != nil || string(out) != "restart-on-failure: it failed with exit code 7: again in 1s\n" {
		t.Errorf("%v %q", err, out)
	}
}
