package execlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// tape reads the lines of a log from its files as if it were one, and goes on while it is written and rotated.
type tape struct {
	dir     string
	name    string // of the file that is written
	rotates bool

	files []numbered // open, the oldest first; the first is being read
	at    position   // of the next line
	limit int64      // where the last file ended when it was opened; what comes then is for those who follow

	buf     []byte // what was read from at.offset on
	next    int    // where in buf the next line begins
	eof     bool   // nothing more could be read
	skip    bool   // within a line that is too long
	scratch []byte
}

type numbered struct {
	*os.File
	number uint64
}

// readSize is how much is read at once.
const readSize = 64 << 10

// openTape opens what there is of a log, to be read from a position on; the zero position is the beginning. Kind:
// MissedRotation.
func openTape(dir, name string, rotates bool, from position) (*tape, error) {
	t := &tape{dir: dir, name: name, rotates: rotates}
	if err := t.open(from.file); err != nil {
		return nil, err
	}
	if from.file != 0 {
		return t, t.seek(from)
	}
	t.begin()
	return t, nil
}

// open opens the files from a number on. Files that are renamed meanwhile are found by theirs.
func (t *tape) open(least uint64) error {
	const tries = 10
	for n := 0; ; n++ {
		files, err := t.list(least)
		if err != nil {
			return err
		}
		whole := true
		for i := 1; i < len(files); i++ {
			whole = whole && files[i].number == files[i-1].number+1
		}
		if whole || n == tries { // files that somebody removed stay missing
			t.files = files
			return nil
		}
		closeAll(files)
	}
}

func closeAll(files []numbered) {
	for _, f := range files {
		f.Close()
	}
}

func (t *tape) list(least uint64) (files []numbered, err error) {
	oldest := 0
	if t.rotates {
		oldest = OldFiles
	}
	last := uint64(0)
	for n := oldest; n >= 0; n-- {
		name := t.name
		if n > 0 {
			name = fmt.Sprintf("%s.%d", t.name, n)
		}
		f, err := os.OpenFile(filepath.Join(t.dir, name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			closeAll(files)
			return nil, &sandbox.Error{Op: "logs", Kind: sandbox.IO, Message: "open the log", Err: err}
		}
		number := uint64(1)
		if t.rotates {
			number = headOf(f)
		}
		if number <= last || number < least { // seen under its last name, not begun yet, or not wanted
			f.Close()
			continue
		}
		last = number
		files = append(files, numbered{f, number})
	}
	return files, nil
}

// begin goes to the start of the first file.
func (t *tape) begin() {
	if len(t.files) > 0 {
		t.at = position{t.files[0].number, 0}
		t.limit = sizeOf(t.files[len(t.files)-1].File)
	}
	t.buf, t.next, t.eof, t.skip = t.buf[:0], 0, false, false
}

// seek goes to a position of which a cursor spoke.
func (t *tape) seek(to position) error {
	t.begin()
	switch {
	case len(t.files) == 0:
		t.at = to // nothing is there; what comes is new
		t.at.offset = 0
		return nil
	case t.files[0].number > to.file:
		return missed(to.offset)
	}
	if size := sizeOf(t.files[0].File); to.offset > uint64(size) {
		return &sandbox.Error{Op: "logs", Kind: sandbox.InvalidCursor, Message: fmt.Sprintf("cursor is %d bytes behind the end of the log", to.offset-uint64(size))}
	}
	t.at = to
	return nil
}

func missed(offset uint64) error {
	return &sandbox.Error{Op: "logs", Kind: sandbox.MissedRotation, Message: fmt.Sprintf("log stream missed rotation (dropped from offset %d)", offset),
		Hint: "read what is there from the beginning"}
}

func sizeOf(f *os.File) int64 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// line returns the next line without its end, and io.EOF if there is no whole one now. It is valid until the next call.
// With follow, files that were begun since are read, too; Kind: MissedRotation.
func (t *tape) line(follow bool) ([]byte, error) {
	for {
		if l, ok := t.buffered(); ok {
			return l, nil
		}
		if len(t.files) == 0 {
			if !follow {
				return nil, io.EOF
			}
			if err := t.open(t.at.file); err != nil || len(t.files) == 0 {
				return nil, errors.Join(err, io.EOF)
			}
			if t.at.file != 0 && t.files[0].number > t.at.file {
				return nil, missed(t.at.offset)
			}
			t.begin()
		}
		more, err := t.fill(follow)
		if err != nil {
			return nil, err
		}
		if more {
			continue
		}
		if len(t.files) > 1 {
			t.advance()
			continue
		}
		if !follow || !t.rotates {
			return nil, io.EOF
		}
		if err := t.turn(); err != nil {
			return nil, err
		}
	}
}

// buffered takes a line from the buffer.
func (t *tape) buffered() ([]byte, bool) {
	for {
		rest := t.buf[t.next:]
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			if len(rest) > maxLine { // nothing of ours; pass over it
				t.at.offset += uint64(len(rest))
				t.buf, t.next, t.skip = t.buf[:0], 0, true
			}
			return nil, false
		}
		t.next += end + 1
		t.at.offset += uint64(end) + 1
		if t.skip {
			t.skip = false
			continue
		}
		return rest[:end], true
	}
}

