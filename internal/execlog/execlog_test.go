package execlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newTestWriter(t *testing.T, dir string) *Writer {
	t.Helper()
	return NewWriter(dir, 0, slog.New(slog.DiscardHandler))
}

// readAll reads a log to its end.
func readAll(t *testing.T, dir string, opt Options) []sandbox.LogEntry {
	t.Helper()
	r, err := Open(t.Context(), dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all []sandbox.LogEntry
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("after %d entries: %v", len(all), err)
		}
		all = append(all, e)
	}
}

var everything = Options{LogOptions: sandbox.LogOptions{Sources: []sandbox.LogSource{sandbox.LogStdout, sandbox.LogStderr, sandbox.LogOutput, sandbox.LogSystem}}}

func texts(entries []sandbox.LogEntry) string {
	var b strings.Builder
	for _, e := range entries {
		id := uint64(0)
		if e.Session != nil {
			id = *e.Session
		}
		fmt.Fprintf(&b, "%s %d %q\n", e.Source, id, e.Data)
	}
	return b.String()
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	dir := t.TempDir()
	w := newTestWriter(t, dir)
	w.System(Started)
	a, b := w.Session(1, false, true), w.Session(2, true, true)
	a.Stdout([]byte("héllo\n\"quoted\"\\\x00\x1b[1m"))
	a.Stderr([]byte{0xff, 0xfe, 'x'})
	b.Stdout([]byte("on a terminal"))
	a.End()
	w.System(Stopped)
	w.Close()
	got := texts(readAll(t, dir, everything))
	want := "system 0 \"--- sandbox started ---\\n\"\n" + "stdout 1 \"héllo\\n\\\"quoted\\\"\\\\\\x00\\x1b[1m\"\n" + "stderr 1 \"\\xff\\xfex\"\n" +
		"output 2 \"on a terminal\"\n" + "system 0 \"--- sandbox stopped ---\\n\"\n"
	if got != want {
		t.Errorf("read\n%s, want\n%s", got, want)
	}
	raw, err := os.ReadFile(filepath.Join(dir, File))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(raw), "\n")
	if !strings.HasSuffix(lines[0], `,"g":1}`) || !strings.Contains(lines[2], `"s":"stderr","d":"//54","id":1,"e":"b64"}`) {
		t.Errorf("the file is\n%s", raw)
	}
}

// TestCharactersAcrossPieces splits a text at every byte.
func TestCharactersAcrossPieces(t *testing.T) {
	dir := t.TempDir()
	w := newTestWriter(t, dir)
	const text = "aé€😀z"
	var want bytes.Buffer
	for n := 1; n < len(text); n++ {
		s := w.Session(uint64(n), false, true)
		s.Stdout([]byte(text[:n]))
		s.Stderr([]byte("e"))
		s.Stdout([]byte(text[n:]))
		s.End()
		want.WriteString(text)
	}
	last := w.Session(99, false, true)
	last.Stdout([]byte("cut off \xe2\x82"))
	last.End()
	want.WriteString("cut off \xe2\x82")
	w.Close()
	var got bytes.Buffer
	for _, e := range readAll(t, dir, Options{LogOptions: sandbox.LogOptions{Sources: []sandbox.LogSource{sandbox.LogStdout}}}) {
		got.Write(e.Data)
		if !utf8.Valid(e.Data) && *e.Session != 99 {
			t.Errorf("a character was cut: %q", e.Data)
		}
	}
	if got.String() != want.String() {
		t.Errorf("read %q, want %q", got.String(), want.String())
	}
}

