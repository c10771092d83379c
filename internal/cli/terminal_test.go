package cli

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"
)

func TestTTYReader(t *testing.T) {
	for in, want := range map[string]string{"": "\x04", "a\n": "a\n\x04", "a": "a\x04\x04"} {
		for _, r := range []io.Reader{bytes.NewBufferString(in), iotest.DataErrReader(bytes.NewBufferString(in)), iotest.OneByteReader(bytes.NewBufferString(in))} {
			got, err := io.ReadAll(&ttyReader{in: r})
			if err != nil || string(got) != want {
				t.Errorf("%q became %q, %v; want %q", in, got, err, want)
			}
		}
	}
}
