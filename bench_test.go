package microsandbox_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/microsandbox-go/microsandbox"
)

// BenchmarkExec is a round trip of a small command through the SDK.
func BenchmarkExec(b *testing.B) {
	home(b)
	ctx := context.Background()
	sb := newSandbox(b, "bench", microsandbox.WithEphemeral(true))
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		if out, err := sb.Exec(ctx, "/usr/bin/true", nil); err != nil || !out.Success() {
			b.Fatal(out, err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkGet is the look at the record that each call begins with.
func BenchmarkGet(b *testing.B) {
	for _, ephemeral := range []bool{true, false} {
		b.Run(map[bool]string{true: "ephemeral", false: "kept"}[ephemeral], func(b *testing.B) {
			home(b)
			ctx := context.Background()
			newSandbox(b, "bench", microsandbox.WithEphemeral(ephemeral))
			for b.Loop() {
				if _, err := microsandbox.GetSandbox(ctx, "bench"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPing is a round trip without a command.
func BenchmarkPing(b *testing.B) {
	home(b)
	ctx := context.Background()
	sb := newSandbox(b, "bench", microsandbox.WithEphemeral(true))
	for b.Loop() {
		if _, err := sb.Ping(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWriteStream and BenchmarkReadStream move 16 MiB.
func BenchmarkWriteStream(b *testing.B) {
	home(b)
	ctx := context.Background()
	sb := newSandbox(b, "bench", microsandbox.WithEphemeral(true), microsandbox.WithMemory(1024))
	b.SetBytes(16 << 20)
	piece := make([]byte, 1<<20)
	for b.Loop() {
		w, err := sb.FS().WriteStream(ctx, "/tmp/f")
		for range 16 {
			if err == nil {
				_, err = w.Write(piece)
			}
		}
		if err == nil {
			err = w.Close(ctx)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadStream(b *testing.B) {
	home(b)
	ctx := context.Background()
	sb := newSandbox(b, "bench", microsandbox.WithEphemeral(true), microsandbox.WithMemory(1024))
	if err := sb.FS().Write(ctx, "/tmp/f", make([]byte, 16<<20)); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(16 << 20)
	for b.Loop() {
		r, err := sb.FS().ReadStream(ctx, "/tmp/f")
		if err == nil {
			_, err = r.WriteTo(io.Discard)
		}
		if err == nil {
			err = r.Close()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSFTPRead and BenchmarkSFTPWrite move 16 MiB as OpenSSH's programs do: many requests of 32 KiB at a time.
func BenchmarkSFTPRead(b *testing.B)  { benchSFTP(b, false) }
func BenchmarkSFTPWrite(b *testing.B) { benchSFTP(b, true) }

func benchSFTP(b *testing.B, write bool) {
	home(b)
	ctx := context.Background()
	sb := newSandbox(b, "bench", microsandbox.WithEphemeral(true), microsandbox.WithMemory(1024))
	data := make([]byte, 16<<20)
	if err := sb.FS().Write(ctx, "/tmp/f", data); err != nil {
		b.Fatal(err)
	}
	client, err := sb.SSH().OpenClient(ctx)
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close(ctx)
	files, err := sftp.NewClient(client.Client(), sftp.UseConcurrentWrites(true))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		f, err := files.OpenFile("/tmp/f", os.O_RDWR)
		if err != nil {
			b.Fatal(err)
		}
		if write {
			_, err = f.ReadFrom(bytes.NewReader(data))
		} else {
			_, err = f.WriteTo(io.Discard)
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
