package server

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestLog writes more than is kept, and goes on with what is there.
func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logs", "x.log")
	const lines, length = 60, 1 << 20
	written := 0
	write := func(l *Log) {
		t.Helper()
		line := append(bytes.Repeat([]byte("x"), length-5), fmt.Sprintf("%4d\n", written)...)
		written++
		if n, err := l.Write(line); n != length || err != nil {
			t.Fatal(n, err)
		}
	}
	for written < lines { // by many processes, one after the other
		l, err := OpenLog(path, false)
		if err != nil {
			t.Fatal(err)
		}
		for range 7 {
			write(l)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Write([]byte("x")); err == nil {
			t.Error("it is written to after its end")
		}
	}
	files, _ := filepath.Glob(path + "*")
	if len(files) != 1+logFiles {
		t.Errorf("there are %v", files)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Size() > logSize || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f, info, err)
		}
	}
	next := written - 1
	ReadLog(path, func(line []byte) bool {
		if want := fmt.Sprintf("%4d", next); !bytes.HasSuffix(line, []byte(want)) {
			t.Errorf("a line ends %q, want %s", line[max(0, len(line)-8):], want)
			return false
		}
		next--
		return true
	})
	if kept := written - 1 - next; kept < 30 || kept > 40 {
		t.Errorf("of %d lines %d are kept", written, kept)
	}
}
