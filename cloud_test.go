package microsandbox_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox"
	"github.com/microsandbox-go/microsandbox/internal/backend/local"
	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/internal/server/rest"
)

// cloud has a server of ours serve this test's home, and the SDK use that.
func cloud(t *testing.T) {
	t.Helper()
	dir := home(t)
	runner, err := config.FindBinary(config.Runner, dir)
	if err != nil {
		t.Fatal(err)
	}
	agent, err := config.FindBinary(config.Agent, dir)
	if err != nil {
		t.Fatal(err)
	}
	b := local.New(local.Config{Home: dir, Runner: runner, Agent: agent})
	s := server.New(server.Config{Backend: b})
	s.Mount(rest.New(s).Routes()...)
	ctx, stop := context.WithCancel(context.Background())
	l, err := s.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		if err := microsandbox.CloseEngines(); err != nil {
			t.Error(err)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("MSB_HOME", filepath.Join(dir, "client"))
	t.Setenv("MSB_BACKEND", "cloud")
	t.Setenv("MSB_API_KEY", "msb_test")
	t.Setenv("MSB_API_URL", "http://"+l.Addr().String())
}

// TestCloud leads a sandbox's life over the control plane API.
func TestCloud(t *testing.T) {
	cloud(t)
	ctx := ctxOf(t)
	sb, err := microsandbox.CreateSandbox(ctx, "far", microsandbox.WithImage("host"), microsandbox.WithMemory(256), microsandbox.WithEnv(map[string]string{"A": "b"}), microsandbox.WithHostname("elsewhere"))
	if err != nil {
		t.Fatal(err)
	}
	if sb.BackendKind() != microsandbox.BackendCloud || !strings.HasPrefix(sb.ID(), "cloud:") {
		t.Errorf("it is %s at %s", sb.ID(), sb.BackendKind())
	}
	out, err := sb.Shell(ctx, "echo $A; hostname; exit 3")
	if err != nil || out.Stdout() != "b\nelsewhere\n" || out.ExitCode() != 3 {
		t.Errorf("%+v, %v", out, err)
	}
	if err := sb.FS().WriteString(ctx, "/kept", "kept"); err != nil {
		t.Error(err)
	}
	entries, err := sb.Logs(ctx, microsandbox.LogOptions{})
	var logged strings.Builder
	for _, e := range entries {
		logged.WriteString(e.Text())
	}
	if err != nil || logged.String() != "b\nelsewhere\n" {
		t.Errorf("the log is %q, %v", logged.String(), err)
	}
	py := sb.Interpreter("python").Session("far")
	if r, err := py.Run(ctx, "import os\nx = os.environ['A'] * 3\nprint('here')\n[x]"); err != nil || r.Stdout() != "here\n" || string(r.Outputs[1].Value["application/json"]) != `["bbb"]` {
		t.Errorf("%+v, %v", r, err)
	}
	var heard []string
	if r, err := py.Run(ctx, "print(x)", microsandbox.WithCellOutput(func(o microsandbox.CellOutput) { heard = append(heard, string(o.Text)) })); err != nil || r.Fresh || strings.Join(heard, "") != "bbb\n" {
		t.Errorf("%+v, %q, %v", r, heard, err)
	}
	if r, err := py.Run(ctx, "while True: pass", microsandbox.WithCellTimeout(300*time.Millisecond)); err != nil || r.Status != microsandbox.CellTimeout || r.StateLost {
		t.Errorf("%+v, %v", r, err)
	}
	if all, err := sb.Interpreters(ctx); err != nil || len(all) != 1 || all[0].Session != "far" || all[0].Cells != 3 {
		t.Errorf("%+v, %v", all, err)
	}
	if err := py.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := sb.Close(); err != nil { // which sends nothing
		t.Error(err)
	}
	h, err := microsandbox.GetSandbox(ctx, "far")
	if err != nil || h.Status() != microsandbox.SandboxStatusRunning {
		t.Fatalf("after Close: %v, %v", h, err)
	}
	if err := h.Stop(ctx); err != nil {
		t.Error(err)
	}
	sb, err = h.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := sb.FS().ReadString(ctx, "/kept"); text != "kept" || err != nil {
		t.Errorf("after a restart: %q, %v", text, err)
	}
	_, err = microsandbox.CreateSandbox(ctx, "far", microsandbox.WithImage("host"))
	wantKind(t, err, microsandbox.ErrSandboxAlreadyExists)
	_, err = microsandbox.GetSandbox(ctx, "nobody")
	wantKind(t, err, microsandbox.ErrSandboxNotFound)
	_, err = microsandbox.AgentSocketPath("far")
	wantKind(t, err, microsandbox.ErrUnsupportedOperation)
	if err := sb.Kill(ctx); err != nil {
		t.Error(err)
	}
	if err := microsandbox.RemoveSandbox(ctx, "far"); err != nil {
		t.Error(err)
	}
	_ = os.RemoveAll(os.Getenv("MSB_HOME"))
}

// TestCloudVolumeFiles keeps files in volumes of a cloud, one of which is its default.
func TestCloudVolumeFiles(t *testing.T) {
	cloud(t)
	ctx := ctxOf(t)
	_, err := microsandbox.GetDefaultVolume(ctx)
	wantKind(t, err, microsandbox.ErrVolumeNotFound)
	made, err := microsandbox.CreateVolume(ctx, "default", microsandbox.WithVolumeQuota(1))
	if err != nil {
		t.Fatal(err)
	}
	h, err := microsandbox.GetDefaultVolume(ctx)
	if err != nil || h.Name() != "default" || !h.IsDefault() || h.Path() != "" {
		t.Fatalf("%+v, %v", h, err)
	}
	fs := h.FS()
	if err := fs.Mkdir(ctx, "a/b"); err != nil {
		t.Error(err)
	}
	if err := fs.WriteString(ctx, "a/b/c", "content"); err != nil {
		t.Error(err)
	}
	if text, err := made.FS().ReadString(ctx, "a/b/c"); text != "content" || err != nil {
		t.Errorf("read %q, %v", text, err)
	}
	for path, want := range map[string]bool{"a/b/c": true, "a": true, "none": false} {
		if there, err := fs.Exists(ctx, path); there != want || err != nil {
			t.Errorf("%s: %v, %v", path, there, err)
		}
	}
	_, err = fs.Read(ctx, "none")
	wantKind(t, err, microsandbox.ErrPathNotFound)
	for _, path := range []string{"../x", "/x", "a/../../x"} {
		if err := fs.Write(ctx, path, nil); !errors.Is(err, microsandbox.ErrPathEscape) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := fs.Write(ctx, "big", make([]byte, 2<<20)); err == nil {
		t.Error("more was written than the volume may hold")
	}
	if err := fs.Remove(ctx, "a"); err == nil {
		t.Error("a directory was removed that is not empty")
	}
	if err := fs.RemoveAll(ctx, "a"); err != nil {
		t.Error(err)
	}
	if err := fs.RemoveAll(ctx, "a"); err != nil {
		t.Errorf("what is gone: %v", err)
	}
	sb, err := microsandbox.CreateSandbox(ctx, "mounts", microsandbox.WithImage("host"), microsandbox.WithMemory(256), microsandbox.WithMounts(map[string]microsandbox.MountConfig{"/v": microsandbox.Mount.Named("default", microsandbox.MountOptions{})}))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := sb.Shell(ctx, "echo from inside >/v/f"); err != nil || out.ExitCode() != 0 {
		t.Errorf("%+v, %v", out, err)
	}
	if text, err := fs.ReadString(ctx, "f"); text != "from inside\n" || err != nil {
		t.Errorf("what a sandbox wrote is %q, %v", text, err)
	}
	if err := sb.Kill(ctx); err != nil {
		t.Error(err)
	}
	if err := microsandbox.RemoveSandbox(ctx, "mounts"); err != nil {
		t.Error(err)
	}
	if err := h.Remove(ctx); err != nil {
		t.Error(err)
	}
	_ = os.RemoveAll(os.Getenv("MSB_HOME"))
}
