// Package cleanup gives back what a function took when the function fails halfway.
// Each step that takes something adds how to give it back; Clean does so, last taken first;
// Release, on success, forgets it or hands it on.
//
//	undo := cleanup.Make()
//	defer undo.Clean()
//	f, err := os.Create(path)
//	...
//	undo.Add(f.Close)
//	...
//	undo.Release()
//	return f, nil
package cleanup

// Stack holds the steps that are still to be undone. It is for one goroutine.
type Stack struct {
	// Failed, when set, is told of each step that could not be undone; the others are undone all the same.
	Failed func(error)

	steps []func() error
}

// Make returns an empty Stack.
func Make() Stack { return Stack{} }

// Add registers a step. The step added last is undone first.
func (s *Stack) Add(step func() error) { s.steps = append(s.steps, step) }

// AddFunc registers a step that cannot fail.
func (s *Stack) AddFunc(step func()) { s.Add(func() error { step(); return nil }) }

// Clean undoes every step that is left. It may be called again: a step is undone once.
func (s *Stack) Clean() {
	for len(s.steps) > 0 {
		last := len(s.steps) - 1
		step := s.steps[last]
		s.steps = s.steps[:last] // before the call, so that a panic in it does not repeat it
		if err := step(); err != nil && s.Failed != nil {
			s.Failed(err)
		}
	}
}

// Release empties the stack, so that Clean does nothing, and returns what would have been undone:
// an owner that outlives the function may keep it and call Clean on it when its own life ends.
func (s *Stack) Release() *Stack {
	rest := &Stack{Failed: s.Failed, steps: s.steps}
	s.steps = nil
	return rest
}
