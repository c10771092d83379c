package cli

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// spinner is a line on a terminal that says what is going on, with more lines below it if need be. It shows only what
// takes a while.
type spinner struct {
	stop chan struct{}
	done chan struct{}

	drawing sync.Mutex // taken before mu, and before what below takes
	up      int        // lines from the cursor to the text

	mu    sync.Mutex
	text  string
	below func(rows, cols int) []string // at most so many lines, none longer; nil is none
}

// The times of a spinner.
const (
	spinnerDelay = 300 * time.Millisecond
	spinnerTick  = 100 * time.Millisecond
)

// spinFor shows text on stderr if that is a terminal that moves its cursor, until settle. It costs nothing elsewhere.
func (a *app) spinFor(quiet bool, text string) {
	if quiet || !isTerminal(a.err) || os.Getenv("TERM") == "dumb" {
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

// show has lines drawn below the text from now on; nil ends it.
func (s *spinner) show(below func(rows, cols int) []string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.below = below
	s.mu.Unlock()
}

func (s *spinner) run(a *app) {
	defer close(s.done)
	wait := time.NewTimer(spinnerDelay)
	defer wait.Stop()
	for n := 0; ; n++ {
		select {
		case <-s.stop:
			if n > 0 {
				s.erase(a)
			}
			return
		case <-wait.C:
		}
		s.draw(a, n)
		wait.Reset(spinnerTick)
	}
}

func (s *spinner) draw(a *app, n int) {
	s.drawing.Lock()
	defer s.drawing.Unlock()
	s.mu.Lock()
	text, below := s.text, s.below
	s.mu.Unlock()
	height, width := a.errSize()
	frames := []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
	var b strings.Builder
	fmt.Fprintf(&b, "%s\x1b[K   %s %s", home(s.up), styleOf(a.err).green(string(frames[n%len(frames)])), shorten(oneLine(text), max(width-6, 1)))
	s.up = 0
	if below != nil && height > 3 {
		for _, line := range below(height-2, width-1) {
			b.WriteString("\r\n\x1b[K" + line)
			s.up++
		}
	}
	b.WriteString("\x1b[J")
	_, _ = a.err.WriteString(b.String())
}

// erase leaves the cursor where the text was.
func (s *spinner) erase(a *app) {
	fmt.Fprint(a.err, home(s.up)+"\x1b[J")
	s.up = 0
}

// above prints what is to stay, above the spinner if there is one.
func (a *app) above(print func()) {
	if s := a.spin; s != nil {
		s.drawing.Lock()
		defer s.drawing.Unlock()
		s.erase(a)
	}
	print()
}

// home moves the cursor to the beginning of the line that is so many above it.
func home(up int) string {
	if up == 0 {
		return "\r"
	}
	return fmt.Sprintf("\r\x1b[%dA", up)
}

// errSize is the size of the terminal that stderr is.
func (a *app) errSize() (rows, cols int) {
	if w, h, err := term.GetSize(int(a.err.Fd())); err == nil && w > 0 && h > 0 {
		return h, w
	}
	return 24, 80
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

// did prints that something was done to a sandbox or an image (contract msb-0.6 §1.1).
func (a *app) did(quiet bool, verb, name string) {
	a.settle()
	if quiet {
		return
	}
	fmt.Fprintf(a.err, "   %s %-12s %s\n", styleOf(a.err).green("✓"), verb, oneLine(name))
}

// didNot prints that something was begun and has failed; the error follows.
func (a *app) didNot(quiet bool, verb, name string) {
	a.settle()
	if quiet {
		return
	}
	fmt.Fprintf(a.err, "   %s %-12s %s\n", styleOf(a.err).red("✗"), verb, oneLine(name))
}
