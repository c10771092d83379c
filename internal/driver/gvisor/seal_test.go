package gvisor

import "testing"

func TestInEmptyRoot(t *testing.T) {
	const (
		root  = "65 86 0:43 / / ro,relatime - tmpfs runsc-root rw,uid=65534\n"
		proc  = "66 65 0:44 / /proc rw,nosuid - tmpfs runsc-proc rw\n67 66 0:45 / /proc/sandbox-proc ro - proc proc ro\n"
		host  = "30 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
		ready = root + proc
	)
	for name, c := range map[string]struct {
		mountinfo string
		want      bool
	}{
		"in it":                     {ready, true},
		"before":                    {host + proc, false},
		"writable":                  {"65 86 0:43 / / rw,relatime - tmpfs runsc-root rw\n" + proc, false},
		"the old one is above":      {ready + host, false},
		"the old one is below":      {host + ready, false},
		"another tmpfs":             {"65 86 0:43 / / ro - tmpfs tmpfs rw\n" + proc, false},
		"nothing can be read":       {"", false},
		"optional fields are there": {"65 86 0:43 / / ro,relatime master:1 - tmpfs runsc-root rw\n", true},
	} {
		if got := inEmptyRoot(c.mountinfo); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
