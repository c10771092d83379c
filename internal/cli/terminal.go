package cli

import (
	"bytes"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// terminal is stdin in raw mode, so that every key goes to the command.
type terminal struct {
	in    *os.File
	state *term.State
	once  sync.Once
}

// raw begins raw mode, if stdin is a terminal of ours.
func (t *terminal) raw() {
	if isTerminal(t.in) && foreground(t.in) {
		t.state, _ = term.MakeRaw(int(t.in.Fd())) // without it, it is a terminal with line editing
	}
}

// restore ends it. It may be called twice.
func (t *terminal) restore() {
	t.once.Do(func() {
		if t.state != nil {
			_ = term.Restore(int(t.in.Fd()), t.state)
		}
	})
}

// foreground reports whether this process may read from a terminal without being stopped.
func foreground(f *os.File) bool {
	group, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	return err != nil || group == unix.Getpgrp() // an error: it is not our session's terminal
}

// size is that of whichever of our streams is a terminal, else 24 rows of 80 columns (contract msb-0.6 §2.1).
func (a *app) size() (rows, cols uint16) {
	for _, f := range []*os.File{a.out, a.in, a.err} {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 && w <= 0xffff && h <= 0xffff {
			return uint16(h), uint16(w)
		}
	}
	return 24, 80
}

// detachReader reads keys and watches for those that leave the session. Keys that begin like them are held back until
// it is clear what they are.
type detachReader struct {
	in       io.Reader
	keys     []byte
	detached func()
	held     int // so many of keys were typed
	rest     []byte
}

func (r *detachReader) Read(p []byte) (int, error) {
	for {
		if len(r.rest) > 0 {
			n := copy(p, r.rest)
			r.rest = r.rest[n:]
			return n, nil
		}
		n, err := r.in.Read(p)
		out, left := r.scan(p[:n])
		if left {
			r.detached()
			return 0, io.EOF
		}
		n = copy(p, out)
		r.rest = out[n:]
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// scan returns what of typed goes to the command. left means that all the keys were typed.
func (r *detachReader) scan(typed []byte) (out []byte, left bool) {
	if len(r.keys) == 0 || r.held == 0 && bytes.IndexByte(typed, r.keys[0]) < 0 {
		return typed, false
	}
	out = make([]byte, 0, len(typed)+r.held)
	for _, c := range typed {
		for c != r.keys[r.held] && r.held > 0 {
			// Of what is held, the longest end that the keys begin with stays held.
			keep := r.held - 1
			for !bytes.Equal(r.keys[:keep], r.keys[r.held-keep:r.held]) {
				keep--
			}
			out = append(out, r.keys[:r.held-keep]...)
			r.held = keep
		}
		if c != r.keys[r.held] {
			out = append(out, c)
			continue
		}
		if r.held++; r.held == len(r.keys) {
			return out, true
		}
	}
	return out, false
}

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
