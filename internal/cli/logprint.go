package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// logPrinter prints entries for people, each stream's on lines of its own. What a guest printed reaches a terminal as text and colours, and as nothing else.
type logPrinter struct {
	out      io.Writer
	colour   bool
	times    bool
	ids      bool
	sessions bool // a colour for each

	filters map[stream]*escapeFilter
	line    *stream // whose line is not ended yet
	buf     []byte
	used    bool // colours were passed on
}

// stream is one session's output of one kind.
type stream struct {
	source  sandbox.LogSource
	session uint64
}

// maxFilters bounds how many streams may be within an escape sequence at the same time.
const maxFilters = 1024

func (p *logPrinter) entry(e sandbox.LogEntry) error {
	s := stream{source: e.Source}
	if e.Session != nil {
		s.session = *e.Session
	}
	f := p.filters[s]
	if f == nil {
		if len(p.filters) >= maxFilters {
			clear(p.filters)
		}
		f = &escapeFilter{colour: p.colour}
		p.filters[s] = f
	}
	data := e.Data
	if e.Source == sandbox.LogBootError {
		data = bootError(data)
	}
	text := f.filter(nil, data)
	p.used = p.used || f.passed
	p.buf = p.buf[:0]
	if len(text) > 0 && p.line != nil && *p.line != s { // a line of its own for each stream
		p.buf = append(p.buf, '\n')
		p.line = nil
	}
	if p.times || p.ids {
		p.prefixed(e, s, text)
	} else if p.buf = append(p.buf, text...); len(text) > 0 {
		p.line = nil
		if text[len(text)-1] != '\n' {
			p.line = &s
		}
	}
	_, err := p.out.Write(p.buf)
	return err
}

// bootError is a line about why the last start failed, of the JSON that is recorded.
func bootError(record []byte) []byte {
	var why struct{ Stage, Message string }
	if err := json.Unmarshal(record, &why); err != nil || why.Message == "" {
		return append(bytes.Clone(record), '\n')
	}
	return []byte("the last start failed (" + why.Stage + "): " + why.Message + "\n")
}

// prefixed begins every line with its time and the session's number. A line that was begun by this stream goes on.
func (p *logPrinter) prefixed(e sandbox.LogEntry, s stream, text []byte) {
	colour, reset := "", ""
	if p.sessions && p.colour && e.Session != nil {
		colour, reset = sessionColours[(*e.Session-1)%uint64(len(sessionColours))], "\x1b[0m"
	}
	for len(text) > 0 {
		n := bytes.IndexByte(text, '\n') + 1
		whole := n > 0
		if !whole {
			n = len(text)
		}
		p.buf = append(p.buf, colour...)
		if p.line == nil {
			if p.times {
				p.buf = e.Time.UTC().AppendFormat(p.buf, logTime+"\t")
			}
			switch {
			case p.ids && e.Session != nil:
				p.buf = fmt.Appendf(p.buf, "[id:%3d] ", *e.Session)
			case p.ids:
				p.buf = append(p.buf, "[id:sys] "...)
			}
		}
		if whole {
			p.buf = append(append(append(p.buf, text[:n-1]...), reset...), '\n')
			p.line = nil
		} else {
			p.buf = append(append(p.buf, text...), reset...)
			p.line = &s
		}
		text = text[n:]
	}
}

// end leaves the terminal as it was.
func (p *logPrinter) end() error {
	var tail []byte
	if p.used {
		tail = append(tail, "\x1b[0m"...)
	}
	if p.line != nil && (p.times || p.ids) {
		tail = append(tail, '\n')
	}
	_, err := p.out.Write(tail)
	return err
}

// sessionColours are those of --color-sessions.
var sessionColours = [8]string{"\x1b[36m", "\x1b[33m", "\x1b[32m", "\x1b[35m", "\x1b[34m", "\x1b[31m", "\x1b[96m", "\x1b[93m"}

// escapeFilter takes control characters and escape sequences (ECMA-48) out of a stream of pieces. Carriage returns become the
// ends of lines, so that nothing that was printed hides behind what came later.
type escapeFilter struct {
	colour bool // lets SGR sequences through
	passed bool // did so

	state  escapeState
	seq    []byte // of the sequence so far
	length int    // of the string so far
}

type escapeState int

const (
	ground    escapeState = iota
	afterCR               // a newline ends the line, anything else begins the next
	afterESC              // ESC
	inCSI                 // ESC [ ...
	inString              // OSC, DCS, SOS, PM, APC until BEL or ST
	stringESC             // ESC within one
	afterC2               // first byte of U+0080 to U+00BF
)

// maxSequence and maxString are how long a sequence may be before it is taken for text again.
const (
	maxSequence = 64
	maxString   = 4096
)

// filter appends what may be seen of data.
func (f *escapeFilter) filter(out, data []byte) []byte {
	for _, c := range data {
		out = f.step(out, c)
	}
	return out
}

func (f *escapeFilter) step(out []byte, c byte) []byte {
	switch f.state {
	case afterCR:
		f.state = ground
		if c != '\n' {
			out = append(out, '\n')
		}
	case afterC2:
		f.state = ground
		if c >= 0x80 && c < 0xa0 {
			return out // C1
		}
		out = append(out, 0xc2)
	case afterESC:
		f.state = ground
		switch {
		case c == '[':
			f.state, f.seq = inCSI, f.seq[:0]
			return out
		case bytes.IndexByte([]byte("]PX^_"), c) >= 0:
			f.state, f.length = inString, 0
			return out
		case c >= 0x20 && c < 0x30: // intermediate byte
			f.state = afterESC
			return out
		case c >= 0x30 && c < 0x7f:
			return out
		}
	case inCSI:
		switch {
		case c >= 0x40 && c < 0x7f:
			f.state = ground
			if c == 'm' && f.colour && bytes.Trim(f.seq, "0123456789;:") == nil {
				f.passed = true
				out = append(append(append(out, "\x1b["...), f.seq...), 'm')
			}
			return out
		case c >= 0x20 && c < 0x40 && len(f.seq) < maxSequence:
			f.seq = append(f.seq, c)
			return out
		}
		f.state = ground
	case inString:
		f.length++
		switch {
		case c == 0x07:
			f.state = ground
			return out
		case c == 0x1b:
			f.state = stringESC
			return out
		case c != '\n' && f.length < maxString:
			return out
		}
		f.state = ground
	case stringESC:
		f.state = ground
		if c == '\\' {
			return out
		}
		f.state = afterESC
		return f.step(out, c)
	}
	switch {
	case c == '\n', c == '\t', c >= 0x20 && c != 0x7f && c != 0xc2:
		return append(out, c)
	case c == '\r':
		f.state = afterCR
	case c == 0x1b:
		f.state = afterESC
	case c == 0xc2:
		f.state = afterC2
	}
	return out
}
