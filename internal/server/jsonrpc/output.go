package jsonrpc

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/server"
)

// MaxOutput is how much of what a call prints is returned, in bytes of JSON. What ten million letters take is less.
const MaxOutput = 16 << 20

// frameSize is what a line takes besides its text, as JSON and as a Line.
const frameSize = len(`{"stream":"stdout","text":""},`) + 16

// Line is one line that was printed, without its end.
type Line struct {
	Stream string `json:"stream"` // stdout | stderr
	Text   string `json:"text"`
}

// lines takes output as it comes and cuts it into lines, in the order in which they are complete.
type lines struct {
	meter server.Meter
	all   []Line            // whole ones
	open  map[string][]byte // what has no end yet, by stream
}

// linesOf are those of a request.
func linesOf(ctx context.Context, most int) *lines {
	return &lines{meter: server.MeterOf(ctx, cmp.Or(most, MaxOutput))}
}

// write takes a piece of a stream.
func (l *lines) write(stream string, p []byte) {
	if l.open == nil {
		l.open = map[string][]byte{}
	}
	for len(p) > 0 && !l.meter.Full() {
		line, rest, whole := bytes.Cut(p, []byte("\n"))
		p = rest
		for len(line) > 0 {
			part := line[:min(len(line), 4<<10)]
			if !l.meter.Add(server.JSONSize(part)) {
				break
			}
			l.open[stream] = append(l.open[stream], part...)
			line = line[len(part):]
		}
		if whole && l.meter.Add(frameSize) {
			l.end(stream)
		}
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
	if cap(l.open[stream]) > 64<<10 {
		delete(l.open, stream)
	}
}

// done returns all lines, and says on stderr if some are missing.
func (l *lines) done() []Line {
	for _, stream := range []string{"stdout", "stderr"} {
		l.finish(stream)
	}
	if l.meter.Full() {
		l.all = append(l.all, Line{"stderr", fmt.Sprintf("[output truncated after %d lines]", len(l.all))})
	}
	if l.all == nil {
		l.all = []Line{}
	}
	return l.all
}