// TestRotation writes more than is kept, in pieces of all sizes, and reads what is left in order, with a cursor from each
// file on.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	w := newTestWriter(t, dir)
	s := w.Session(1, false, true)
	rnd := rand.New(rand.NewPCG(1, 2))
	line := 0
	for size := 0; size < 5*MaxFile; {
		var b []byte
		for n := rnd.IntN(4000); n >= 0; n-- {
			b = fmt.Appendf(b, "line %09d\n", line)
			line++
		}
		size += len(b)
		s.Stdout(b)
	}
	w.Close()
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1+OldFiles {
		t.Fatalf("there are %v, %v; want %d files", files, err, 1+OldFiles)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Size() > MaxFile+maxLine+flushBytes {
			t.Errorf("%s has %d bytes, %v", f.Name(), info.Size(), err)
		}
	}
	entries := readAll(t, dir, Options{})
	check := func(entries []sandbox.LogEntry) {
		t.Helper()
		next := -1
		rest := ""
		for _, e := range entries {
			rest += string(e.Data)
			for {
				l, after, ok := strings.Cut(rest, "\n")
				if !ok {
					break
				}
				rest = after
				var n int
				if _, err := fmt.Sscanf(l, "line %d", &n); err != nil {
					if next >= 0 {
						t.Fatalf("after line %d comes %q", next-1, l)
					}
					continue // the first may be the rest of a line whose beginning is gone
				}
				if next >= 0 && n != next {
					t.Fatalf("line %d comes after line %d", n, next-1)
				}
				next = n + 1
			}
		}
		if next != line {
			t.Errorf("the last line is %d, want %d", next-1, line-1)
		}
	}
	check(entries)
	for _, n := range []int{0, len(entries) / 4, len(entries) / 2, len(entries) - 2} {
		rest := readAll(t, dir, Options{LogOptions: sandbox.LogOptions{Cursor: entries[n].Cursor}})
		if len(rest) != len(entries)-n-1 || texts(rest[:1]) != texts(entries[n+1:n+2]) {
			t.Errorf("behind the cursor of entry %d are %d entries, want %d", n, len(rest), len(entries)-n-1)
		}
	}
	if tail := readAll(t, dir, Options{LogOptions: sandbox.LogOptions{Tail: 3}}); texts(tail) != texts(entries[len(entries)-3:]) {
		t.Errorf("the tail is %q", texts(tail))
	}
	_, err = Open(t.Context(), dir, Options{LogOptions: sandbox.LogOptions{Cursor: encodeCursor([]position{{1, 777}})}})
	if !errors.Is(err, sandbox.MissedRotation) || err.Error() != "log stream missed rotation (dropped from offset 777)" {
		t.Errorf("a cursor of a file that is gone: %v", err)
	}
}

func TestTimes(t *testing.T) {
	dir := t.TempDir()
	var b []byte
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for n := range 10 {
		number := uint64(0)
		if n == 0 {
			number = 1
		}
		b = appendLine(b, at.Add(time.Duration(n)*time.Second), sandbox.LogStdout, 1, []byte{'0' + byte(n)}, number)
	}
	if err := os.WriteFile(filepath.Join(dir, File), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, RunnerFile), []byte("time=2026-11-20T12:00:04.500Z level=WARN msg=hm\nunmarked\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteBootError(dir, BootError{Time: at, Stage: "mount", Message: "no"}); err != nil {
		t.Fatal(err)
	}
	opt := everything
	opt.Since, opt.Until = at.Add(3*time.Second), at.Add(6*time.Second)
	got := texts(readAll(t, dir, opt))
	want := `boot-error 0 "{\"t\":\"2026-11-20T12:00:00Z\",\"stage\":\"mount\",\"errno\":null,\"message\":\"no\"}"` + "\n" +
		"stdout 1 \"3\"\nstdout 1 \"4\"\nsystem 0 \"time=2026-11-20T12:00:04.500Z level=WARN msg=hm\\n\"\nsystem 0 \"unmarked\\n\"\nstdout 1 \"5\"\n"
	if got != want {
		t.Errorf("read\n%s, want\n%s", got, want)
	}
	// A cursor leads past both logs.
	entries := readAll(t, dir, everything)
	for n, e := range entries[:len(entries)-1] {
		opt := everything
		opt.Cursor = e.Cursor
		if rest := texts(readAll(t, dir, opt)); rest != texts(entries[n+1:]) {
			t.Errorf("behind entry %d (%q) come\n%s", n, e.Data, rest)
		}
	}
}

