package sandboxfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Update sets the entry of one sandbox in the Sandboxfile of dir, which is made if it is not there. Comments, order and whatever
// else is in the file stay; the entry's own comments stay with the keys that it still has. Processes that update at the same time
// wait for each other. Nothing is written where the entry says it already.
func Update(dir, name string, entry Sandbox) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return &sandbox.Error{Op: "write " + Name, Kind: sandbox.IO, Message: "make " + dir, Err: err}
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	path := Path(dir)
	mode := fs.FileMode(0o644)
	data, err := readFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		data = []byte(Empty)
	case err != nil:
		return err
	default:
		if info, err := os.Stat(path); err == nil {
			mode = info.Mode().Perm()
		}
		f, err := Parse(path, data)
		if err != nil {
			return err
		}
		if have, ok := f.Sandboxes[name]; ok && have.Equal(entry) {
			return nil
		}
	}
	changed, err := edit(path, data, name, entry)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteSync(path, changed, mode); err != nil {
		return &sandbox.Error{Op: "write " + Name, Kind: sandbox.IO, Message: "write " + path, Err: err}
	}
	return nil
}

// Add writes entries of sandboxes that the file at path has not. Of several that are named one that is there leaves all out.
func Add(path string, names []string, entry Sandbox) error {
	return change(path, true, func(f *File, data []byte) (_ []byte, err error) {
		for _, name := range names {
			if _, there := f.Sandboxes[name]; there {
				return nil, &sandbox.Error{Op: "write " + Name, Kind: sandbox.AlreadyExists,
					Message: fmt.Sprintf("configuration validation error: Sandbox with name '%s' already exists", name)}
			}
		}
		for _, name := range names {
			if data, err = edit(path, data, name, entry); err != nil {
				return nil, err
			}
		}
		return data, nil
	})
}

// Drop takes entries out of the file at path; it returns the names of those that were there.
func Drop(path string, names []string) (dropped []string, err error) {
	err = change(path, false, func(f *File, data []byte) (_ []byte, err error) {
		for _, name := range names {
			if _, there := f.Sandboxes[name]; !there {
				continue
			}
			if data, err = unset(path, data, name); err != nil {
				return nil, err
			}
			dropped = append(dropped, name)
			if f, err = Parse(path, data); err != nil {
				return nil, err
			}
		}
		return data, nil
	})
	return dropped, err
}

// change changes the file at path, under the lock of its directory.
func change(path string, create bool, by func(f *File, data []byte) ([]byte, error)) error {
	unlock, err := lock(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	mode := fs.FileMode(0o644)
	data, err := readFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && create:
		data = []byte(Empty)
	case err != nil:
		return err
	default:
		if info, err := os.Stat(path); err == nil {
			mode = info.Mode().Perm()
		}
	}
	f, err := Parse(path, data)
	if err != nil {
		return err
	}
	changed, err := by(f, data)
	if err != nil || bytes.Equal(changed, data) {
		return err
	}
	if _, err := Parse(path, changed); err != nil { // a file that we cannot read is not written
		return &sandbox.Error{Op: "write " + Name, Kind: sandbox.Internal, Message: "the change would break " + path, Err: err}
	}
	if err := atomicfile.WriteSync(path, changed, mode); err != nil {
		return &sandbox.Error{Op: "write " + Name, Kind: sandbox.IO, Message: "write " + path, Err: err}
	}
	return nil
}

// unset returns the text without the entry, whose own lines go.
func unset(path string, data []byte, name string) ([]byte, error) {
	var doc yaml.Node
	if err := decode(path, data, &doc); err != nil {
		return nil, err
	}
	top := doc.Content[0]
	at := find(top, "sandboxes")
	all := top.Content[at+1]
	lines := splitLines(data)
	if all.Kind != yaml.MappingNode || top.Style&yaml.FlowStyle != 0 || all.Style&yaml.FlowStyle != 0 {
		if all.Kind == yaml.AliasNode {
			all = all.Alias
		}
		if i := find(all, name); i >= 0 {
			all.Content = slices.Delete(all.Content, i, i+2)
		}
		return encode(&doc)
	}
	i := find(all, name)
	if i < 0 {
		return data, nil
	}
	from := all.Content[i].Line - 1
	last := len(lines)
	switch {
	case i+2 < len(all.Content):
		last = trimBack(lines, all.Content[i].Line, all.Content[i+2].Line-1)
	case at+2 < len(top.Content):
		last = trimBack(lines, all.Content[i].Line, top.Content[at+2].Line-1)
	default:
		last = trimBack(lines, all.Content[i].Line, last)
	}
	// The comment right above the entry is about it.
	for from > 0 && from > top.Content[at].Line && strings.HasPrefix(strings.TrimSpace(lines[from-1]), "#") {
		from--
	}
	return join(lines, from, last, nil), nil
}

