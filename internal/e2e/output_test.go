package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestOutputAndExitCode(t *testing.T) {
	each(t, func(w *world) {
		r := w.run("run", "host", "--", "python3", "-c", "import sys; print(sys.version); sys.exit(7)")
		if r.code != 7 || !strings.HasPrefix(r.out, "3.") || r.err != "" {
			w.t.Errorf("python: exit code %d, stdout %q, stderr %q", r.code, r.out, r.err)
		}
		r = w.run("run", "host", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
		if r.code != 3 || r.out != "out\n" || r.err != "err\n" {
			w.t.Errorf("sh: exit code %d, stdout %q, stderr %q", r.code, r.out, r.err)
		}
		for _, c := range []struct {
			command []string
			code    int
			message string
		}{
			{[]string{"sh", "-c", "kill -9 $$"}, 137, ""},
			{[]string{"no-such-program"}, 127, "no-such-program"},
			{[]string{"/etc/passwd"}, 126, "/etc/passwd"},
			{[]string{"/"}, 126, ""},
		} {
			r := w.run(append([]string{"run", "host", "--"}, c.command...)...)
			if r.code != c.code || !strings.Contains(r.err, c.message) || r.out != "" {
				w.t.Errorf("%q: exit code %d (want %d), stdout %q, stderr %q", c.command, r.code, c.code, r.out, r.err)
			}
			if c.code != 137 {
				w.errorLine(r)
			}
		}
	})
}

func TestStdin(t *testing.T) {
	each(t, func(w *world) {
		cmd := w.msb("run", "host", "--", "cat")
		cmd.Stdin = strings.NewReader("hi\n")
		if r := w.finish(cmd); r.code != 0 || r.out != "hi\n" || r.err != "" {
			w.t.Errorf("cat: exit code %d, stdout %q, stderr %q", r.code, r.out, r.err)
		}
		// What the guest does not read is no error, and nobody waits for the end of it.
		r, p, err := os.Pipe()
		w.must(err)
		defer r.Close()
		defer p.Close()
		cmd = w.msb("run", "host", "--", "echo", "done")
		cmd.Stdin = r
		if r := w.finish(cmd); r.code != 0 || r.out != "done\n" || r.err != "" {
			w.t.Errorf("open stdin: exit code %d, stdout %q, stderr %q", r.code, r.out, r.err)
		}
		// Without any stdin at all, or without an open stdout.
		script := fmt.Sprintf("%s/msb run host -- sh -c 'cat; echo end' <&-", bin)
		if r := w.finish(w.command("/bin/sh", "-c", script)); r.code != 0 || r.out != "end\n" || r.err != "" {
			w.t.Errorf("closed stdin: exit code %d, stdout %q, stderr %q", r.code, r.out, r.err)
		}
		script = fmt.Sprintf("%s/msb run host -- sh -c 'echo lost; echo kept >&2; exit 4' >&-", bin)
		if r := w.finish(w.command("/bin/sh", "-c", script)); r.code == 0 || !strings.Contains(r.err, "kept") {
			w.t.Errorf("closed stdout: exit code %d, stderr %q", r.code, r.err)
		}
	})
}

// stream is a stream of MiBs that are all different, as [streamProgram] prints it.
type stream struct{ n, of int }

func (s *stream) next() []byte {
	if s.n == s.of {
		return nil
	}
	b := bytes.Repeat(pattern, 1<<20/len(pattern))
	binary.BigEndian.PutUint64(b, uint64(s.n))
	s.n++
	return b
}

var pattern = func() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}()

// sum is the stream's SHA-256.
func (s stream) sum() hash.Hash {
	h := sha256.New()
	for b := s.next(); b != nil; b = s.next() {
		h.Write(b)
	}
	return h
}

const streamProgram = `
import sys
b = bytes(range(256)) * 4096
for i in range(int(sys.argv[1])):
    sys.stdout.buffer.write(i.to_bytes(8, 'big') + b[8:])
sys.stdout.buffer.flush()
sys.stdin.read()
`

// maxMemory is what msb and its runner may need at most while data goes through them, in MiB.
const maxMemory = 128

