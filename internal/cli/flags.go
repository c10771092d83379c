package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// flags declares a command's flags, in the order in which help and tree show them.
type flags struct {
	set     *pflag.FlagSet
	heading string
	refused *[]error // why flags that were given cannot be honoured
}

func flagsOf(c *cobra.Command, persistent bool) *flags {
	f := &flags{set: c.Flags(), refused: new([]error)}
	if persistent {
		f.set = c.PersistentFlags()
	}
	f.set.SortFlags = false
	return f
}

// group puts the flags that follow under a heading of the help.
func (f *flags) group(heading string) { f.heading = heading }

// setter is a flag's value: a function that is called with each one that is given.
type setter struct {
	set    func(string) error
	toggle bool
}

func (s *setter) Set(v string) error { return s.set(v) }
func (s *setter) String() string     { return "" }
func (s *setter) Type() string       { return "" }

// IsBoolFlag is how pflag knows a flag without a value.
func (s *setter) IsBoolFlag() bool { return s.toggle }

func (f *flags) add(short, name, value, help string, s *setter) {
	flag := f.set.VarPF(s, name, short, help)
	flag.Annotations = map[string][]string{"value": {value}, "group": {f.heading}}
	if s.toggle {
		flag.NoOptDefVal = "true"
	}
}

// value declares a flag that may be given several times where set allows it.
func (f *flags) value(short, name, value, help string, set func(string) error) {
	f.add(short, name, value, help, &setter{set: set})
}

// toggle declares a flag without a value.
func (f *flags) toggle(short, name, help string, on *bool) {
	f.add(short, name, "", help, &setter{toggle: true, set: func(v string) (err error) {
		*on, err = strconv.ParseBool(v)
		if err != nil {
			err = fmt.Errorf("want true or false")
		}
		return err
	}})
}

// toggleFunc declares a flag without a value that does something at once.
func (f *flags) toggleFunc(short, name, help string, do func()) {
	f.add(short, name, "", help, &setter{toggle: true, set: func(string) error { do(); return nil }})
}

// notYet declares a flag of the contract that is not there yet. Giving it is an error of its own (see refusal), never silence.
func (f *flags) notYet(short, name, value, help string) {
	f.refuse(short, name, value, help, "not supported yet: "+strings.ToLower(help[:1])+help[1:], "leave it out")
}

// refuse declares a flag of the contract that nothing here can honour, but for those values, if any, that ask for what is the
// case anyway. why follows "--name is".
func (f *flags) refuse(short, name, value, help, why, hint string, fine ...string) {
	f.add(short, name, value, help, &setter{toggle: value == "", set: func(v string) error {
		if !slices.Contains(fine, v) {
			f.refuseGiven(name, why, hint)
		}
		return nil
	}})
	f.set.Lookup(name).Annotations["later"] = nil
}

// refuseGiven notes that a flag was given that cannot be honoured. Usage errors come first.
func (f *flags) refuseGiven(name, why, hint string) {
	*f.refused = append(*f.refused, &sandbox.Error{Kind: sandbox.Unsupported, Message: "--" + name + " is " + why, Hint: hint})
}

func (f *flags) hide(name string) { f.set.Lookup(name).Hidden = true }

// refusal is the error of having given a flag that cannot be honoured.
func (f *flags) refusal() error {
	if len(*f.refused) == 0 {
		return nil
	}
	return (*f.refused)[0]
}

// The functions below are the usual values of flags.

func setString(to *string) func(string) error {
	return func(v string) error { *to = v; return nil }
}

// words declares a flag whose value is one of some words, which the shell completes.
func (f *flags) words(short, name, value, help string, to *string, words ...string) {
	f.value(short, name, value, help, setWord(to, words...))
	f.suggest(name, words...)
}

// suggest has the shell complete the values of a flag.
func (f *flags) suggest(name string, words ...string) {
	f.set.Lookup(name).Annotations["words"] = words
}

func setWord(to *string, words ...string) func(string) error {
	return func(v string) error {
		for _, w := range words {
			if v == w {
				*to = v
				return nil
			}
		}
		return fmt.Errorf("%q is not one of %s", clip(v), strings.Join(words, ", "))
	}
}

func setInt(to *int, least, most int) func(string) error {
	return func(v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most {
			return fmt.Errorf("%q is not a number from %d to %d", clip(v), least, most)
		}
		*to = n
		return nil
	}
}

func setParsed[T any](to *T, parse func(string) (T, error)) func(string) error {
	return func(v string) (err error) {
		*to, err = parse(v)
		return err
	}
}

func setAppend[T any](to *[]T, parse func(string) (T, error)) func(string) error {
	return func(v string) error {
		one, err := parse(v)
		if err == nil {
			*to = append(*to, one)
		}
		return err
	}
}

func verbatim(s string) (string, error) { return s, nil }

// setDuration wants more than no time at all.
func setDuration(to *time.Duration) func(string) error {
	return func(v string) error {
		d, err := sandbox.ParseDuration(v)
		if err == nil && d == 0 {
			return fmt.Errorf("%q is no time at all", v)
		}
		*to = d
		return err
	}
}

func setLabel(to *map[string]string) func(string) error {
	return func(v string) error {
		key, value, err := sandbox.ParseLabel(v)
		if err != nil {
			return err
		}
		if *to == nil {
			*to = map[string]string{}
		}
		(*to)[key] = value
		return nil
	}
}

// The flags that several commands have.

func (f *flags) quiet(to *bool) { f.toggle("q", "quiet", "Print no progress", to) }

func (f *flags) format(to *string) {
	f.words("", "format", "FORMAT", "Print as json", to, "json")
}

func (f *flags) labels(to *map[string]string, help string) {
	f.value("", "label", "KEY[=VALUE]", help+"; several are all needed", setLabel(to))
}
