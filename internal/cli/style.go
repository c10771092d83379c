package cli

import (
	"os"

	"golang.org/x/term"
)

// style colours text for a terminal. The zero value leaves it as it is.
type style struct{ on bool }

// styleOf is the style for a stream: colours only on a terminal and when NO_COLOR is unset (contract msb-0.6 §1.1).
func styleOf(f *os.File) style {
	return style{on: os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(f)}
}

func (s style) wrap(code, text string) string {
	if !s.on {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) bold(text string) string   { return s.wrap("1", text) }
func (s style) dim(text string) string    { return s.wrap("2", text) }
func (s style) red(text string) string    { return s.wrap("1;31", text) }
func (s style) green(text string) string  { return s.wrap("32", text) }
func (s style) yellow(text string) string { return s.wrap("33", text) }

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