func TestLargeOutput(t *testing.T) {
	const size = 200 // MiB
	want := stream{of: size}.sum().Sum(nil)
	each(t, func(w *world) {
		cmd := w.msb("run", "--name", "out", "host", "--", "python3", "-c", streamProgram, fmt.Sprint(size))
		stdin, err := cmd.StdinPipe()
		w.must(err)
		stdout, err := cmd.StdoutPipe()
		w.must(err)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		w.must(cmd.Start())
		defer func() {
			if cmd.Process.Kill() == nil {
				_ = cmd.Wait()
			}
		}()
		begin, h := time.Now(), sha256.New()
		if n, err := io.CopyN(h, stdout, size<<20); err != nil {
			w.t.Fatalf("after %d bytes: %v\n%s", n, err, stderr.String())
		}
		took := time.Since(begin)
		if got := h.Sum(nil); !bytes.Equal(got, want) {
			w.t.Errorf("sha256 is %x, want %x", got, want)
		}
		w.checkMemory(cmd.Process.Pid, w.runner("out"), fmt.Sprintf("%d MiB of output in %v", size, took.Round(time.Millisecond)))
		w.must(stdin.Close())
		if rest, err := io.ReadAll(stdout); len(rest) != 0 || err != nil {
			w.t.Errorf("%d bytes more, %v", len(rest), err)
		}
		if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
			w.t.Errorf("%v\n%s", err, stderr.String())
		}
	})
}

func (w *world) checkMemory(msb, runner int, what string) {
	w.t.Helper()
	m, r := peakMemory(w.t, msb), peakMemory(w.t, runner)
	w.t.Logf("%s; peak memory of msb %d MiB, of its runner %d MiB", what, m, r)
	if m > maxMemory || r > maxMemory {
		w.t.Errorf("peak memory of msb %d MiB, of its runner %d MiB: more than %d", m, r, maxMemory)
	}
}

// TestSlowReader lets output wait for whoever reads it: it must not pile up on the way.
func TestSlowReader(t *testing.T) {
	each(t, func(w *world) {
		cmd := w.msb("run", "--name", "slow", "host", "--", "cat", "/dev/zero")
		stdout, err := cmd.StdoutPipe()
		w.must(err)
		w.must(cmd.Start())
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		if _, err := io.CopyN(io.Discard, stdout, 1<<20); err != nil {
			w.t.Fatal(err)
		}
		runner := w.runner("slow")
		// It is full when the sandbox does nothing any more.
		idle := func() bool {
			before := cpuTime(append(descendants(runner), runner))
			time.Sleep(100 * time.Millisecond)
			return cpuTime(append(descendants(runner), runner)) == before
		}
		if !until(20*time.Second, idle) {
			w.t.Error("the sandbox does not wait for the reader of its output")
		}
		w.checkMemory(cmd.Process.Pid, runner, "a reader that does not read")
		if n, err := io.CopyN(io.Discard, stdout, 20<<20); err != nil {
			w.t.Errorf("it does not go on: %d bytes, %v", n, err)
		}
	})
}

func TestLargeInput(t *testing.T) {
	const size = 64 // MiB
	want := hex.EncodeToString(stream{of: size}.sum().Sum(nil))
	each(t, func(w *world) {
		cmd := w.msb("run", "--name", "in", "host", "--", "sh", "-c", "sha256sum; exec sleep 60")
		stdin, err := cmd.StdinPipe()
		w.must(err)
		stdout, err := cmd.StdoutPipe()
		w.must(err)
		w.must(cmd.Start())
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		begin := time.Now()
		for s := (&stream{of: size}); ; {
			b := s.next()
			if b == nil {
				break
			}
			if _, err := stdin.Write(b); err != nil {
				w.t.Fatal(err)
			}
		}
		w.must(stdin.Close())
		line, err := bufio.NewReader(stdout).ReadString('\n')
		took := time.Since(begin)
		if got, _, _ := strings.Cut(line, " "); got != want || err != nil {
			w.t.Errorf("sha256 in the guest is %q (%v), want %s", got, err, want)
		}
		w.checkMemory(cmd.Process.Pid, w.runner("in"), fmt.Sprintf("%d MiB of input in %v", size, took.Round(time.Millisecond)))
	})
}