func encode(doc *yaml.Node) ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(doc), enc.Close()); err != nil {
		return nil, &sandbox.Error{Op: "write " + Name, Kind: sandbox.Internal, Err: err}
	}
	return b.Bytes(), nil
}

// lock is held by who changes a Sandboxfile. It is on the directory: the file itself is replaced.
func lock(dir string) (func(), error) {
	d, err := os.Open(dir)
	for err == nil {
		if err = unix.Flock(int(d.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
		err = nil
	}
	if err != nil {
		return nil, &sandbox.Error{Op: "write " + Name, Kind: sandbox.IO, Message: "lock " + dir, Err: err}
	}
	return func() { d.Close() }, nil
}

// edit returns the text with the entry in it, and nothing else changed, or an error.
func edit(path string, data []byte, name string, entry Sandbox) ([]byte, error) {
	before, err := Parse(path, data)
	if err != nil {
		return nil, err
	}
	// YAML has many forms. What is written is what was meant, or it is not written.
	for _, by := range []func(string, []byte, string, Sandbox) ([]byte, error){set, rewrite} {
		changed, err := by(path, data, name, entry)
		if err == nil && onlyChanged(path, before, changed, name, entry) {
			return changed, nil
		}
	}
	return nil, refusal(path)
}

// onlyChanged reports whether the text has the entry, and of the others what they were.
func onlyChanged(path string, before *File, changed []byte, name string, entry Sandbox) bool {
	after, err := Parse(path, changed)
	if err != nil || !after.Sandboxes[name].Equal(entry) {
		return false
	}
	for other, s := range before.Sandboxes {
		if have, ok := after.Sandboxes[other]; other != name && (!ok || !have.Equal(s)) {
			return false
		}
	}
	return true
}

// rewrite writes the whole file anew: comments stay, and formatting does not.
func rewrite(path string, data []byte, name string, entry Sandbox) ([]byte, error) {
	var doc yaml.Node
	if err := decode(path, data, &doc); err != nil {
		return nil, err
	}
	value, err := nodeOf(entry)
	if err != nil {
		return nil, err
	}
	if len(doc.Content) == 0 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, refusal(path)
	}
	top := doc.Content[0]
	at := find(top, "sandboxes")
	if at < 0 {
		top.Content = append(top.Content, keyNode("sandboxes"), &yaml.Node{Kind: yaml.MappingNode})
		at = len(top.Content) - 2
	}
	all := top.Content[at+1]
	if all.Kind != yaml.MappingNode && all.Kind != yaml.AliasNode {
		*all = yaml.Node{Kind: yaml.MappingNode}
	}
	return whole(&doc, all, name, value)
}

func refusal(path string) error {
	return &sandbox.Error{Op: "write " + Name, Kind: sandbox.InvalidConfig, Message: path + " is written in a way that cannot be added to",
		Hint: "write sandboxes: on a line of its own, and each sandbox below it"}
}

// set returns the text with the entry in it. Only the lines of the entry change.
func set(path string, data []byte, name string, entry Sandbox) ([]byte, error) {
	var doc yaml.Node
	if err := decode(path, data, &doc); err != nil {
		return nil, err
	}
	value, err := nodeOf(entry)
	if err != nil {
		return nil, err
	}
	top := &yaml.Node{Kind: yaml.MappingNode}
	if len(doc.Content) > 0 && doc.Content[0].Kind == yaml.MappingNode {
		top = doc.Content[0]
	}
	at := find(top, "sandboxes")
	lines := splitLines(data)
	if at < 0 { // after everything else
		return join(lines, len(lines), len(lines), render("sandboxes", &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{keyNode(name), value}}, 0)), nil
	}
	key, all := top.Content[at], top.Content[at+1]
	if top.Style&yaml.FlowStyle != 0 || all.Kind == yaml.MappingNode && all.Style&yaml.FlowStyle != 0 && len(all.Content) > 0 || all.Kind == yaml.AliasNode || all.Anchor != "" {
		return whole(&doc, all, name, value)
	}
	end := len(lines) // of the mapping: the next key's line
	if at+2 < len(top.Content) {
		end = top.Content[at+2].Line - 1
	}
	end = trimBack(lines, key.Line, end)
	if all.Kind != yaml.MappingNode || len(all.Content) == 0 { // "sandboxes:" and nothing, or {}
		line := lines[key.Line-1]
		if i := strings.Index(line, "sandboxes"); all.Kind == yaml.MappingNode || all.Value != "" {
			rest := strings.TrimLeft(line[i+len("sandboxes"):], `"' `)
			comment := ""
			if j := strings.Index(rest, " #"); j >= 0 {
				comment = strings.TrimRight(rest[j:], "\n")
			}
			lines[key.Line-1] = strings.TrimRight(line[:i], `"' `) + "sandboxes:" + comment + "\n"
		}
		return join(lines, key.Line, key.Line, render(name, value, 2)), nil
	}
	indent := all.Content[0].Column - 1
	i := find(all, name)
	if i < 0 {
		return join(lines, end, end, render(name, value, indent)), nil
	}
	old := all.Content[i+1]
	if old.Kind == yaml.AliasNode || old.Anchor != "" {
		return whole(&doc, all, name, value)
	}
	last := end
	if i+2 < len(all.Content) {
		last = trimBack(lines, all.Content[i].Line, all.Content[i+2].Line-1)
	}
	keepComments(old, value)
	own := keyNode(name)
	own.LineComment = all.Content[i].LineComment // those above it are lines that stay
	return join(lines, all.Content[i].Line-1, last, renderNode(own, value, indent)), nil
}

