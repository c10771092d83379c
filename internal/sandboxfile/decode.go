package sandboxfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// maxNodes bounds what is read of one file: aliases can make much of little.
const maxNodes = 1 << 18

// decoder reads YAML into Go values by their yaml tags, and knows the place of everything. Where a thing is not said, what is there
// already stays, so that several files can be read one after the other into the same value.
type decoder struct {
	path     string
	strict   bool // contract msb-0.6 §1.6; otherwise server-v0.2 §3.1
	left     int
	warnings []string
	// where are the lines and columns of values, by their paths, as sandboxes.web.ports[1]
	where map[string]string
	// lookup returns a variable for ${NAME}; nil where that means nothing.
	lookup func(name string) (string, bool)
}

// nodeDecoder is a type that reads itself.
type nodeDecoder interface {
	decodeNode(d *decoder, n *yaml.Node, at string) error
}

// parse returns the one document of data, nil for one that is empty.
func parse(path string, data []byte, most int) (*yaml.Node, error) {
	if len(data) > most {
		return nil, &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("%s is larger than %d MiB", path, most>>20)}
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, invalid(path, err)
	}
	switch err := dec.Decode(&more); {
	case err == nil:
		return nil, &sandbox.Error{Op: "read " + path, Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("%s:%d:1: there is a second document", path, max(more.Line, 1))}
	case !errors.Is(err, io.EOF):
		return nil, invalid(path, err)
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	return doc.Content[0], nil
}

// fail is an error with the place of n.
func (d *decoder) fail(n *yaml.Node, format string, args ...any) error {
	return &sandbox.Error{Op: "read configuration", Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("%s:%d:%d: ", d.path, n.Line, n.Column) + fmt.Sprintf(format, args...)}
}

func (d *decoder) warn(n *yaml.Node, format string, args ...any) {
	d.warnings = append(d.warnings, fmt.Sprintf("%s:%d:%d: ", d.path, n.Line, n.Column)+fmt.Sprintf(format, args...))
}

// check refuses what strict YAML has not: anchors, aliases, tags, merge keys (contract msb-0.6 §1.6).
func (d *decoder) check(n *yaml.Node) error {
	switch {
	case n.Kind == yaml.AliasNode:
		return d.fail(n, "aliases are not allowed")
	case n.Anchor != "":
		return d.fail(n, "anchors are not allowed")
	case n.Style&yaml.TaggedStyle != 0:
		return d.fail(n, "tags are not allowed")
	}
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && c.Tag == "!!merge" {
			return d.fail(c, "merge keys are not allowed")
		}
		if err := d.check(c); err != nil {
			return err
		}
	}
	return nil
}

// resolve follows an alias and counts the node.
func (d *decoder) resolve(n *yaml.Node) (*yaml.Node, error) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if d.left--; d.left < 0 {
		return nil, d.fail(n, "there is too much in it")
	}
	return n, nil
}

// empty is nothing after a colon; null is the word.
func empty(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null" && n.Value == ""
}
func null(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// text is a scalar's text with its variables.
func (d *decoder) text(n *yaml.Node) (string, error) {
	if d.lookup == nil || !strings.Contains(n.Value, "${") {
		return n.Value, nil
	}
	var missing string
	s := variable.ReplaceAllStringFunc(n.Value, func(ref string) string {
		v, ok := d.lookup(ref[2 : len(ref)-1])
		if !ok && missing == "" {
			missing = ref[2 : len(ref)-1]
		}
		return v
	})
	if missing != "" {
		return "", d.fail(n, "the environment has no variable %s", missing)
	}
	return s, nil
}

// value reads n into v, which can be set. at is its path, for people.
func (d *decoder) value(n *yaml.Node, v reflect.Value, at string) error {
	n, err := d.resolve(n)
	if err != nil {
		return err
	}
	if d.where != nil {
		d.where[at] = fmt.Sprintf("%d:%d", n.Line, n.Column)
	}
	if v.Kind() == reflect.Pointer {
		if null(n) && !d.strict {
			return nil
		}
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		v = v.Elem()
	}
	if c, ok := v.Addr().Interface().(nodeDecoder); ok {
		return c.decodeNode(d, n, at)
	}
	switch v.Kind() {
	case reflect.Struct:
		return d.object(n, v, at)
	case reflect.Map:
		return d.mapping(n, v, at)
	case reflect.Slice:
		return d.list(n, v, at)
	}
	if n.Kind != yaml.ScalarNode {
		return d.fail(n, "%s: want %s, not %s", at, want(v.Type()), kindOf(n))
	}
	if null(n) {
		if d.strict {
			return d.fail(n, "%s: want %s, not nothing", at, want(v.Type()))
		}
		return nil
	}
	return d.scalar(n, v, at)
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, at string) error {
	text, err := d.text(n)
	if err != nil {
		return err
	}
	plain := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
	switch v.Kind() {
	case reflect.String:
		if strings.ContainsRune(text, 0) {
			return d.fail(n, "%s: there is a NUL in it", at)
		}
		v.SetString(text)
		return nil
	case reflect.Bool:
		if !plain || text != "true" && text != "false" {
			return d.fail(n, "%s: want true or false, not %s", at, clip(text))
		}
		v.SetBool(text == "true")
		return nil
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		most := uint64(math.MaxUint64) >> (64 - v.Type().Bits())
		u, ok := unsigned(text)
		if !plain || !ok || u > most {
			return d.fail(n, "%s: want a number from 0 to %d, not %s", at, most, quoted(n, text))
		}
		v.SetUint(u)
		return nil
	case reflect.Int:
		u, ok := unsigned(text)
		if !plain || !ok || u > math.MaxInt32 {
			return d.fail(n, "%s: want a number, not %s", at, quoted(n, text))
		}
		v.SetInt(int64(u))
		return nil
	}
	return d.fail(n, "%s: it cannot be read", at)
}

func quoted(n *yaml.Node, text string) string {
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		return strconv.Quote(clip(text))
	}
	return clip(text)
}