func TestReaderGone(t *testing.T) {
	each(t, func(w *world) {
		script := fmt.Sprintf("%s run host -- yes | head -1", filepath.Join(bin, "msb"))
		if r := w.finish(w.command("/bin/sh", "-c", script)); r.out != "y\n" || r.err != "" || r.took > 5*time.Second {
			w.t.Errorf("stdout %q, stderr %q after %v", r.out, r.err, r.took)
		}
		cmd := w.msb("run", "host", "--", "yes")
		stdout, err := cmd.StdoutPipe()
		w.must(err)
		w.must(cmd.Start())
		_, err = bufio.NewReader(stdout).ReadString('\n')
		w.must(err)
		w.must(stdout.Close())
		begin := time.Now()
		_ = cmd.Wait()
		if code := exitCode(cmd); code != 128+int(unix.SIGPIPE) || time.Since(begin) > 5*time.Second {
			w.t.Errorf("exit code %d after %v", code, time.Since(begin))
		}
	})
}

func TestTimeout(t *testing.T) {
	each(t, func(w *world) {
		r := w.run("run", "--timeout", "1s", "host", "--", "sleep", "60")
		if r.code != 1 || w.errorLine(r) != "exec timed out after 1s" || r.took > 4*time.Second {
			w.t.Errorf("exit code %d after %v", r.code, r.took)
		}
		r = w.run("run", "--timeout", "20s", "host", "--", "sh", "-c", "exit 5")
		if r.code != 5 || r.err != "" {
			w.t.Errorf("in time: exit code %d, stderr %q", r.code, r.err)
		}
	})
}

// TestSignals ends msb in the ways in which terminals and service managers do. The leak check says that all went with it.
func TestSignals(t *testing.T) {
	each(t, func(w *world) {
		for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT} {
			cmd := w.msb("run", "host", "--", "sh", "-c", "echo ready; exec sleep 60")
			stdout, err := cmd.StdoutPipe()
			w.must(err)
			w.must(cmd.Start())
			_, err = bufio.NewReader(stdout).ReadString('\n')
			w.must(err)
			begin := time.Now()
			w.must(cmd.Process.Signal(sig))
			_ = cmd.Wait()
			if code := exitCode(cmd); code != 128+int(sig) || time.Since(begin) > 5*time.Second {
				w.t.Errorf("%v: exit code %d after %v", sig, code, time.Since(begin))
			}
		}
		// A command that does not mind the first gets killed by the second.
		cmd := w.msb("run", "host", "--", "sh", "-c", "trap 'echo caught' INT; echo ready; while :; do sleep 0.05; done")
		stdout, err := cmd.StdoutPipe()
		w.must(err)
		w.must(cmd.Start())
		lines := bufio.NewReader(stdout)
		for _, want := range []string{"ready\n", "caught\n"} {
			if line, err := lines.ReadString('\n'); line != want || err != nil {
				w.t.Errorf("got %q, %v; want %q", line, err, want)
			}
			w.must(cmd.Process.Signal(unix.SIGINT))
		}
		begin := time.Now()
		_ = cmd.Wait()
		if code := exitCode(cmd); code != 130 || time.Since(begin) > 5*time.Second {
			w.t.Errorf("second SIGINT: exit code %d after %v", code, time.Since(begin))
		}
		// While it starts, at moments over the whole start.
		for i := range 8 {
			cmd := w.msb("run", "host", "--", "sleep", "60")
			w.must(cmd.Start())
			time.Sleep(time.Duration(i) * 20 * time.Millisecond)
			w.must(cmd.Process.Signal(unix.SIGTERM))
			begin := time.Now()
			_ = cmd.Wait()
			if code := exitCode(cmd); code != 143 || time.Since(begin) > 5*time.Second {
				w.t.Errorf("SIGTERM %d ms after the start: exit code %d after %v", i*20, code, time.Since(begin))
			}
		}
	})
}
