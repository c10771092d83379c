package execlog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// retryAfter is how long a file that could not be written is left alone.
const retryAfter = time.Second

// file is exec.log as its writer sees it. It is for one goroutine.
type file struct {
	dir    string
	f      *os.File // nil: not open
	number uint64   // of the file
	size   int64
	torn   bool      // it ends within a line
	failed time.Time // when it last could not be opened or written
	err    error     // why, until flush tells

	patience int64 // the size before which it is not tried again to rotate it

	buf    []byte // lines that are not written yet
	queued int    // bytes of sessions' output in them
}

// line adds an entry to the buffer.
func (f *file) line(at time.Time, source sandbox.LogSource, session uint64, data []byte) {
	if len(f.buf) == 0 {
		f.ready()
	}
	if f.f != nil && f.size+int64(len(f.buf)) >= max(MaxFile, f.patience) {
		_, f.err = f.flush()
		if f.f != nil {
			f.rotate()
		}
	}
	first := uint64(0)
	if f.f != nil && f.size == 0 && len(f.buf) == 0 {
		first = f.number
	}
	f.buf = appendLine(f.buf, at, source, session, data, first)
	if source != sandbox.LogSystem {
		f.queued += len(data)
	}
}

func (f *file) full() bool { return len(f.buf) >= flushBytes }

// ready opens the file if it is not, unless that failed a moment ago.
func (f *file) ready() {
	if f.f != nil || time.Since(f.failed) < retryAfter {
		return
	}
	if f.err = f.open(); f.err != nil {
		f.failed = time.Now()
	}
}

// flush writes the buffer. It returns how many bytes of output were lost, and an error that is not known yet.
func (f *file) flush() (lost int, err error) {
	if len(f.buf) > 0 {
		lost, err = f.append()
		f.buf, f.queued = f.buf[:0], 0
	}
	if f.err != nil {
		err, f.err = f.err, nil
	}
	return lost, err
}

func (f *file) append() (lost int, err error) {
	if f.f == nil {
		return f.queued, nil
	}
	if f.torn {
		f.buf = append([]byte{'\n'}, f.buf...) // what is before is passed over by readers
	}
	n, err := f.f.Write(f.buf)
	f.size += int64(n)
	if err == nil {
		f.torn = false
		return 0, nil
	}
	f.close()
	f.failed = time.Now()
	return f.queued, err
}

// open opens the file for going on where the last run ended, however that did.
func (f *file) open() error {
	path := filepath.Join(f.dir, File)
	for {
		o, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return fmt.Errorf("open the log: %w", err)
		}
		info, err := o.Stat()
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s is no file", path)
		}
		if err != nil {
			o.Close()
			return fmt.Errorf("open the log: %w", err)
		}
		f.size = info.Size()
		if f.size == 0 {
			f.number, f.torn = numberOf(filepath.Join(f.dir, oldName(1)))+1, false
			f.f = o
			return nil
		}
		f.number = headOf(o)
		if f.number == 0 { // a machine's crash left something else than what was written: it cannot be read
			o.Close()
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("remove a damaged log: %w", err)
			}
			continue
		}
		var last [1]byte
		_, err = o.ReadAt(last[:], f.size-1)
		f.torn = err != nil || last[0] != '\n'
		f.f = o
		return nil
	}
}

// rotate makes the file the first of the old ones. If that fails, it grows by a tenth before that is tried again.
func (f *file) rotate() {
	for n := OldFiles - 1; n >= 0; n-- {
		err := os.Rename(filepath.Join(f.dir, oldName(n)), filepath.Join(f.dir, oldName(n+1)))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			f.err, f.patience = fmt.Errorf("rotate the log: %w", err), f.size+MaxFile/10
			return
		}
	}
	f.close()
	f.patience = 0
	f.ready()
}

func (f *file) close() {
	if f.f != nil {
		_ = f.f.Close()
		f.f = nil
	}
}

func (f *file) shrink() {
	if cap(f.buf) > keepBuffer {
		f.buf = nil
	}
}

// oldName is the name of the n-th old file; 0 is the one that is written.
func oldName(n int) string {
	if n == 0 {
		return File
	}
	return fmt.Sprintf("%s.%d", File, n)
}

// numberOf is the number of a file, 0 if it is not there or has none.
func numberOf(path string) uint64 {
	o, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0
	}
	defer o.Close()
	return headOf(o)
}

// headOf is the number in a file's first line.
func headOf(o *os.File) uint64 {
	r := bufio.NewReaderSize(io.NewSectionReader(o, 0, maxLine), 4<<10)
	var head []byte
	for {
		part, err := r.ReadSlice('\n')
		head = append(head, part...)
		if err == nil {
			return headFile(bytes.TrimSuffix(head, []byte("\n")))
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return 0
		}
	}
}
