package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usageError is a command line that msb does not understand; its exit code is 2.
type usageError struct{ message, hint string }

func (e *usageError) Error() string { return e.message }

func usageErrorf(hint, format string, args ...any) error {
	if strings.HasSuffix(hint, "--help") {
		hint = "see: " + hint
	}
	return &usageError{fmt.Sprintf(format, args...), hint}
}

// flagError says what is wrong with a flag in msb's words.
func flagError(c *cobra.Command, err error) error {
	help := c.CommandPath() + " --help"
	if want := positionals(c); len(want) > 0 && want[len(want)-1].command() {
		// In "msb run host python3 -x" the flag is the command's: there are more arguments before it than msb takes.
		if have := c.Flags().Args(); len(have) > len(want)-1 {
			return dashMissing(c, have[:len(want)-1], append(have[len(want)-1:len(have):len(have)], "…"), have[len(want)-1])
		}
	}
	var (
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		invalid *pflag.InvalidValueError
	)
	switch {
	case errors.As(err, &unknown):
		if letters := unknown.GetSpecifiedShortnames(); letters != "" {
			return usageErrorf(help, "%s has no flag -%s", c.CommandPath(), unknown.GetSpecifiedName())
		}
		name := unknown.GetSpecifiedName()
		return usageErrorf(suggestion(help, nearest(name, flagNames(c), "--")), "%s has no flag --%s", c.CommandPath(), clip(name))
	case errors.As(err, &missing):
		return usageErrorf(help, "--%s needs a value: --%s <%s>", missing.GetFlag().Name, missing.GetFlag().Name, flagValue(missing.GetFlag()))
	case errors.As(err, &invalid):
		return &usageError{fmt.Sprintf("invalid value for --%s: %v", invalid.GetFlag().Name, detail(invalid.Unwrap())), hintOf(invalid.Unwrap(), help)}
	}
	return usageErrorf(help, "%s", clip(err.Error()))
}

func flagNames(c *cobra.Command) []string {
	var names []string
	visit := func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	}
	c.Flags().VisitAll(visit)
	c.InheritedFlags().VisitAll(visit)
	return names
}

// nearest returns prefix and the name that word was probably meant to be, or "".
func nearest(word string, names []string, prefix string) string {
	best, found := max(len(word), 3)/3+1, ""
	for _, n := range names {
		if d := distance(word, n); d < best || strings.HasPrefix(n, word) && len(word) > 2 && found == "" {
			best, found = min(d, best), prefix+n
		}
	}
	return found
}

func suggestion(help, found string) string {
	if found == "" {
		return help
	}
	return "did you mean: " + found
}

// distance is how many letters have to be changed, added, left out or swapped with their neighbour to make b of a.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	before, last, this := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		this[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			this[j+1] = min(last[j+1]+1, this[j]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				this[j+1] = min(this[j+1], before[j-1]+1)
			}
		}
		before, last, this = last, this, before
	}
	return last[len(b)]
}
