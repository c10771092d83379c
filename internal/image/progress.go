package image

import (
	"sync"
	"time"
)

// Phase is what a pull is doing.
type Phase string

// The phases of a pull, in the order in which they come. Layers go through theirs independently of each other.
const (
	Waiting     Phase = "waiting"     // for another process that makes the same image
	Resolved    Phase = "resolved"    // the manifest is known: Digest is its
	Downloading Phase = "downloading" // and unpacking as it comes: Done of Total bytes
	Cached      Phase = "cached"      // the layer was there
	Unpacking   Phase = "unpacking"   // a layer that was there: Done of Total bytes, as they are packed
	Downloaded  Phase = "downloaded"  // and verified
	Unpacked    Phase = "unpacked"    // and verified
	Writing     Phase = "writing"     // the file system, when all layers are there
	Done        Phase = "done"        // Digest is the image's, Total the bytes of its layers
)

// Progress is one report of how far a pull is.
type Progress struct {
	Ref    string // as Reference.Short says
	Phase  Phase
	Layer  int // 0 is the lowest
	Layers int // how many there are
	Digest string
	Done   int64 // compressed bytes
	Total  int64
}

// reporter calls the user's function from one goroutine at a time, and not too often.
type reporter struct {
	ref  string
	call func(Progress)

	mu   sync.Mutex
	last map[int]time.Time // by layer
}

const reportEvery = 50 * time.Millisecond

func newReporter(ref string, call func(Progress)) *reporter {
	return &reporter{ref: ref, call: call, last: map[int]time.Time{}}
}

func (r *reporter) report(p Progress) {
	if r.call == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.Phase == Downloading || p.Phase == Unpacking {
		if p.Done < p.Total && time.Since(r.last[p.Layer]) < reportEvery {
			return
		}
		r.last[p.Layer] = time.Now()
	}
	p.Ref = r.ref
	r.call(p)
}