// TestAfterACrash goes on behind a line that was cut off, and with a file whose head is none of ours.
func TestAfterACrash(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, File)
	w := newTestWriter(t, dir)
	w.System("before\n")
	w.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(whole, whole[:len(whole)/2]...), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := texts(readAll(t, dir, everything)); got != "system 0 \"before\\n\"\n" {
		t.Errorf("with a line cut off: %s", got)
	}
	w = newTestWriter(t, dir)
	w.System("after\n")
	w.Close()
	if got := texts(readAll(t, dir, everything)); got != "system 0 \"before\\n\"\nsystem 0 \"after\\n\"\n" {
		t.Errorf("after the repair: %s", got)
	}
	if err := os.WriteFile(path, make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	w = newTestWriter(t, dir)
	w.System("again\n")
	w.Close()
	if got := texts(readAll(t, dir, everything)); got != "system 0 \"again\\n\"\n" {
		t.Errorf("after a damaged file: %s", got)
	}
}

// TestFollow follows from before the first entry, across rotations and a restart, to the end.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	var life atomic.Int32
	opt := everything
	opt.Follow, opt.Life = true, func() Life { return Life(life.Load()) }
	r, err := Open(t.Context(), dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	piece := bytes.Repeat([]byte("0123456789abcde\n"), MaxData/16)
	go func() {
		for range 2 { // runs of one sandbox
			w := newTestWriter(t, dir)
			w.System(Started)
			s := w.Session(1, false, true)
			for range 2*MaxFile/len(piece) + 1 {
				s.Stdout(piece)
				if s.w.queued() > 2 {
					time.Sleep(time.Millisecond) // so that the reader is not left behind; else it would say so
				}
			}
			w.System(Stopped)
			life.Store(int32(Ended))
			w.Close()
			life.Store(int32(Alive))
		}
		life.Store(int32(Gone))
	}()
	output, runs := 0, ""
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e.Source == sandbox.LogSystem {
			runs += string(e.Data)
		} else {
			output += len(e.Data)
		}
	}
	if want := 2 * (2*MaxFile/len(piece) + 1) * len(piece); output != want || runs != Started+Stopped+Started+Stopped {
		t.Errorf("read %d bytes of output and %q, want %d", output, runs, want)
	}
}

func (w *Writer) queued() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queue)
}

