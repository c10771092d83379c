package microsandbox_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox"
)

// amount is a tenth of the whole, or with MSB_SOAK the whole times that, at most.
func amount(whole int) int {
	if f, err := strconv.ParseFloat(os.Getenv("MSB_SOAK"), 64); err == nil && f > 0 {
		return max(int(min(f, 1)*float64(whole)), 1)
	}
	return whole / 10
}

// maxGrowth is how much larger than idle a process becomes that moves large files or many, in KiB.
const maxGrowth = 64 << 10

// A file of 1 GiB, or of a tenth of that, goes up and down through processes that stay small.
func TestSoakLargeFile(t *testing.T) {
	dir := home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "large", microsandbox.WithMemory(512))
	runner := runnerOf(t, dir)
	size := int64(amount(1 << 30))
	idle := map[int]uint64{os.Getpid(): 0, runner: 0}
	for pid := range idle {
		idle[pid] = memory(t, pid, "VmRSS")
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0) // the peak begins anew
	}
	sum, back := sha256.New(), sha256.New()
	begin := time.Now()
	w := must[*microsandbox.FsWriteStream](t)(sb.FS().WriteStream(ctx, "/root/large"))
	if _, err := io.CopyN(io.MultiWriter(w, sum), random(), size); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(ctx); err != nil {
		t.Fatal(err)
	}
	up := time.Since(begin)
	begin = time.Now()
	r := must[*microsandbox.FsReadStream](t)(sb.FS().ReadStream(ctx, "/root/large"))
	n, err := r.WriteTo(back)
	if err != nil || n != size {
		t.Fatal(n, err)
	}
	down := time.Since(begin)
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if hex.EncodeToString(sum.Sum(nil)) != hex.EncodeToString(back.Sum(nil)) {
		t.Error("it is another file")
	}
	for pid, was := range idle {
		peak := memory(t, pid, "VmHWM")
		t.Logf("process %d: %d MiB idle, %d MiB at most", pid, was>>10, peak>>10)
		if peak > was+maxGrowth {
			t.Errorf("process %d grew from %d to %d KiB", pid, was, peak)
		}
	}
	t.Logf("up %.0f MB/s, down %.0f MB/s", float64(size)/1e6/up.Seconds(), float64(size)/1e6/down.Seconds())
}

// 10,000 small files, or a tenth of them, go up and down by msb copy with their modes, in little memory.
func TestSoakCopy(t *testing.T) {
	home(t)
	newSandbox(t, "files", microsandbox.WithMemory(512))
	src, back := filepath.Join(t.TempDir(), "src"), t.TempDir()
	n := amount(10_000)
	content := func(i int) string { return strings.Repeat(strconv.Itoa(i)+"\n", i%500) }
	mode := func(i int) os.FileMode { return [...]os.FileMode{0o644, 0o600, 0o755, 0o444}[i%4] }
	name := func(i int) string { return fmt.Sprintf("d%d/f%d", i/500, i) }
	for i := range n {
		p := filepath.Join(src, name(i))
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(content(i)), 0o600), os.Chmod(p, mode(i))); err != nil {
			t.Fatal(err)
		}
	}
	msb := func(args ...string) (peak int64, took time.Duration) {
		t.Helper()
		begin := time.Now()
		cmd := exec.CommandContext(ctxOf(t), filepath.Join(bin, "msb"), args...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("msb %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss, time.Since(begin)
	}
	idle, _ := msb("exec", "files", "--", "/usr/bin/true")
	in, up := msb("cp", "-q", src, "files:/root")
	out, down := msb("cp", "-q", "files:/root/src", back)
	if most := max(in, out); most > idle+maxGrowth {
		t.Errorf("msb grew from %d to %d KiB", idle, most)
	}
	for i := range n {
		p := filepath.Join(back, "src", name(i))
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(p); err != nil || string(b) != content(i) || info.Mode() != mode(i) {
			t.Fatalf("%s: %d bytes with %v, %v", name(i), len(b), info.Mode(), err)
		}
	}
	t.Logf("%d files: up in %v, down in %v; %d KiB idle, %d and %d at most", n, up.Round(time.Millisecond), down.Round(time.Millisecond), idle, in, out)
}

// memory is a line of a process's status, in KiB.
func memory(t *testing.T, pid int, name string) uint64 {
	t.Helper()
	status := must[[]byte](t)(os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)))
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return must[uint64](t)(strconv.ParseUint(strings.Fields(rest)[0], 10, 64))
		}
	}
	t.Fatalf("there is no %s of process %d", name, pid)
	return 0
}

// runnerOf is the process of the one runner of an MSB_HOME.
func runnerOf(t *testing.T, home string) int {
	t.Helper()
	files := must[[]string](t)(filepath.Glob(filepath.Join(home, "run/*/running.json")))
	for _, f := range files {
		data := must[[]byte](t)(os.ReadFile(f))
		if _, rest, ok := strings.Cut(strings.ToLower(string(data)), `"pid":`); ok {
			digits := strings.FieldsFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
			return must[int](t)(strconv.Atoi(digits[0]))
		}
	}
	t.Fatal("there is no runner")
	return 0
}
