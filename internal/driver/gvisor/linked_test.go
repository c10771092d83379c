package gvisor

import "testing"

func TestLinkedDynamically(t *testing.T) {
	for path, want := range map[string]bool{"/bin/sh": true, "/proc/self/exe": false, "/etc/passwd": false} {
		if got := linkedDynamically(path); got != want {
			t.Errorf("linkedDynamically(%s) = %v", path, got)
		}
	}
}
