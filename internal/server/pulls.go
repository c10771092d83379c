package server

import (
	"sync/atomic"

	"github.com/microsandbox-go/microsandbox/internal/backend"
)

// pulls counts the images that requests have got, and those that were not to be had.
type pulls struct{ done, failed atomic.Uint64 }

// Pulls is how many images were pulled for requests, and how many could not be.
func (s *Server) Pulls() (done, failed uint64) { return s.pulls.done.Load(), s.pulls.failed.Load() }

// Pulled is told how far a pull is.
func (s *Server) Pulled(e backend.PullEvent) {
	if e.Phase == backend.PullDone {
		s.pulls.done.Add(1)
	}
}

// Pulling is told what a start does, and tells next, which may be nil.
func (s *Server) Pulling(next func(backend.Event)) func(backend.Event) {
	return func(e backend.Event) {
		if e.Pull != nil {
			s.Pulled(*e.Pull)
		}
		if next != nil {
			next(e)
		}
	}
}
