// Package metering hands samples of what a sandbox uses from its runner to whoever asks, through a small file: the runner
// writes it over and over, readers read it, and neither waits for the other or wakes the guest. While nothing happens in a
// sandbox its file is written seldom, and who wants the last sample asks the runner for it. The last of all stays when the
// runner is gone.
package metering

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// File is the name of the file in a sandbox's directory of logs.
const File = "metrics"

// Sample is one sample. Times are of the host's clock, sizes in bytes; counters run from Started.
type Sample struct {
	At       time.Time
	Started  time.Time
	Interval time.Duration
	CPUs     uint64
	Exited   bool // it is the last

	CPUPercent float64 // since the last sample; 100 is one CPU
	CPUTime    time.Duration

	Memory      uint64
	Resident    uint64 // on the host; 0: not known
	MemoryLimit uint64

	DiskRead, DiskWritten uint64
	Received, Sent        uint64

	Upper     bool // there is a writable layer on the host
	UpperUsed uint64
	UpperFree uint64
}

// The file: a magic number, so many little-endian words, and a CRC-32C of both. A reader that meets a writer half-way reads
// again.
const (
	magic = "MSBMET01"
	words = 17
	size  = len(magic) + 8*words + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (s *Sample) encode(b *[size]byte) {
	flag := func(on bool) uint64 {
		if on {
			return 1
		}
		return 0
	}
	copy(b[:], magic)
	for i, w := range [words]uint64{uint64(s.At.UnixNano()), uint64(s.Started.UnixNano()), uint64(s.Interval), s.CPUs, flag(s.Exited), math.Float64bits(s.CPUPercent),
		uint64(s.CPUTime), s.Memory, s.Resident, s.MemoryLimit, s.DiskRead, s.DiskWritten, s.Received, s.Sent, flag(s.Upper), s.UpperUsed, s.UpperFree} {
		binary.LittleEndian.PutUint64(b[len(magic)+8*i:], w)
	}
	binary.LittleEndian.PutUint32(b[size-4:], crc32.Checksum(b[:size-4], castagnoli))
}

// Encode is the sample as it is in the file.
func (s *Sample) Encode() []byte {
	var b [size]byte
	s.encode(&b)
	return b[:]
}

// Decode reads what [Sample.Encode] made.
func Decode(b []byte) (Sample, error) { return decode(b) }

var errTorn = errors.New("the sample is being written, or none of ours")

func decode(b []byte) (Sample, error) {
	if len(b) != size || string(b[:len(magic)]) != magic || binary.LittleEndian.Uint32(b[size-4:]) != crc32.Checksum(b[:size-4], castagnoli) {
		return Sample{}, errTorn
	}
	var w [words]uint64
	for i := range w {
		w[i] = binary.LittleEndian.Uint64(b[len(magic)+8*i:])
	}
	return Sample{At: time.Unix(0, int64(w[0])).UTC(), Started: time.Unix(0, int64(w[1])).UTC(), Interval: time.Duration(w[2]), CPUs: w[3], Exited: w[4] != 0,
		CPUPercent: math.Float64frombits(w[5]), CPUTime: time.Duration(w[6]), Memory: w[7], Resident: w[8], MemoryLimit: w[9], DiskRead: w[10], DiskWritten: w[11],
		Received: w[12], Sent: w[13], Upper: w[14] != 0, UpperUsed: w[15], UpperFree: w[16]}, nil
}

// Writer writes the file. It is for one goroutine at a time.
type Writer struct {
	f   *os.File
	buf [size]byte
}

// Create makes the file in dir, over what an earlier run left.
func Create(dir string) (*Writer, error) {
	f, err := os.OpenFile(filepath.Join(dir, File), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make the file for metrics: %w", err)
	}
	return &Writer{f: f}, nil
}

// Write replaces the sample.
func (w *Writer) Write(s *Sample) error {
	s.encode(&w.buf)
	if _, err := w.f.WriteAt(w.buf[:], 0); err != nil {
		return fmt.Errorf("write the metrics: %w", err)
	}
	return nil
}

// Close closes the file; the last sample stays.
func (w *Writer) Close() error { return w.f.Close() }

// Remove removes what an earlier run left.
func Remove(dir string) error {
	if err := os.Remove(filepath.Join(dir, File)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the last run's metrics: %w", err)
	}
	return nil
}

// Read reads the last sample from dir. There is none yet where the error is fs.ErrNotExist.
func Read(dir string) (Sample, error) {
	f, err := os.OpenFile(filepath.Join(dir, File), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return Sample{}, err
	}
	defer f.Close()
	const tries = 100
	var b [size]byte
	for n := 0; ; n++ {
		got, err := f.ReadAt(b[:], 0)
		s, bad := decode(b[:got])
		if bad == nil {
			return s, nil
		}
		if n == tries {
			return Sample{}, fmt.Errorf("read the metrics: %w", errors.Join(bad, err))
		}
		time.Sleep(time.Millisecond)
	}
}
