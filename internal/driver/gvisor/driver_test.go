package gvisor

import (
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/driver/drivertest"
)

// TestDriver runs the suite of all drivers.
func TestDriver(t *testing.T) {
	home := t.TempDir()
	k := newGuestKit(t, home)
	var binds []driver.Bind
	for _, b := range k.root.Binds {
		binds = append(binds, driver.Bind{Source: b.Source, Target: b.Target, ReadOnly: true})
	}
	drivertest.Run(t, Driver{}, drivertest.Options{RootImage: k.root.Path, Binds: binds, Agent: k.agent, Home: home, Keep: []string{"images", "bin", "msb-agent"}})
}
