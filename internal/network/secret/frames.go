package secret

import (
	"encoding/binary"
	"io"
)

// WatchFrames is Watch for what a client sends over a WebSocket (RFC 6455, section 5): in masked frames, of which control frames may
// be between the parts of a message. Placeholders are looked for in what the frames hold, and in the stream as it is, for it may
// be something else.
func (p *Plan) WatchFrames(in io.Reader, where string) io.Reader {
	if len(p.watch) == 0 {
		return in
	}
	return &frameReader{Reader: p.Watch(in, where), plan: p, where: where, message: newScanner(p), control: newScanner(p)}
}

// frameReader ends a stream of frames with a Violation when a placeholder that must not be sent has gone into it.
type frameReader struct {
	io.Reader
	plan             *Plan
	where            string
	message, control *scanner
	plain            []byte // used again for each piece

	head  []byte // of the frame, as far as it came; empty in the payload
	body  bool   // the payload is being read
	first byte   // of the frame
	left  uint64 // bytes of the payload that are still to come
	key   [4]byte
	at    int // of key
}

func (r *frameReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	for rest := b[:n]; len(rest) > 0; {
		if !r.body {
			r.head = append(r.head, rest[0])
			rest = rest[1:]
			r.begin()
			continue
		}
		part := rest[:min(uint64(len(rest)), r.left)]
		rest = rest[len(part):]
		r.plain = r.plain[:0]
		for _, c := range part {
			r.plain = append(r.plain, c^r.key[r.at&3])
			r.at++
		}
		scan := r.message
		if r.first&0x08 != 0 {
			scan = r.control
		}
		if x := scan.write(r.plain); x != nil {
			return 0, r.plan.violation(x, r.where)
		}
		if r.left -= uint64(len(part)); r.left == 0 {
			r.body = false
		}
	}
	return n, err
}

// begin begins a payload when the head is whole.
func (r *frameReader) begin() {
	if len(r.head) < 2 {
		return
	}
	size, wide := uint64(r.head[1]&0x7f), 0
	switch size {
	case 126:
		wide = 2
	case 127:
		wide = 8
	}
	masked := r.head[1]&0x80 != 0
	whole := 2 + wide
	if masked {
		whole += 4
	}
	if len(r.head) < whole {
		return
	}
	switch wide {
	case 2:
		size = uint64(binary.BigEndian.Uint16(r.head[2:]))
	case 8:
		size = binary.BigEndian.Uint64(r.head[2:])
	}
	r.key, r.at = [4]byte{}, 0
	if masked {
		r.key = [4]byte(r.head[whole-4:])
	}
	r.first, r.left, r.body, r.head = r.head[0], size, size > 0, r.head[:0]
}
