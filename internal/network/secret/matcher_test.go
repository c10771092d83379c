package secret

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestMatcherAsReference holds the matcher to looking for each literal by itself.
func TestMatcherAsReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []*secret
		for range rapid.IntRange(1, 4).Draw(t, "secrets") {
			x := &secret{}
			for range rapid.IntRange(1, 3).Draw(t, "literals") {
				x.literals = append(x.literals, []byte(rapid.StringMatching(`[ab$]{1,9}`).Draw(t, "literal")))
			}
			all = append(all, x)
		}
		var list []*secret
		for _, x := range all {
			if rapid.Bool().Draw(t, "watched") {
				list = append(list, x)
			}
		}
		text := []byte(rapid.StringMatching(`[ab$]{0,60}`).Draw(t, "text"))
		there := func(x *secret) bool {
			return slices.ContainsFunc(x.literals, func(l []byte) bool { return bytes.Contains(text, l) })
		}
		got := newMatcher(all).find(list, text)
		switch {
		case got == nil && slices.ContainsFunc(list, there):
			t.Fatalf("nothing was found in %q", text)
		case got != nil && (!slices.Contains(list, got) || !there(got)):
			t.Fatalf("%q was found in %q", got.literals, text)
		}
	})
}