// unsigned reads an unsigned number as YAML 1.2 has them: decimal, 0x, 0o, 0b, and a plus.
func unsigned(s string) (uint64, bool) {
	s = strings.TrimPrefix(s, "+")
	base := 10
	for prefix, b := range map[string]int{"0x": 16, "0o": 8, "0b": 2} {
		if rest, ok := strings.CutPrefix(s, prefix); ok {
			s, base = rest, b
			break
		}
	}
	if s == "" || s[0] == '+' || s[0] == '-' || base == 10 && len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	u, err := strconv.ParseUint(s, base, 64)
	return u, err == nil
}

func want(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "keys and values"
	}
	return "a number"
}

func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.MappingNode:
		return "keys and values"
	case null(n) && n.Value != "":
		return n.Value
	case empty(n):
		return "nothing"
	}
	return clip(n.Value)
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, at string) error {
	if empty(n) && !d.strict {
		v.SetZero()
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		return d.fail(n, "%s: want a list, not %s", at, kindOf(n))
	}
	out := reflect.MakeSlice(v.Type(), 0, min(len(n.Content), 64))
	for i, c := range n.Content {
		one := reflect.New(v.Type().Elem()).Elem()
		if null(c) {
			return d.fail(c, "%s[%d]: want %s, not nothing", at, i, want(one.Type()))
		}
		if err := d.value(c, one, fmt.Sprintf("%s[%d]", at, i)); err != nil {
			return err
		}
		out = reflect.Append(out, one)
	}
	v.Set(out)
	return nil
}

// pairs calls f for each key and value of a mapping. A key is a scalar and there once.
func (d *decoder) pairs(n *yaml.Node, at string, f func(key, value *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return d.fail(n, "%s: want keys and values, not %s", orRoot(at), kindOf(n))
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, err := d.resolve(n.Content[i])
		if err != nil {
			return err
		}
		if k.Kind != yaml.ScalarNode {
			return d.fail(n.Content[i], "%s: the key is no text", orRoot(at))
		}
		if line, twice := seen[k.Value]; twice {
			return d.fail(n.Content[i], "%s: the key %q is there twice: first in line %d", orRoot(at), clip(k.Value), line)
		}
		seen[k.Value] = n.Content[i].Line
		if err := f(n.Content[i], n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, at string) error {
	if empty(n) && !d.strict {
		return nil
	}
	out := v
	if v.IsNil() {
		out = reflect.MakeMap(v.Type())
	}
	err := d.pairs(n, at, func(key, value *yaml.Node) error {
		one := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(value, one, join2(at, key.Value)); err != nil {
			return err
		}
		out.SetMapIndex(reflect.ValueOf(key.Value), one)
		return nil
	})
	if err == nil {
		v.Set(out)
	}
	return err
}

// object reads a struct. Keys that it has not are a warning, or an error where the YAML is strict.
func (d *decoder) object(n *yaml.Node, v reflect.Value, at string) error {
	if null(n) && n.Value == "" && !d.strict {
		return nil
	}
	known := fieldsOf(v.Type())
	return d.pairs(n, at, func(key, value *yaml.Node) error {
		if i, ok := known[key.Value]; ok {
			return d.value(value, v.Field(i), join2(at, key.Value))
		}
		if !d.strict && strings.HasPrefix(key.Value, "x-") {
			return nil // for anchors and notes
		}
		names := make([]string, 0, len(known))
		for name := range known {
			names = append(names, name)
		}
		text := fmt.Sprintf("%s has no key %q", orRoot(at), clip(key.Value))
		if near := nearest(key.Value, names); near != "" {
			text += fmt.Sprintf(" (did you mean %q?)", near)
		}
		if d.strict {
			return d.fail(key, "%s", text)
		}
		d.warn(key, "%s: it is ignored", text)
		return nil
	})
}

func orRoot(at string) string {
	if at == "" {
		return "the file"
	}
	return at
}

func join2(at, key string) string {
	if at == "" {
		return key
	}
	return at + "." + key
}

// fieldsOf are the fields of a struct by their keys.
func fieldsOf(t reflect.Type) map[string]int {
	fields := map[string]int{}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if name != "" && name != "-" {
			fields[name] = i
		}
	}
	return fields
}

// nearest is the word that was probably meant, or "". Words that are as near go by the alphabet.
func nearest(word string, words []string) string {
	best, found := max(len(word), 3)/3+1, ""
	for _, w := range words {
		if n := distance(word, w); n < best || n == best && found != "" && w < found {
			best, found = n, w
		}
	}
	return found
}

// distance is how many letters have to be changed, added or left out to make b of a (Levenshtein).
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
