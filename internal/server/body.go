package server

import (
	"context"
	"io"
	"net/http"
)

// The bounds of JSON in a body. A short text can make many values, each of which takes far more than its text.
const (
	maxValues = 20_000 // of which freeValues count as nothing
	maxDepth  = 64

	freeValues = 256
	valueSize  = 512 // bytes that one may take
)

// ReadBody reads a body that is JSON, or is to be. What has too many values to be decoded is a [Failure]. A list of numbers that a member
// named bytes has counts as one value; "" is no member.
func ReadBody(r *http.Request, bytes string) ([]byte, error) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	return data, checkJSON(r.Context(), data, bytes)
}

func checkJSON(ctx context.Context, data []byte, bytes string) error {
	n, depth := measure(data, bytes)
	switch {
	case n > maxValues:
		return Invalid("the body has more than %d values", maxValues)
	case depth > maxDepth:
		return Invalid("the body is nested more than %d deep", maxDepth)
	}
	t := traceOf(ctx)
	return t.body.add(t.caller.Namespace, int64(max(0, n-freeValues)*valueSize))
}

// measure is how many values JSON has, at most (those that hold others may count twice), and how deep they are. It stops where either is too much. What is not JSON has any number.
func measure(data []byte, bytes string) (values, depth int) {
	values = 1
	at := 0
	for i := 0; i < len(data) && values <= maxValues && depth <= maxDepth; i++ {
		switch data[i] {
		case '"':
			begin := i + 1
			for i++; i < len(data) && data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
			if i < len(data) && bytes != "" && string(data[begin:i]) == bytes {
				i += bytesAfter(data[i+1:])
			}
		case ',':
			values++
		case '[', '{':
			values++
			at++
			depth = max(depth, at)
		case ']', '}':
			at--
		}
	}
	return values, depth
}

// bytesAfter is how long the list of numbers is that a member has whose name ends before data; 0 if it has something else.
func bytesAfter(data []byte) int {
	const before, colon, list = 0, 1, 2
	state := before
	for i, c := range data {
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
		case state == before && c == ':':
			state = colon
		case state == colon && c == '[':
			state = list
		case state == list && (c == ',' || '0' <= c && c <= '9'):
		case state == list && c == ']':
			return i + 1
		default:
			return 0
		}
	}
	return 0
}