// find is where a key of a mapping is, or -1.
func find(m *yaml.Node, key string) int {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return i
		}
	}
	return -1
}

func keyNode(name string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}
}

func nodeOf(entry Sandbox) (*yaml.Node, error) {
	var n yaml.Node
	if err := n.Encode(entry); err != nil {
		return nil, &sandbox.Error{Op: "write " + Name, Kind: sandbox.InvalidConfig, Err: err}
	}
	return &n, nil
}

// keepComments copies the comments of keys that are in both, at every depth.
func keepComments(from, to *yaml.Node) {
	to.HeadComment, to.LineComment, to.FootComment = from.HeadComment, from.LineComment, from.FootComment
	if from.Kind != to.Kind {
		return
	}
	switch to.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(to.Content); i += 2 {
			if j := find(from, to.Content[i].Value); j >= 0 {
				k, o := to.Content[i], from.Content[j]
				k.HeadComment, k.LineComment, k.FootComment = o.HeadComment, o.LineComment, o.FootComment
				keepComments(from.Content[j+1], to.Content[i+1])
			}
		}
	case yaml.SequenceNode:
		for i, item := range to.Content {
			if j := slices.IndexFunc(from.Content, func(o *yaml.Node) bool { return o.Value == item.Value }); j >= 0 {
				keepComments(from.Content[j], to.Content[i])
			}
		}
	}
}

// render is the text of one key and its value, that far to the right.
func render(name string, value *yaml.Node, indent int) []byte {
	return renderNode(keyNode(name), value, indent)
}

func renderNode(key, value *yaml.Node, indent int) []byte {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	_ = enc.Encode(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{key, value}}) // a node that was just decoded
	_ = enc.Close()
	var out bytes.Buffer
	for line := range bytes.Lines(b.Bytes()) {
		if len(bytes.TrimSpace(line)) > 0 {
			out.WriteString(strings.Repeat(" ", indent))
		}
		out.Write(line)
	}
	return out.Bytes()
}

// whole writes the file anew, for those forms of YAML that have no lines of their own for each entry.
func whole(doc, all *yaml.Node, name string, value *yaml.Node) ([]byte, error) {
	target := all
	if all.Kind == yaml.AliasNode {
		target = all.Alias
	}
	if i := find(target, name); i >= 0 {
		target.Content[i+1] = value
	} else {
		target.Content = append(target.Content, keyNode(name), value)
	}
	if target.Style&yaml.FlowStyle != 0 {
		target.Style = 0
	}
	return encode(doc)
}

func splitLines(data []byte) []string {
	lines := slices.Collect(strings.Lines(string(data)))
	if n := len(lines); n > 0 && !strings.HasSuffix(lines[n-1], "\n") {
		lines[n-1] += "\n"
	}
	return lines
}

// trimBack takes blank lines and comments off the end of lines[from:end]: they are about what follows.
func trimBack(lines []string, from, end int) int {
	for end > from {
		if t := strings.TrimSpace(lines[end-1]); t != "" && !strings.HasPrefix(t, "#") && t != "---" && t != "..." {
			break
		}
		end--
	}
	return end
}

// join replaces lines[from:to].
func join(lines []string, from, to int, text []byte) []byte {
	var b bytes.Buffer
	for _, l := range lines[:from] {
		b.WriteString(l)
	}
	b.Write(text)
	for _, l := range lines[to:] {
		b.WriteString(l)
	}
	return b.Bytes()
}

// Namespace is the directory of a namespace below the server's root.
func Namespace(root, namespace string) string { return filepath.Join(root, namespace) }
