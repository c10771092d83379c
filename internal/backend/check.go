package backend

import "context"

// Checker is a backend that can look through what it keeps.
type Checker interface {
	// Check looks for what does not fit together, and with fix mends it where nothing that anybody made is lost by that.
	Check(ctx context.Context, fix bool) ([]Finding, error)
}

// Finding is something that does not fit together.
type Finding struct {
	Area    string // "records", "sandboxes", "runs", "volumes", "images"
	Subject string // name, or path
	Problem string
	Action  string // what mends it, or what was done
	Fixed   bool
	// Loss is set where only the user can decide, because something that he made would go.
	Loss bool
}
