package backend

import "github.com/microsandbox-go/microsandbox/sandbox"

// Stamper is a backend that can say with little work that nothing has changed.
type Stamper interface {
	// Stamp returns a value that can be compared, and is another one whenever what is recorded of the sandbox is. It is nil where that
	// cannot be told.
	Stamp(ref sandbox.Ref) any
}
