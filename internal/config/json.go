package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// maxDepth is how deep arrays and objects may be nested: more than any setting needs, and little enough for a stack.
const maxDepth = 32

// value is a value of a JSON document that knows where it is. What is nil, bool, string, json.Number, []value or []member.
type value struct {
	at   int64 // offset of its first byte
	what any
}

// member is a key of an object with its value.
type member struct {
	key string
	at  int64 // offset of the key
	value
}

// document is a file of JSON being read. Its methods fail with the line and the column of what is wrong.
type document struct {
	path     string
	data     []byte
	warnings []string
}

// where is "path:line:column" of an offset; both count from 1, columns in characters.
func (d *document) where(at int64) string {
	before := d.data[:min(at, int64(len(d.data)))]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
	return fmt.Sprintf("%s:%d:%d", d.path, line, column)
}

func (d *document) fail(at int64, format string, args ...any) error {
	return &sandbox.Error{Op: "read config", Kind: sandbox.InvalidConfig, Message: d.where(at) + ": " + fmt.Sprintf(format, args...)}
}

func (d *document) warn(at int64, format string, args ...any) {
	d.warnings = append(d.warnings, d.where(at)+": "+fmt.Sprintf(format, args...))
}

// parse reads the whole document.
func (d *document) parse() (value, error) {
	dec := json.NewDecoder(bytes.NewReader(d.data))
	dec.UseNumber()
	v, err := d.value(dec, 0)
	if err != nil {
		return v, err
	}
	at := d.next(dec)
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return v, d.fail(at, "there is something after the end of the object")
	}
	return v, nil
}

// next is where the token begins that the decoder reads next.
func (d *document) next(dec *json.Decoder) int64 {
	at := dec.InputOffset()
	for at < int64(len(d.data)) && strings.IndexByte(" \t\r\n,:", d.data[at]) >= 0 {
		at++
	}
	return at
}

func (d *document) token(dec *json.Decoder) (json.Token, error) {
	at := d.next(dec)
	t, err := dec.Token()
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return nil, d.fail(max(syntax.Offset-1, at), "%v", err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, d.fail(int64(len(d.data)), "the file ends too early")
	case err != nil:
		return nil, d.fail(at, "%v", err)
	}
	return t, nil
}

func (d *document) value(dec *json.Decoder, depth int) (value, error) {
	v := value{at: d.next(dec)}
	t, err := d.token(dec)
	if err != nil {
		return v, err
	}
	if depth == maxDepth {
		return v, d.fail(v.at, "this is nested more than %d deep", maxDepth)
	}
	switch t {
	case json.Delim('['):
		all := []value{}
		for dec.More() {
			one, err := d.value(dec, depth+1)
			if err != nil {
				return v, err
			}
			all = append(all, one)
		}
		v.what = all
	case json.Delim('{'):
		all, seen := []member{}, map[string]bool{}
		for dec.More() {
			m := member{at: d.next(dec)}
			t, err := d.token(dec)
			if err != nil {
				return v, err
			}
			m.key = t.(string) // the decoder lets nothing else be a key
			if seen[m.key] {
				return v, d.fail(m.at, "%q is there twice", m.key)
			}
			seen[m.key] = true
			if m.value, err = d.value(dec, depth+1); err != nil {
				return v, err
			}
			all = append(all, m)
		}
		v.what = all
	default:
		v.what = t
		return v, nil
	}
	_, err = d.token(dec) // the closing bracket
	return v, err
}

// setting takes a value that has a name.
type setting func(d *document, v value, name string) error

// object takes an object with the keys that are in known, and warns of others.
func object(known map[string]setting) setting {
	return each(func(d *document, m member, name string) error {
		if set := known[m.key]; set != nil {
			return set(d, m.value, name)
		}
		d.warn(m.at, "%.100s is not a setting, and is ignored", name)
		return nil
	})
}

