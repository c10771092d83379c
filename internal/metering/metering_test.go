package metering

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestSamplesAreNeverTorn(t *testing.T) {
	dir := t.TempDir()
	if _, err := Read(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before the first sample: %v", err)
	}
	w, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	sample := func(n uint64) Sample {
		at := time.Unix(1_800_000_000, int64(n)).UTC()
		return Sample{At: at, Started: at, Interval: time.Duration(n), CPUs: n, Exited: n%2 == 1, CPUPercent: float64(n) / 3, CPUTime: time.Duration(n), Memory: n, Resident: n,
			MemoryLimit: n, DiskRead: n, DiskWritten: n, Received: n, Sent: n, Upper: n%2 == 0, UpperUsed: n, UpperFree: n}
	}
	first := sample(0)
	if err := w.Write(&first); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		defer w.Close()
		for n := uint64(1); ; n++ {
			s := sample(n)
			if err := w.Write(&s); err != nil {
				done <- err
				return
			}
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
		}
	}()
	for range 2000 {
		got, err := Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got != sample(got.CPUs) {
			t.Fatalf("torn: %+v", got)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if last, err := Read(dir); err != nil || last != sample(last.CPUs) {
		t.Errorf("the last sample: %+v, %v", last, err)
	}
}

func TestWhatIsNoSample(t *testing.T) {
	dir := t.TempDir()
	for _, b := range [][]byte{{}, make([]byte, size), make([]byte, 4096)} {
		if err := os.WriteFile(filepath.Join(dir, File), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := Read(dir); !errors.Is(err, errTorn) {
			t.Errorf("%d zeroes are read as %+v, %v", len(b), s, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	var b [size]byte
	(&Sample{CPUs: 3}).encode(&b)
	f.Add(b[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := decode(b); err == nil {
			var again [size]byte
			s.encode(&again)
			if _, err := decode(again[:]); err != nil {
				t.Errorf("%+v: %v", s, err)
			}
		}
	})
}
