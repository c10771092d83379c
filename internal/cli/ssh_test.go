package cli

import (
	"errors"
	"testing"
	"time"
)

func TestInactivityFlags(t *testing.T) {
	const configured = 10 * time.Minute
	for _, c := range []struct {
		flags inactivityFlags
		want  time.Duration
	}{{inactivityFlags{}, configured}, {inactivityFlags{never: true}, 0}, {inactivityFlags{given: true, after: time.Minute}, time.Minute}, {inactivityFlags{given: true}, 0}} {
		if got, err := c.flags.timeout(configured); got != c.want || err != nil {
			t.Errorf("%+v: %v, %v; want %v", c.flags, got, err, c.want)
		}
	}
	var usage *usageError
	if _, err := (&inactivityFlags{never: true, given: true}).timeout(configured); !errors.As(err, &usage) {
		t.Errorf("both flags: %v", err)
	}
}
