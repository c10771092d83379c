package cli

import (
	"fmt"
	"sync"
	"time"
)

// spinner is a line on a terminal that says what is going on. It shows only what takes a while.
type spinner struct {
	stop chan struct{}
	done chan struct{}

	mu   sync.Mutex
	text string
}

// The times of a spinner.
const (
	spinnerDelay = 300 * time.Millisecond
	spinnerTick  = 100 * time.Millisecond
)

// spinFor shows text on stderr if that is a terminal, until settle. It costs nothing elsewhere.
func (a *app) spinFor(quiet bool, text string) {
	if quiet || !isTerminal(a.err) {
		return
	}
	a.settle()
	s := &spinner{stop: make(chan struct{}), done: make(chan struct{}), text: text}
	a.spin = s
	go s.run(a)
}

// say changes the text.
func (s *spinner) say(text string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.text = text
	s.mu.Unlock()
}

func (s *spinner) run(a *app) {
	defer close(s.done)
	st := styleOf(a.err)
	wait := time.NewTimer(spinnerDelay)
	defer wait.Stop()
	for n := 0; ; n++ {
		select {
		case <-s.stop:
			if n > 0 {
				fmt.Fprint(a.err, "\r\x1b[K")
			}
			return
		case <-wait.C:
		}
		s.mu.Lock()
		text := s.text
		s.mu.Unlock()
		frames := []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
		fmt.Fprintf(a.err, "\r\x1b[K   %s %s", st.green(string(frames[n%len(frames)])), oneLine(text))
		wait.Reset(spinnerTick)
	}
}

// settle takes the spinner away.
func (a *app) settle() {
	if a.spin == nil {
		return
	}
	close(a.spin.stop)
	<-a.spin.done
	a.spin = nil
}

// did prints that something was done to a sandbox (contract msb-0.6 §1.1).
func (a *app) did(quiet bool, verb, name string) {
	a.settle()
	if quiet {
		return
	}
	fmt.Fprintf(a.err, "   %s %-12s %s\n", styleOf(a.err).green("✓"), verb, name)
}
