package cli

import (
	"os"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/doctor"
)

// TestMain lets the doctor's probes run in this program, as in msb.
func TestMain(m *testing.M) {
	doctor.Child()
	os.Exit(m.Run())
}