func TestFollowIsCancelled(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	opt := everything
	opt.Follow, opt.Life = true, func() Life { return Alive }
	r, err := Open(ctx, dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := r.Next(); !errors.Is(err, sandbox.Cancelled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestDiskThatHangs fills the queue with nobody writing, and loses no more than it says: of who is waited for, and of who is
// not.
func TestDiskThatHangs(t *testing.T) {
	for _, whole := range []bool{true, false} {
		dir := t.TempDir()
		w := newTestWriter(t, dir)
		hang := make(chan struct{})
		w.running = true
		go func() { <-hang; w.run() }()
		s := w.Session(1, false, whole)
		const pieces = 4 * queueBytes / MaxData
		if !whole {
			w.budget = 0
		}
		s.Stderr([]byte("\xe2"))
		for n := range pieces {
			s.Stdout(bytes.Repeat([]byte{'a' + byte(n%26)}, MaxData))
		}
		s.Stdout([]byte("the end"))
		s.End()
		close(hang)
		w.Close()
		have, missing := 0, 0
		entries := readAll(t, dir, everything)
		if _, err := fmt.Sscanf(string(entries[0].Data), "--- %d bytes of output are missing here", &missing); err != nil {
			t.Errorf("%q: %v", entries[0].Data, err)
		}
		for _, e := range entries[1:] {
			have += len(e.Data)
		}
		if have+missing != pieces*MaxData+len("the end")+1 || have < queueBytes-2*segmentBytes {
			t.Errorf("%d bytes are there and %d missing of %d", have, missing, pieces*MaxData)
		}
		if last := entries[len(entries)-1]; string(last.Data) != "the end" {
			t.Errorf("the last entry is %.20q", last.Data)
		}
	}
}

// TestDiskThatFails has no place to write to at first, and says later what is missing.
func TestDiskThatFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	w := newTestWriter(t, dir)
	s := w.Session(1, false, true)
	s.Stdout([]byte("lost"))
	for w.lost() == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for {
		time.Sleep(retryAfter / 4) // it is left alone for a while
		s.Stdout([]byte("more"))
		if _, err := os.Stat(filepath.Join(dir, File)); err == nil {
			break
		}
	}
	w.Close()
	entries := readAll(t, dir, everything)
	missing := 0
	if _, err := fmt.Sscanf(string(entries[0].Data), "--- %d bytes of output are missing here", &missing); err != nil || missing%4 != 0 {
		t.Errorf("%q: %v", entries[0].Data, err)
	}
	for _, e := range entries[1:] {
		if string(e.Data) != "more" {
			t.Errorf("then comes %q", e.Data)
		}
	}
	// At the end, too, a disk that fails is given up.
	w = newTestWriter(t, filepath.Join(dir, "nowhere"))
	w.Session(1, false, true).Stdout([]byte("lost"))
	w.Close()
	select {
	case <-w.done:
	default:
		t.Error("the writer has not ended")
	}
}

func (w *Writer) lost() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.missing
}

// TestFlood prints more than is waited for, and has the end of it.
func TestFlood(t *testing.T) {
	dir := t.TempDir()
	w := newTestWriter(t, dir)
	s := w.Session(1, false, false)
	const pieces = 2*burst/MaxData + 1
	for n := range pieces {
		s.Stdout(fmt.Appendf(nil, "%0*d\n", MaxData-1, n))
	}
	w.Close()
	missing, next := 0, -1
	for _, e := range readAll(t, dir, everything) {
		var n int
		if e.Source == sandbox.LogSystem {
			if _, err := fmt.Sscanf(string(e.Data), "--- %d bytes of output are missing here", &n); err != nil || n%MaxData != 0 {
				t.Fatalf("%q: %v", e.Data, err)
			}
			next += n / MaxData
			missing += n
			continue
		}
		if _, err := fmt.Sscanf(string(e.Data), "%d", &n); err != nil || next >= 0 && n != next {
			t.Fatalf("after %d comes %d, %v", next-1, n, err)
		}
		next = n + 1
	}
	if next != pieces {
		t.Errorf("the last piece is %d of %d; %d bytes are missing", next, pieces, missing)
	}
}

// TestNoFile sees that a run that is shorter than the wait touches nothing.
// TestSmallPieces has a guest that prints in pieces of one byte, and of none: they are not free.
func TestSmallPieces(t *testing.T) {
	w := NewWriter(t.TempDir(), time.Hour, slog.New(slog.DiscardHandler)) // nothing is written before the queue is full
	s := w.Session(1, false, false)
	for range 1000 {
		s.Stdout(nil)
	}
	if len(w.queue) > 0 {
		t.Error("nothing is queued as something")
	}
	for n := range 4 * segmentItems {
		s.Stdout([]byte{'x'})
		if n%1000 != 0 {
			continue
		}
		w.mu.Lock()
		for _, seg := range w.queue {
			if len(seg.items) > segmentItems {
				t.Fatalf("%d pieces in a segment", len(seg.items))
			}
		}
		w.mu.Unlock()
	}
	w.mu.Lock()
	if n := len(w.queue); n != 4 {
		t.Errorf("%d segments, want 4", n)
	}
	w.mu.Unlock()
	w.Close()
}

func TestNoFile(t *testing.T) {
	dir := t.TempDir()
	w := NewWriter(dir, time.Hour, slog.New(slog.DiscardHandler))
	w.System(Started)
	w.Session(1, false, true).Stdout([]byte("x"))
	w.Close()
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
		t.Errorf("there are %v, %v", files, err)
	}
}

func TestCursor(t *testing.T) {
	if got := encodeCursor([]position{{7, 100}}); got != "AQcAAAAAAAAAZAAAAAAAAAA=" { // contract msb-0.6 §3.5
		t.Errorf("cursor is %s", got)
	}
	for s, want := range map[string]string{
		"!":                       "invalid cursor: cursor is not valid base64",
		"AQc=":                    "invalid cursor: cursor payload has unexpected length (2 bytes)",
		"AA==":                    "invalid cursor: cursor payload has unexpected length (1 bytes)",
		strings.Repeat("A", 4000): "invalid cursor: cursor payload has unexpected length (3000 bytes)",
	} {
		if _, err := decodeCursor(s); err == nil || err.Error() != want {
			t.Errorf("%.20s: %v, want %s", s, err, want)
		}
	}
}

func TestPlainBytes(t *testing.T) {
	for c := range 256 {
		for n := range 8 {
			b := []byte("abcdefgh")
			b[n] = byte(c)
			if got := plain(binary.LittleEndian.Uint64(b)); got == escaped[c] {
				t.Errorf("%q is plain: %v", b, got)
			}
		}
	}
}

