package agentproto

import (
	"bytes"
	"io"
	"reflect"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

// fuzzPayload feeds a decoder with anything. What it accepts, it encodes so that it decodes to the same again.
func fuzzPayload[T any, P payloadOf[T]](f *testing.F) {
	for _, g := range golden {
		f.Add(Encode(g.p))
	}
	f.Add([]byte{0xbf, 0x63, 'c', 'm', 'd', 0x7f, 0x61, 'x', 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		v := P(new(T))
		if Decode(b, v) != nil {
			return
		}
		if cbor.Wellformed(b) != nil && nesting(b) {
			t.Fatalf("%x is not CBOR", b)
		}
		again := Encode(v)
		if err := cbor.Wellformed(again); err != nil {
			t.Fatalf("%+v is written as %x: %v", v, again, err)
		}
		w := P(new(T))
		if err := Decode(again, w); err != nil {
			t.Fatalf("%+v is written as %x, which is not read: %v", v, again, err)
		}
		if twice := Encode(w); !bytes.Equal(again, twice) {
			t.Fatalf("%x is read and written as %x", again, twice)
		}
	})
}

// nesting reports whether the other implementation's own limits are not what refused b.
func nesting(b []byte) bool { return bytes.Count(b, []byte{0xff}) == 0 && len(b) < 1<<10 }

func FuzzExecRequest(f *testing.F)        { fuzzPayload[ExecRequest](f) }
func FuzzExecStarted(f *testing.F)        { fuzzPayload[ExecStarted](f) }
func FuzzExecExited(f *testing.F)         { fuzzPayload[ExecExited](f) }
func FuzzExecFailed(f *testing.F)         { fuzzPayload[ExecFailed](f) }
func FuzzExecStdinError(f *testing.F)     { fuzzPayload[ExecStdinError](f) }
func FuzzExecResize(f *testing.F)         { fuzzPayload[ExecResize](f) }
func FuzzExecSignal(f *testing.F)         { fuzzPayload[ExecSignal](f) }
func FuzzFSRequest(f *testing.F)          { fuzzPayload[FSRequest](f) }
func FuzzFSResponse(f *testing.F)         { fuzzPayload[FSResponse](f) }
func FuzzFSPut(f *testing.F)              { fuzzPayload[FSPut](f) }
func FuzzFSGet(f *testing.F)              { fuzzPayload[FSGet](f) }
func FuzzFSGot(f *testing.F)              { fuzzPayload[FSGot](f) }
func FuzzTCPConnect(f *testing.F)         { fuzzPayload[TCPConnect](f) }
func FuzzTCPFailed(f *testing.F)          { fuzzPayload[TCPFailed](f) }
func FuzzReady(f *testing.F)              { fuzzPayload[Ready](f) }
func FuzzInitResolved(f *testing.F)       { fuzzPayload[InitResolved](f) }
func FuzzClientDisconnected(f *testing.F) { fuzzPayload[ClientDisconnected](f) }
func FuzzClockSync(f *testing.F)          { fuzzPayload[ClockSync](f) }
func FuzzTouched(f *testing.F)            { fuzzPayload[Touched](f) }
func FuzzAck(f *testing.F)                { fuzzPayload[Ack](f) }
func FuzzError(f *testing.F)              { fuzzPayload[Error](f) }
func FuzzBootstrap(f *testing.F)          { fuzzPayload[Bootstrap](f) }
func FuzzKernelRun(f *testing.F)          { fuzzPayload[KernelRun](f) }
func FuzzKernelStarted(f *testing.F)      { fuzzPayload[KernelStarted](f) }
func FuzzKernelResult(f *testing.F)       { fuzzPayload[KernelResult](f) }
func FuzzKernelDone(f *testing.F)         { fuzzPayload[KernelDone](f) }
func FuzzKernelRequest(f *testing.F)      { fuzzPayload[KernelRequest](f) }
func FuzzKernelResponse(f *testing.F)     { fuzzPayload[KernelResponse](f) }
func FuzzKernelFailed(f *testing.F)       { fuzzPayload[KernelFailed](f) }

func FuzzData(f *testing.F) {
	f.Add([]byte{0xa1, 0x64, 'd', 'a', 't', 'a', 0x42, 'h', 'i'})
	f.Add([]byte{0xbf, 0x64, 'd', 'a', 't', 'a', 0x5f, 0x41, 'h', 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		data, err := DecodeData(b)
		if err != nil {
			return
		}
		var other struct {
			Data []byte `cbor:"data"`
		}
		if cbor.Unmarshal(b, &other) == nil && !bytes.Equal(data, other.Data) && other.Data != nil {
			t.Fatalf("%x holds %x, another decoder says %x", b, data, other.Data)
		}
	})
}

// FuzzFrames reads a stream as a relay and as an agent do.
func FuzzFrames(f *testing.F) {
	var all []byte
	for _, g := range golden {
		b := Append(nil, g.id, g.t, g.p)
		f.Add(b)
		all = append(all, b...)
	}
	f.Add(all)
	f.Add(all[:len(all)-3])
	f.Add([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0})
	f.Add([]byte{0, 0x40, 0, 1, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b))
		read := 0
		for {
			frame, err := r.Next()
			if err != nil {
				if err == io.EOF && read != len(b) {
					t.Fatalf("the end came after %d bytes of %d", read, len(b))
				}
				return
			}
			if !bytes.Equal(frame.Raw(), b[read:read+len(frame.Raw())]) {
				t.Fatal("a frame is not what was sent")
			}
			read += len(frame.Raw())
			m, err := Open(frame.Body())
			if err == nil && TypeOf(frame.Body()) != m.Type {
				t.Fatal("TypeOf differs from Open")
			}
			if err == nil && m.Gen == Generation {
				again := AppendRaw(nil, frame.ID, frame.Flags, m.Type, m.Payload)
				back, err := Open(again[HeaderLen:])
				if err != nil || !reflect.DeepEqual(back, m) {
					t.Fatalf("have %+v, want %+v: %v", back, m, err)
				}
			}
			frame.Release()
		}
	})
}
