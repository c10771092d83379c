// Package execlog keeps what a sandbox prints: lines of JSON in exec.log and, older ones, exec.log.1 to exec.log.3
// (contract msb-0.6 §5.5). The runner has a [Writer], which takes what sessions print without waiting for the disk and closes
// after the last; anyone may [Open] a [Reader] at any time, whether the sandbox runs or not, also after kill -9.
//
// Files are only appended to and renamed. The first line of each has one more key, "g": the number of the file since the
// first, by which readers find their way through rotations, and [Cursor]s theirs back.
package execlog

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Names of files in a log directory.
const (
	File          = "exec.log"
	RunnerFile    = "runner.log" // lines of log/slog, and what the runner says when it crashes
	BootErrorFile = "boot-error.json"
)

// Bounds of the log (contract msb-0.6 §5.5). MaxData is how much output one line holds: longer pieces are several.
const (
	MaxFile  = 10 << 20 // bytes; a file is the last that begins below it
	OldFiles = 3
	MaxData  = 64 << 10
	maxLine  = 6*MaxData + 256
)

// The markers.
const (
	Started = "--- sandbox started ---\n"
	Stopped = "--- sandbox stopped ---\n"
)

// timeFormat is RFC 3339 in UTC to the millisecond.
const timeFormat = "2006-01-02T15:04:05.000Z"

// line is one entry as it is stored.
type line struct {
	Time    string            `json:"t"`
	Source  sandbox.LogSource `json:"s"`
	Data    string            `json:"d"`
	Session *uint64           `json:"id"`
	Coding  string            `json:"e"` // "" or "b64"
	File    uint64            `json:"g"` // of a file's first line
}

// base64Coding marks data that are no UTF-8, or no text.
const base64Coding = "b64"

// appendLine appends an entry, newline included. session 0 is none, file 0 is not the first line.
func appendLine(b []byte, at time.Time, source sandbox.LogSource, session uint64, data []byte, file uint64) []byte {
	b = append(b, `{"t":"`...)
	b = at.UTC().AppendFormat(b, timeFormat)
	b = append(b, `","s":"`...)
	b = append(b, source...)
	b = append(b, `","d":"`...)
	text := utf8.Valid(data) && bytes.IndexByte(data, 0) < 0 // six bytes for each NUL would be a waste
	if text {
		b = appendEscaped(b, data)
	} else {
		b = base64.StdEncoding.AppendEncode(b, data)
	}
	b = append(b, '"')
	if session != 0 {
		b = fmt.Appendf(b, `,"id":%d`, session)
	}
	if !text {
		b = append(b, `,"e":"`+base64Coding+`"`...)
	}
	if file != 0 {
		b = fmt.Appendf(b, `,"g":%d`, file)
	}
	return append(b, '}', '\n')
}

// appendEscaped appends valid UTF-8 as the inside of a JSON string.
func appendEscaped(b, data []byte) []byte {
	const hex = "0123456789abcdef"
	start := 0
	for i := 0; i < len(data); i++ {
		for i+8 <= len(data) && plain(binary.LittleEndian.Uint64(data[i:])) {
			i += 8
		}
		if i == len(data) {
			break
		}
		c := data[i]
		if !escaped[c] {
			continue
		}
		b = append(b, data[start:i]...)
		start = i + 1
		switch c {
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		case '"', '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(b, data[start:]...)
}

// plain reports whether none of eight bytes is escaped. Each of its terms has the high bit of a byte that is below 0x20, or
// equal to one of the three others.
func plain(x uint64) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	quote, slash, del := x^(ones*'"'), x^(ones*'\\'), x^(ones*0x7f)
	return ((x-ones*0x20)&^x|(quote-ones)&^quote|(slash-ones)&^slash|(del-ones)&^del)&highs == 0
}

// escaped are the bytes that JSON wants escaped in a string, and DEL.
var escaped = func() (e [256]bool) {
	for c := range 0x20 {
		e[c] = true
	}
	e['"'], e['\\'], e[0x7f] = true, true, true
	return e
}()

// parseLine reads a stored entry. What it holds was chosen by a guest, or is what a crash left.
func parseLine(b []byte) (sandbox.LogEntry, uint64, error) {
	var l line
	if err := json.Unmarshal(b, &l); err != nil {
		return sandbox.LogEntry{}, 0, fmt.Errorf("a line of the log: %w", err)
	}
	at, err := time.Parse(time.RFC3339, l.Time)
	if err != nil {
		return sandbox.LogEntry{}, 0, fmt.Errorf("a line of the log: %w", err)
	}
	e := sandbox.LogEntry{Time: at, Source: l.Source, Session: l.Session, Data: []byte(l.Data)}
	switch l.Source {
	case sandbox.LogStdout, sandbox.LogStderr, sandbox.LogOutput, sandbox.LogSystem:
	default:
		return e, 0, fmt.Errorf("a line of the log: unknown source %q", l.Source)
	}
	switch l.Coding {
	case "":
	case base64Coding:
		if e.Data, err = base64.StdEncoding.DecodeString(l.Data); err != nil {
			return e, 0, fmt.Errorf("a line of the log: %w", err)
		}
	default:
		return e, 0, fmt.Errorf("a line of the log: unknown coding %q", l.Coding)
	}
	return e, l.File, nil
}

// headFile is the number of a file whose first bytes are b, 0 if it has none.
func headFile(b []byte) uint64 {
	_, file, err := parseLine(b)
	if err != nil {
		return 0
	}
	return file
}
