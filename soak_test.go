package microsandbox_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox"
)

// A file of 1 GiB goes up and down through processes that stay small.
func TestSoakLargeFile(t *testing.T) {
	if os.Getenv("MSB_SOAK") == "" {
		t.Skip("it takes long: set MSB_SOAK")
	}
	dir := home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "large", microsandbox.WithMemory(512))
	runner := runnerOf(t, dir)
	const size = 1 << 30
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
		if peak > was+64<<10 {
			t.Errorf("process %d grew from %d to %d KiB", pid, was, peak)
		}
	}
	t.Logf("up %.0f MB/s, down %.0f MB/s", size/1e6/up.Seconds(), size/1e6/down.Seconds())
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
