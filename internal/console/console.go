// Package console is the terminal of this process while a command of a sandbox has it: raw mode, its size, the keys that leave
// the session, and reading from it until somebody else wants to.
package console

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Terminal is a terminal in raw mode, so that every key goes to the command. The zero value with In is one that is not.
type Terminal struct {
	In    *os.File
	state *term.State
	once  sync.Once
}

// Raw begins raw mode, if In is a terminal of ours.
func (t *Terminal) Raw() {
	if term.IsTerminal(int(t.In.Fd())) && Foreground(t.In) {
		t.state, _ = term.MakeRaw(int(t.In.Fd())) // without it, it is a terminal with line editing
	}
}

// Restore ends it. It may be called twice.
func (t *Terminal) Restore() {
	t.once.Do(func() {
		if t.state != nil {
			_ = term.Restore(int(t.In.Fd()), t.state)
		}
	})
}

// Foreground reports whether this process may read from a terminal without being stopped.
func Foreground(f *os.File) bool {
	group, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	return err != nil || group == unix.Getpgrp() // an error: it is not our session's terminal
}

// Size is that of whichever of the files is a terminal, else 24 rows of 80 columns (contract msb-0.6 §2.1).
func Size(files ...*os.File) (rows, cols uint16) {
	for _, f := range files {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 && w <= 0xffff && h <= 0xffff {
			return uint16(h), uint16(w)
		}
	}
	return 24, 80
}

// Input reads a file until Close, which a read that is under way does not outlive: no key is taken that is meant for whoever
// reads next.
type Input struct {
	f    *os.File
	r, w *os.File
	once sync.Once
}

// NewInput returns one for f, which stays open.
func NewInput(f *os.File) (*Input, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &Input{f: f, r: r, w: w}, nil
}

// Read reads what there is, and io.EOF after Close.
func (i *Input) Read(p []byte) (int, error) {
	fds := []unix.PollFd{{Fd: int32(i.f.Fd()), Events: unix.POLLIN}, {Fd: int32(i.r.Fd()), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, err
		case fds[1].Revents != 0:
			_ = i.r.Close()
			return 0, io.EOF
		}
		return i.f.Read(p)
	}
}

// Close ends the reading. It may be called twice.
func (i *Input) Close() error {
	i.once.Do(func() { i.w.Close() })
	return nil
}

// DetachReader reads keys and watches for those that leave the session. Keys that begin like them are held back until
// it is clear what they are.
type DetachReader struct {
	In       io.Reader
	Keys     []byte
	Detached func()

	held int // so many of Keys were typed
	rest []byte
}

// Read returns what goes to the command, and io.EOF when the keys were typed.
func (r *DetachReader) Read(p []byte) (int, error) {
	for {
		if len(r.rest) > 0 {
			n := copy(p, r.rest)
			r.rest = r.rest[n:]
			return n, nil
		}
		n, err := r.In.Read(p)
		out, left := r.scan(p[:n])
		if left {
			r.Detached()
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
func (r *DetachReader) scan(typed []byte) (out []byte, left bool) {
	if len(r.Keys) == 0 || r.held == 0 && bytes.IndexByte(typed, r.Keys[0]) < 0 {
		return typed, false
	}
	out = make([]byte, 0, len(typed)+r.held)
	for _, c := range typed {
		for c != r.Keys[r.held] && r.held > 0 {
			// Of what is held, the longest end that the keys begin with stays held.
			keep := r.held - 1
			for !bytes.Equal(r.Keys[:keep], r.Keys[r.held-keep:r.held]) {
				keep--
			}
			out = append(out, r.Keys[:r.held-keep]...)
			r.held = keep
		}
		if c != r.Keys[r.held] {
			out = append(out, c)
			continue
		}
		if r.held++; r.held == len(r.Keys) {
			return out, true
		}
	}
	return out, false
}
