package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
)

// key collects what tells one generated file from another, and names it.
type key struct{ h hash.Hash }

func newKey(format string) key {
	k := key{sha256.New()}
	k.add(format)
	return k
}

// add takes values into account. Values of different lists never run together: each is written with its quotes or a space.
func (k key) add(values ...any) {
	for _, v := range values {
		if s, ok := v.(string); ok {
			fmt.Fprintf(k.h, "%q ", s)
		} else {
			fmt.Fprint(k.h, v, " ")
		}
	}
}

// sum returns 32 hexadecimal digits.
func (k key) sum() string { return hex.EncodeToString(k.h.Sum(nil)[:16]) }
