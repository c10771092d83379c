package sandboxfile

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Size is in MiB; written as 512M or 2G, or as a number of MiB.
type Size int

// Security is default or restricted.
type Security string

func (v *Size) decodeNode(d *decoder, n *yaml.Node, at string) error {
	text, err := d.word(n, at, "a size such as 512M or 2G")
	if err != nil {
		return err
	}
	mib, err := sandbox.ParseSize(text)
	if err != nil {
		return d.fail(n, "%s: want a size such as 512M or 2G (a bare number is MiB), not %s", at, clip(text))
	}
	*v = Size(mib)
	return nil
}

func (v *Security) decodeNode(d *decoder, n *yaml.Node, at string) error {
	return d.oneOf(n, at, (*string)(v), sandbox.ProfileDefault, sandbox.ProfileRestricted)
}

func (*Size) schema() map[string]any {
	return map[string]any{"type": []string{"string", "integer"}, "pattern": "^[0-9]+([KMGTkmgt]([iI]?[bB])?)?$"}
}

func (*Security) schema() map[string]any { return words("default", "restricted") }

// word is the text of a scalar.
func (d *decoder) word(n *yaml.Node, at, want string) (string, error) {
	if n.Kind != yaml.ScalarNode || null(n) {
		return "", d.fail(n, "%s: want %s, not %s", at, want, kindOf(n))
	}
	return d.text(n)
}

func (d *decoder) oneOf(n *yaml.Node, at string, to *string, words ...string) error {
	text, err := d.word(n, at, strings.Join(words, ", "))
	if err != nil {
		return err
	}
	if !slices.Contains(words, text) {
		return d.fail(n, "%s: want %s, not %s", at, strings.Join(words, ", "), clip(text))
	}
	*to = text
	return nil
}
