package cli

import (
	"fmt"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/console"
)

// live shows a text on the terminal that stdout is, and then another in its place.
type live struct {
	a          *app
	lines      int // that are shown
	rows, cols uint16
}

// draw shows lines, cut to the terminal: what is longer would scroll away from under the next text.
func (l *live) draw(text string) error {
	rows, cols := console.Size(l.a.out)
	out := home(l.lines) + "\x1b[J"
	if l.lines > 0 && (rows != l.rows || cols != l.cols) { // nobody knows where the lines went
		out = "\x1b[H\x1b[2J"
	}
	l.rows, l.cols = rows, cols
	all := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if most := int(rows) - 1; most > 1 && len(all) > most { // the cursor is on the last row
		all = append(all[:most-1:most-1], fmt.Sprintf("… and %d more", len(all)-most+1))
	}
	for i, line := range all {
		if r := []rune(line); cols > 1 && len(r) >= int(cols) {
			all[i] = string(r[:cols-2]) + "…"
		}
	}
	l.lines = len(all)
	_, err := l.a.out.WriteString(out + strings.Join(all, "\n") + "\n")
	return err
}