// unused takes what contract msb-0.6 §1.6 has and nothing here goes by, checks it, and warns.
func unused(set setting, why string) setting {
	return func(d *document, v value, name string) error {
		if err := set(d, v, name); err != nil {
			return err
		}
		d.warn(v.at, "%.100s changes nothing: %s", name, why)
		return nil
	}
}

// each takes an object with keys of any names.
func each(set func(d *document, m member, name string) error) setting {
	return func(d *document, v value, name string) error {
		all, ok := v.what.([]member)
		if !ok {
			return d.mismatch(v, name, "an object")
		}
		for _, m := range all {
			below := m.key
			if name != "" {
				below = name + "." + m.key
			}
			if err := set(d, m, below); err != nil {
				return err
			}
		}
		return nil
	}
}

// mismatch is the error of a value that has not the type it should have.
func (d *document) mismatch(v value, name, want string) error {
	have := "null"
	switch w := v.what.(type) {
	case bool:
		have = fmt.Sprint(w)
	case string:
		have = fmt.Sprintf("the string %.100q", w)
	case json.Number:
		have = "the number " + clip(w.String())
	case []value:
		have = "an array"
	case []member:
		have = "an object"
	}
	if name == "" {
		name = "the file"
	}
	return d.fail(v.at, "%s is %s and should be %s", name, have, want)
}

func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

func boolean(to *bool) setting {
	return func(d *document, v value, name string) error {
		b, ok := v.what.(bool)
		if !ok {
			return d.mismatch(v, name, "true or false")
		}
		*to = b
		return nil
	}
}

// text takes a string that is not empty.
func text(to *string) setting {
	return func(d *document, v value, name string) error {
		s, ok := v.what.(string)
		if !ok || s == "" {
			return d.mismatch(v, name, "a string with something in it")
		}
		*to = s
		return nil
	}
}

// texts takes an array of strings.
func texts(to *[]string) setting {
	return func(d *document, v value, name string) error {
		all, ok := v.what.([]value)
		if !ok {
			return d.mismatch(v, name, "an array of strings")
		}
		*to = nil
		for i, one := range all {
			var s string
			if err := text(&s)(d, one, fmt.Sprintf("%s[%d]", name, i)); err != nil {
				return err
			}
			*to = append(*to, s)
		}
		return nil
	}
}

// number takes a whole number from least on.
func number(to *int, least int) setting {
	return func(d *document, v value, name string) error {
		n, ok := v.what.(json.Number)
		i, err := n.Int64()
		if !ok || err != nil || i < int64(least) || i > 1<<53 {
			return d.mismatch(v, name, fmt.Sprintf("a whole number from %d on", least))
		}
		*to = int(i)
		return nil
	}
}

// word takes one of some strings.
func word(to *string, words ...string) setting {
	return func(d *document, v value, name string) error {
		s, ok := v.what.(string)
		if !ok || !slices.Contains(words, s) {
			return d.mismatch(v, name, "one of "+strings.Join(words, ", "))
		}
		*to = s
		return nil
	}
}

// seconds takes a whole number of seconds.
func seconds(to *time.Duration) setting {
	return func(d *document, v value, name string) error {
		var n int
		if err := number(&n, 0)(d, v, name); err != nil {
			return err
		}
		if n > maxSeconds {
			return d.mismatch(v, name, fmt.Sprintf("at most %d seconds", maxSeconds))
		}
		*to = time.Duration(n) * time.Second
		return nil
	}
}

// maxSeconds is the most that a setting may say, 100 years.
const maxSeconds = 100 * 366 * 86400

// size takes an amount of bytes as the command line has it: "512M" or "64G".
func size(to *int64) setting {
	return func(d *document, v value, name string) error {
		s, ok := v.what.(string)
		if !ok {
			return d.mismatch(v, name, `a size like "512M" or "64G"`)
		}
		mib, err := sandbox.ParseSize(s)
		if err != nil || mib <= 0 {
			return d.mismatch(v, name, `a size like "512M" or "64G"`)
		}
		*to = int64(mib) << 20
		return nil
	}
}
