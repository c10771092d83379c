package cli

import (
	"io"

	"github.com/microsandbox-go/microsandbox/internal/console"
)

// size is that of whichever of our streams is a terminal.
func (a *app) size() (rows, cols uint16) { return console.Size(a.out, a.in, a.err) }

// endOfInput is what a terminal makes an end of input of.
const endOfInput = 0x04

// ttyReader reads what is no terminal for a command that has one: the end becomes the key for it, twice in the middle of a
// line, where the first only ends the line.
type ttyReader struct {
	in    io.Reader
	last  byte
	ended bool
}

func (r *ttyReader) Read(p []byte) (int, error) {
	if r.ended {
		return 0, io.EOF
	}
	n, err := r.in.Read(p)
	if n > 0 {
		r.last = p[n-1]
		return n, nil // an error comes again
	}
	if err == nil {
		return 0, nil
	}
	r.ended = true
	n = copy(p, []byte{endOfInput})
	if r.last != 0 && r.last != '\n' {
		n += copy(p[n:], []byte{endOfInput})
	}
	return n, nil
}
