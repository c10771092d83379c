package server

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// The sizes of a log: each file's in bytes, and how many older ones are kept.
const (
	logSize  = 10 << 20
	logFiles = 3
)

// Log is a file that is not longer than 10 MiB; older ones are beside it, the newest with .1 behind its name.
type Log struct {
	path   string
	stdio  bool
	mu     sync.Mutex
	file   *os.File
	length int64
}

// OpenLog opens the log at path, whose directory it makes. With stdio whatever the process prints goes there, too.
func OpenLog(path string, stdio bool) (*Log, error) {
	l := &Log{path: path, stdio: stdio}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return l, l.open()
}

func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	if l.stdio {
		for _, fd := range []int{1, 2} {
			err = errors.Join(err, unix.Dup3(int(f.Fd()), fd, 0))
		}
	}
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.length = f, info.Size()
	return nil
}

// Write appends p, in a new file if the old one is full.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return 0, os.ErrClosed
	}
	if l.length > 0 && l.length+int64(len(p)) > logSize {
		for i := logFiles; i > 0; i-- {
			from := l.path
			if i > 1 {
				from = fmt.Sprintf("%s.%d", l.path, i-1)
			}
			_ = os.Rename(from, fmt.Sprintf("%s.%d", l.path, i)) // what is not there is not moved
		}
		old := l.file
		if err := l.open(); err == nil { // else the old one grows
			old.Close()
		}
	}
	n, err := l.file.Write(p)
	l.length += int64(n)
	return n, err
}

// Close closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// ReadLog calls f with the lines of the log at path and of the older ones beside it, the newest line first, until f returns false. What
// cannot be read is passed over; what is written meanwhile may be.
func ReadLog(path string, f func(line []byte) bool) {
	for i := range logFiles + 1 {
		name := path
		if i > 0 {
			name = fmt.Sprintf("%s.%d", path, i)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for _, line := range slices.Backward(bytes.Split(data, []byte("\n"))) {
			if len(line) > 0 && !f(line) {
				return
			}
		}
	}
}