func FuzzCursor(f *testing.F) {
	f.Add("AQcAAAAAAAAAZAAAAAAAAAA=")
	f.Add(encodeCursor([]position{{1, 2}, {3, 4}}))
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		at, err := decodeCursor(s)
		if err == nil && encodeCursor(at) != s {
			t.Errorf("%q is not what %v is written as", s, at)
		}
	})
}

func FuzzLine(f *testing.F) {
	f.Add([]byte(`{"t":"2026-11-20T12:00:00.000Z","s":"stdout","d":"//4=","id":1,"e":"b64","g":3}`), []byte("text"))
	f.Add([]byte(`{"t":"2026-11-20T12:00:00.000Z","s":"system","d":"x"}`), []byte{0xff, 0})
	f.Fuzz(func(t *testing.T, stored, data []byte) {
		if e, _, err := parseLine(stored); err == nil && (e.Time.IsZero() && e.Time.Year() != 1 || e.Source == "") {
			t.Errorf("%q is read as %+v", stored, e)
		}
		at := time.UnixMilli(1_800_000_000_123)
		b := appendLine(nil, at, sandbox.LogStdout, 3, data, 9)
		if n := bytes.IndexByte(b, '\n'); n != len(b)-1 || len(data) <= MaxData && len(b) > maxLine {
			t.Fatalf("%q is stored in %d bytes with a newline at %d", data, len(b), n)
		}
		e, number, err := parseLine(b[:len(b)-1])
		if err != nil || number != 9 || !bytes.Equal(e.Data, data) || !e.Time.Equal(at) || *e.Session != 3 {
			t.Errorf("%q was read as %+v, %v", data, e, err)
		}
	})
}

// FuzzTape reads whatever is in a directory of logs.
func FuzzTape(f *testing.F) {
	good := appendLine(nil, time.UnixMilli(1), sandbox.LogStdout, 1, []byte("x"), 1)
	f.Add(good, []byte{}, "")
	f.Add([]byte("\n\n\x00{}"), good, encodeCursor([]position{{1, 3}}))
	f.Fuzz(func(t *testing.T, now, old []byte, cursor string) {
		dir := t.TempDir()
		for name, b := range map[string][]byte{File: now, oldName(1): old, RunnerFile: old} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		opt := everything
		opt.Cursor = cursor
		r, err := Open(t.Context(), dir, opt)
		if err != nil {
			return
		}
		defer r.Close()
		for n := 0; ; n++ {
			_, err := r.Next()
			if err != nil {
				return
			}
			if n > len(now)+2*len(old) {
				t.Fatal("more entries than bytes")
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	piece := bytes.Repeat([]byte("a line of text that is about so long, perhaps a little longer\n"), 1060)[:MaxData]
	b.SetBytes(int64(len(piece)))
	var buf []byte
	for b.Loop() {
		buf = appendLine(buf[:0], time.Time{}, sandbox.LogStdout, 1, piece, 0)
	}
}

// TestLargePieces logs pieces that are larger than a segment.
func TestLargePieces(t *testing.T) {
	dir := t.TempDir()
	w := newTestWriter(t, dir)
	s := w.Session(1, false, true)
	text := strings.Repeat("é", 2*segmentBytes)
	s.Stdout([]byte("x" + text))
	s.Stdout([]byte(text))
	s.End()
	w.Close()
	var got strings.Builder
	for _, e := range readAll(t, dir, everything) {
		if !utf8.Valid(e.Data) || len(e.Data) > MaxData {
			t.Fatalf("an entry has %d bytes, UTF-8: %v", len(e.Data), utf8.Valid(e.Data))
		}
		got.Write(e.Data)
	}
	if got.String() != "x"+text+text {
		t.Errorf("%d bytes were logged, want %d", got.Len(), 2*len(text)+1)
	}
}

func BenchmarkWriter(b *testing.B) {
	piece := bytes.Repeat([]byte("a line of text that is about so long, perhaps a little longer\n"), 1060)[:MaxData]
	w := NewWriter(b.TempDir(), 0, slog.New(slog.DiscardHandler))
	s := w.Session(1, false, true)
	b.SetBytes(int64(len(piece)))
	for b.Loop() {
		s.Stdout(piece)
	}
	w.Close()
}