// fill reads more of the first file into the buffer. It reports false at its end.
func (t *tape) fill(follow bool) (bool, error) {
	if t.next > 0 {
		t.buf = t.buf[:copy(t.buf, t.buf[t.next:])]
		t.next = 0
	}
	from := int64(t.at.offset) + int64(len(t.buf))
	most := int64(math.MaxInt64)
	if !follow && len(t.files) == 1 {
		most = t.limit - from
	}
	n := int(min(readSize, most))
	if n <= 0 {
		return false, nil
	}
	have := len(t.buf)
	if cap(t.buf) < have+n {
		t.buf = append(make([]byte, 0, max(2*cap(t.buf), have+n)), t.buf...)
	}
	got, err := t.files[0].ReadAt(t.buf[have:have+n], from)
	t.buf = t.buf[:have+got]
	if err != nil && err != io.EOF {
		return false, &sandbox.Error{Op: "logs", Kind: sandbox.IO, Message: "read the log", Err: err}
	}
	return got > 0, nil
}

// advance goes to the next file that is open. A line that was cut off at the end of this one is no line.
func (t *tape) advance() {
	t.files[0].Close()
	t.files = t.files[1:]
	t.at = position{t.files[0].number, 0}
	t.buf, t.next, t.skip = t.buf[:0], 0, false
}

// turn looks whether the file that is being read, and was read to its end, is written no more. It returns io.EOF if it is.
func (t *tape) turn() error {
	ours, err := t.files[0].Stat()
	if err != nil {
		return &sandbox.Error{Op: "logs", Kind: sandbox.IO, Message: "read the log", Err: err}
	}
	now, err := os.Lstat(filepath.Join(t.dir, t.name))
	if err != nil || os.SameFile(ours, now) {
		return io.EOF // between two renames; or removed with the sandbox
	}
	if ours.Size() > int64(t.at.offset)+int64(len(t.buf)) {
		return nil // written between our last look and the renaming
	}
	number := t.files[0].number
	files, err := t.list(number + 1)
	if err != nil {
		return err
	}
	switch {
	case len(files) == 0:
		return io.EOF // the next one has no first line yet
	case files[0].number > number+1:
		// Rotated meanwhile, perhaps, while the list was made.
		closeAll(files)
		if files, err = t.list(number + 1); err != nil {
			return err
		}
		if len(files) == 0 || files[0].number > number+1 {
			closeAll(files)
			return missed(t.at.offset)
		}
	}
	t.files = append(t.files[:1], files...)
	t.limit = sizeOf(files[len(files)-1].File)
	return nil
}

func (t *tape) close() { closeAll(t.files) }
