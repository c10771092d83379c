package jsonrpc

import (
	"bytes"
	"fmt"
	"strings"
)

// MaxOutput and maxLines are how much of what a call prints is returned, in bytes and in lines.
const (
	MaxOutput = 16 << 20
	maxLines  = 1 << 20
)

// Line is one line that was printed, without its end.
type Line struct {
	Stream string `json:"stream"` // stdout | stderr
	Text   string `json:"text"`
}

// lines takes output as it comes and cuts it into lines, in the order in which they are complete.
type lines struct {
	all  []Line
	size int
	lost bool
	open map[string][]byte // what has no end yet, by stream
}

// write takes a piece of a stream.
func (l *lines) write(stream string, p []byte) {
	if l.open == nil {
		l.open = map[string][]byte{}
	}
	for len(p) > 0 {
		if l.size >= MaxOutput {
			l.lost = true
			return
		}
		line, rest, whole := bytes.Cut(p, []byte("\n"))
		room := MaxOutput - l.size
		if len(line) > room {
			line, l.lost = line[:room], true
		}
		l.open[stream] = append(l.open[stream], line...)
		l.size += len(line)
		if !whole {
			return
		}
		p = rest
		if len(l.all) == maxLines {
			l.lost = true
			return
		}
		l.end(stream)
	}
}

// finish ends a line that has begun.
func (l *lines) finish(stream string) {
	if len(l.open[stream]) > 0 {
		l.end(stream)
	}
}

func (l *lines) end(stream string) {
	text := bytes.TrimSuffix(l.open[stream], []byte("\r"))
	l.all = append(l.all, Line{stream, strings.ToValidUTF8(string(text), "\uFFFD")})
	l.open[stream] = l.open[stream][:0]
}

// done returns all lines, and says on stderr if some are missing.
func (l *lines) done() []Line {
	for _, stream := range []string{"stdout", "stderr"} {
		l.finish(stream)
	}
	if l.lost {
		l.all = append(l.all, Line{"stderr", fmt.Sprintf("[output truncated after %d lines]", len(l.all))})
	}
	if l.all == nil {
		l.all = []Line{}
	}
	return l.all
}
