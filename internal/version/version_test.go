package version

import (
	"os"
	"strings"
	"testing"
)

// GVisor is spelled DATE-REVISION, go.mod v0.0.0-DATETIME-REVISION.
func TestGVisorIsThatOfGoMod(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	date, revision, _ := strings.Cut(GVisor, "-")
	for line := range strings.Lines(string(mod)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "gvisor.dev/gvisor "); ok {
			if !strings.Contains(v, "-"+date) || !strings.Contains(v, "-"+revision) {
				t.Errorf("GVisor is %s, go.mod has %s", GVisor, v)
			}
			return
		}
	}
	t.Error("go.mod has no gvisor.dev/gvisor")
}
