package image

import (
	"bytes"
	"compress/gzip"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"testing/iotest"
)

// gzipped packs data at a level.
func gzipped(t testing.TB, data []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// samples are data of kinds that the decoder treats differently.
func samples(t testing.TB) map[string][]byte {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	random := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(random)
	skewed := make([]byte, 1<<20) // long codes
	for i := range skewed {
		for skewed[i] < 250 && rand.N(3) > 0 {
			skewed[i]++
		}
	}
	return map[string][]byte{
		"empty": nil, "byte": {1}, "zeros": make([]byte, 3<<20), "random": random, "skewed": skewed, "code": code[:min(len(code), 8<<20)],
		"period": bytes.Repeat([]byte("abc"), 1<<20), "far": append(append(random[:32<<10:32<<10], random[:32<<10]...), random[:300]...),
	}
}

func TestGunzip(t *testing.T) {
	for name, data := range samples(t) {
		for _, level := range []int{gzip.HuffmanOnly, gzip.NoCompression, gzip.BestSpeed, gzip.DefaultCompression, gzip.BestCompression} {
			packed := gzipped(t, data, level)
			for how, r := range map[string]io.Reader{
				"whole": bytes.NewReader(packed), "halves": iotest.HalfReader(bytes.NewReader(packed)), "early end": iotest.DataErrReader(bytes.NewReader(packed)),
				"bytes": iotest.OneByteReader(bytes.NewReader(packed[:min(len(packed), 1<<30)])),
			} {
				if how == "bytes" && len(packed) > 1<<20 {
					continue
				}
				got, err := io.ReadAll(newGunzip(r))
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s, level %d, %s: %d of %d bytes, %v", name, level, how, len(got), len(data), err)
				}
			}
			// Two members are one stream.
			two := append(append([]byte{}, packed...), packed...)
			if got, err := io.ReadAll(newGunzip(bytes.NewReader(two))); err != nil || len(got) != 2*len(data) {
				t.Errorf("%s twice, level %d: %d bytes, %v", name, level, len(got), err)
			}
		}
	}
}

func TestGunzipRefuses(t *testing.T) {
	data := bytes.Repeat([]byte("The quick brown fox. "), 1000)
	packed := gzipped(t, data, 9)
	for n := range packed {
		if got, err := io.ReadAll(newGunzip(bytes.NewReader(packed[:n]))); err == nil {
			t.Fatalf("cut after %d of %d bytes: %d bytes and no error", n, len(packed), len(got))
		}
	}
	for i := range packed {
		if i >= 4 && i < 10 {
			continue // time and system: anything goes
		}
		b := bytes.Clone(packed)
		b[i] ^= 0x10
		if got, err := io.ReadAll(newGunzip(bytes.NewReader(b))); err == nil && i != 3 {
			t.Errorf("byte %d changed: %d bytes and no error", i, len(got))
		}
	}
	if _, err := io.ReadAll(newGunzip(bytes.NewReader(append(packed, "garbage behind the end"...)))); err == nil {
		t.Error("garbage behind the end was accepted")
	}
}

// FuzzGunzip compares with the standard library: the same bytes, and an error when it has one.
func FuzzGunzip(f *testing.F) {
	for _, data := range []string{"", "a", "hello, hello, hello", string(make([]byte, 5000))} {
		for _, level := range []int{gzip.HuffmanOnly, gzip.NoCompression, gzip.BestSpeed, gzip.BestCompression} {
			f.Add(gzipped(f, []byte(data), level))
		}
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		const limit = 1 << 20
		var want []byte
		r, wantErr := gzip.NewReader(bytes.NewReader(packed))
		if wantErr == nil {
			want, wantErr = io.ReadAll(io.LimitReader(r, limit))
		}
		got, err := io.ReadAll(io.LimitReader(newGunzip(bytes.NewReader(packed)), limit))
		if wantErr == nil && (err != nil || !bytes.Equal(got, want)) {
			t.Errorf("%d bytes, %v; the library has %d", len(got), err, len(want))
		}
		if wantErr != nil && err == nil && len(want) < limit {
			t.Errorf("no error, the library says %v", wantErr)
		}
	})
}

func BenchmarkGunzip(b *testing.B) {
	packed := gzipped(b, samples(b)["code"], 6)
	b.SetBytes(8 << 20)
	for b.Loop() {
		if _, err := io.Copy(io.Discard, newGunzip(bytes.NewReader(packed))); err != nil {
			b.Fatal(err)
		}
	}
}
