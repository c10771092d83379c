package agentproto

import "encoding/binary"

// Payload is one of the structs of this package. Its fields method names its keys in the order of the wire; the same
// method serves both directions.
type Payload interface{ fields(c *codec) }

// Message is the body of a frame: the sender's generation, the type, and the payload still encoded.
type Message struct {
	Gen     uint32
	Type    Type
	Payload []byte
}

// Open decodes a frame's body down to its payload. The result aliases body.
func Open(body []byte) (Message, error) {
	var m Message
	r := reader{body}
	var seen uint8
	err := r.elements(majorMap, maxPairs, func() error {
		key, err := r.text()
		if err != nil {
			return err
		}
		bit := uint8(0)
		switch string(key) {
		case "v":
			bit = 1
			n, neg, e := r.integer()
			if err = e; err == nil && (neg || n > 1<<32-1) {
				err = malformed("generation out of range")
			}
			m.Gen = uint32(n)
		case "t":
			bit = 2
			var t []byte
			t, err = r.text()
			m.Type = intern(t)
		case "p":
			bit = 4
			m.Payload, err = r.str(majorBytes)
		default:
			_, err = r.skip(1)
		}
		if seen&bit != 0 {
			return malformed("key %q twice", key)
		}
		seen |= bit
		return err
	})
	switch {
	case err != nil:
		return Message{}, err
	case len(r.b) != 0:
		return Message{}, malformed("bytes after the message")
	case seen != 7:
		return Message{}, malformed("v, t or p is missing")
	}
	return m, nil
}

// TypeOf is the type of a frame's body, or "" when it has none. It is for a relay that only wants to recognise some.
func TypeOf(body []byte) Type {
	m, err := Open(body)
	if err != nil {
		return ""
	}
	return m.Type
}

// Decode reads a payload into p, whose fields keep their values where a key is missing and has a default.
func Decode(payload []byte, p Payload) error {
	r := reader{payload}
	if err := decodeMap(&r, p, 0); err != nil {
		return err
	}
	if len(r.b) != 0 {
		return malformed("bytes after the payload")
	}
	return nil
}

// Encode returns the CBOR of a payload; nil is the empty map.
func Encode(p Payload) []byte { return appendPayload(nil, p) }

func appendPayload(b []byte, p Payload) []byte {
	if p == nil {
		return append(b, majorMap)
	}
	return encodeMap(b, p)
}

// Append appends a whole frame. A nil payload is the empty map.
func Append(b []byte, id uint32, t Type, p Payload) []byte {
	var scratch [512]byte
	payload := appendPayload(scratch[:0], p)
	b = appendEnvelope(b, id, t, len(payload))
	return append(b, payload...)
}

// AppendRaw appends a whole frame around an encoded payload, with flags of the caller's choice.
func AppendRaw(b []byte, id uint32, flags Flags, t Type, payload []byte) []byte {
	start := len(b)
	b = append(appendEnvelope(b, id, t, len(payload)), payload...)
	b[start+8] = byte(flags)
	return b
}

// AppendData appends a whole frame of a type whose payload is {data}.
func AppendData(b []byte, id uint32, t Type, data []byte) []byte {
	b = appendDataHead(b, id, t, len(data))
	return append(b, data...)
}

// DecodeData returns the bytes of a {data} payload. They alias it.
func DecodeData(payload []byte) ([]byte, error) {
	r := reader{payload}
	var data []byte
	seen := false
	err := r.elements(majorMap, maxPairs, func() error {
		key, err := r.text()
		if err != nil {
			return err
		}
		if string(key) != "data" {
			_, err = r.skip(1)
			return err
		}
		if seen {
			return malformed("key %q twice", key)
		}
		seen = true
		data, err = r.str(majorBytes)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case !seen:
		return nil, malformed("data is missing")
	case len(r.b) != 0:
		return nil, malformed("bytes after the payload")
	}
	return data, nil
}

// appendEnvelope appends everything of a frame that comes before a payload of n bytes.
func appendEnvelope(b []byte, id uint32, t Type, n int) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, id)
	b = append(b, byte(flagsOf(t)), majorMap|3)
	b = append(b, majorText|1, 'v', majorUint|Generation)
	b = appendText(append(b, majorText|1, 't'), string(t))
	b = appendHead(append(b, majorText|1, 'p'), majorBytes, uint64(n))
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4+n))
	return b
}

func appendDataHead(b []byte, id uint32, t Type, n int) []byte {
	const key = "data"
	size := 1 + 1 + len(key) + headLen(n) + n
	b = appendEnvelope(b, id, t, size)
	b = appendText(append(b, majorMap|1), key)
	return appendHead(b, majorBytes, uint64(n))
}

func headLen(n int) int {
	switch {
	case n < 24:
		return 1
	case n <= 0xff:
		return 2
	case n <= 0xffff:
		return 3
	}
	return 5
}

// headroom is the most that comes before the data of a data frame.
const headroom = 96

// DataBuffer is a buffer with room for a frame's head before its data, so that what is read from a pipe goes to the
// connection without being copied.
type DataBuffer struct{ b []byte }

// NewDataBuffer returns a buffer for up to n bytes of data.
func NewDataBuffer(n int) *DataBuffer { return &DataBuffer{make([]byte, headroom+n)} }

// Space is where the data goes.
func (d *DataBuffer) Space() []byte { return d.b[headroom:] }

// Frame returns the whole frame whose data are the first n bytes of Space. It is valid until Space is written again.
func (d *DataBuffer) Frame(id uint32, t Type, n int) []byte {
	var scratch [headroom]byte
	head := appendDataHead(scratch[:0], id, t, n)
	start := headroom - len(head)
	copy(d.b[start:], head)
	return d.b[start : headroom+n]
}
