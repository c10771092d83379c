package local

import "sync/atomic"

// steps is told of each step of a create, start, stop or remove that leaves something to mend when msb is killed there.
var steps atomic.Pointer[func(step string)]

// OnStep has f called at each such step. It is for tests that kill.
func OnStep(f func(step string)) { steps.Store(&f) }

func point(step string) {
	if f := steps.Load(); f != nil {
		(*f)(step)
	}
}
