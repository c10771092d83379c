package execlog

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// position is a place in a log: the number of the file and the offset in it, in bytes.
type position struct{ file, offset uint64 }

// maxPositions is how many logs are read as one: exec.log, and runner.log where the source system is asked for.
const maxPositions = 2

// encodeCursor is standard base64 of a count and so many pairs of little-endian numbers (contract msb-0.6 §2.6).
func encodeCursor(at []position) string {
	b := make([]byte, 1, 1+16*maxPositions)
	b[0] = byte(len(at))
	for _, p := range at {
		b = binary.LittleEndian.AppendUint64(b, p.file)
		b = binary.LittleEndian.AppendUint64(b, p.offset)
	}
	return base64.StdEncoding.EncodeToString(b)
}

// decodeCursor reads what encodeCursor wrote. Kind: InvalidCursor.
func decodeCursor(s string) ([]position, error) {
	bad := func(why string) error {
		return &sandbox.Error{Op: "logs", Kind: sandbox.InvalidCursor, Message: why, Hint: "leave it out to read from the beginning"}
	}
	if len(s) > base64.StdEncoding.EncodedLen(1+16*maxPositions) {
		return nil, bad(fmt.Sprintf("cursor payload has unexpected length (%d bytes)", base64.StdEncoding.DecodedLen(len(s))))
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") { // which the decoder passes over
		return nil, bad("cursor is not valid base64")
	}
	if len(b) == 0 || b[0] == 0 || b[0] > maxPositions || len(b) != 1+16*int(b[0]) {
		return nil, bad(fmt.Sprintf("cursor payload has unexpected length (%d bytes)", len(b)))
	}
	at := make([]position, b[0])
	for i := range at {
		p := b[1+16*i:]
		at[i] = position{binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])}
	}
	return at, nil
}
