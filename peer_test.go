package microsandbox_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox"
)

// TestPeers does the same through the SDK and through another command, in turn, and prints what each round took. It is run by bench
// (make bench BENCH=exec), which says by SDK_PEER what begins the other's command lines.
func TestPeers(t *testing.T) {
	if os.Getenv("SDK_PEER") == "" {
		t.Skip("it is a part of make bench BENCH=exec")
	}
	var peer []string
	if err := json.Unmarshal([]byte(os.Getenv("SDK_PEER")), &peer); err != nil {
		t.Fatal(err)
	}
	rounds := must[int](t)(strconv.Atoi(os.Getenv("SDK_ROUNDS")))
	home(t)
	ctx := context.Background()
	sb := newSandbox(t, "peer", microsandbox.WithEphemeral(true), microsandbox.WithMemory(2048), microsandbox.WithCPUs(uint8(runtime.NumCPU())),
		microsandbox.WithMounts(map[string]microsandbox.MountConfig{"/bench": microsandbox.Mount.Bind(os.Getenv("SDK_STATIC"), microsandbox.MountOptions{Readonly: true})}))
	const static = "/bench/static"
	other := func(stdin io.Reader, stdout io.Writer, args ...string) func() error {
		line := append(slices.Clone(peer), args...)
		return func() error {
			cmd := exec.Command(line[0], line[1:]...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, os.Stderr
			return cmd.Run()
		}
	}
	timed := func(do func() error) time.Duration {
		t.Helper()
		begin := time.Now()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		return time.Since(begin)
	}
	type round struct {
		Name              string
		Bytes             int
		Ours, CLI, Theirs time.Duration
	}
	say := func(r round) { fmt.Printf("round: %s\n", must[[]byte](t)(json.Marshal(r))) }

	for i := range 5*rounds + 1 {
		for _, b := range []struct{ name, path string }{{"exec", "/bench/nothing"}, {"exec of Go", static}} {
			r := round{Name: b.name}
			r.Ours = timed(func() error {
				out, err := sb.Exec(ctx, b.path, nil)
				if err == nil && !out.Success() {
					err = fmt.Errorf("exit code %d", out.ExitCode())
				}
				return err
			})
			r.Theirs = timed(other(nil, nil, b.path))
			r.CLI = timed(exec.Command(filepath.Join(bin, "msb"), "exec", "peer", "--", b.path).Run)
			if i > 0 { // the first does not count
				say(r)
			}
		}
	}
	const size = 256 << 20
	for i := range max(rounds/6, 3) + 1 {
		out, up, down := round{Name: "stdout", Bytes: size}, round{Name: "upload", Bytes: size}, round{Name: "download", Bytes: size}
		want := func(n int64, err error) error {
			if err == nil && n != size {
				err = fmt.Errorf("%d bytes came", n)
			}
			return err
		}
		var got counter
		out.Ours = timed(func() error {
			cmd := sb.CommandContext(ctx, static, "out", strconv.Itoa(size))
			cmd.Stdout = &got
			return cmd.Run()
		})
		var theirs counter
		out.Theirs = timed(other(nil, &theirs, static, "out", strconv.Itoa(size)))
		up.Ours = timed(func() error {
			w, err := sb.FS().WriteStream(ctx, "/moved")
			if err == nil {
				err = want(io.CopyBuffer(struct{ io.Writer }{w}, zeros(size), make([]byte, 128<<10)))
			}
			if err == nil {
				err = w.Close(ctx)
			}
			return err
		})
		up.Theirs = timed(other(zeros(size), nil, static, "save", "/moved"))
		down.Ours = timed(func() error {
			r, err := sb.FS().ReadStream(ctx, "/moved")
			if err == nil {
				err = want(r.WriteTo(&counter{}))
			}
			if err == nil {
				err = r.Close()
			}
			return err
		})
		down.Theirs = timed(other(nil, &theirs, static, "cat", "/moved"))
		if got.n != size || theirs.n != 2*size {
			t.Fatalf("%d and %d bytes came", got.n, theirs.n)
		}
		if i > 0 {
			say(out)
			say(up)
			say(down)
		}
	}
}

// zeros reads as so many bytes of 0, by Read alone.
func zeros(n int64) io.Reader { return io.LimitReader(nothing{}, n) }

type nothing struct{}

func (nothing) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// counter counts what is written.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }
