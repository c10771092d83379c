package microsandbox_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/microsandbox-go/microsandbox"
	"github.com/microsandbox-go/microsandbox/internal/testimage"
)

func TestLogs(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "logs")
	shell(t, sb, "echo first; echo wrong >&2")
	follow := must[*microsandbox.LogStreamHandle](t)(sb.LogStream(ctx, microsandbox.LogStreamOptions{Follow: true, Sources: []microsandbox.LogSource{microsandbox.LogSourceStdout}}))
	next := func(s *microsandbox.LogStreamHandle) *microsandbox.LogEntry {
		t.Helper()
		return must[*microsandbox.LogEntry](t)(s.Recv(ctx))
	}
	one := next(follow)
	if one.Text() != "first\n" || one.Source != microsandbox.LogSourceStdout || one.SessionID == nil || one.Cursor == "" || one.Timestamp.IsZero() {
		t.Errorf("entry %+v", one)
	}
	late, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	_, err := follow.Recv(late)
	wantKind(t, err, microsandbox.ErrCancelled)
	shell(t, sb, "echo second")
	if e := next(follow); e.Text() != "second\n" {
		t.Errorf("entry %+v", e)
	}
	if err := sb.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if e := next(follow); e != nil {
		t.Errorf("after the end: %+v", e)
	}
	if err := errors.Join(follow.Close(), follow.Close()); err != nil {
		t.Error(err)
	}
	h := must[*microsandbox.SandboxHandle](t)(microsandbox.GetSandbox(ctx, "logs"))
	var text []string
	for _, e := range must[[]microsandbox.LogEntry](t)(h.Logs(ctx, microsandbox.LogOptions{})) {
		text = append(text, e.Text())
	}
	if len(text) != 3 || !strings.Contains(strings.Join(text, ""), "wrong\n") {
		t.Errorf("logs %q", text)
	}
	tail := must[[]microsandbox.LogEntry](t)(h.Logs(ctx, microsandbox.LogOptions{Tail: 1}))
	if len(tail) != 1 || tail[0].Text() != "second\n" {
		t.Errorf("tail %+v", tail)
	}
	rest := must[*microsandbox.LogStreamHandle](t)(h.LogStream(ctx, microsandbox.LogStreamOptions{FromCursor: one.Cursor, Sources: []microsandbox.LogSource{microsandbox.LogSourceStdout}}))
	defer rest.Close()
	if e := next(rest); e.Text() != "second\n" {
		t.Errorf("behind the cursor: %+v", e)
	}
	_, err = h.LogStream(ctx, microsandbox.LogStreamOptions{FromCursor: "!"})
	wantKind(t, err, microsandbox.ErrInvalidArgument)
	if err == nil || !strings.Contains(err.Error(), "cursor is not valid base64") {
		t.Errorf("error %v", err)
	}
}

func TestMetrics(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "m", microsandbox.WithMemory(256))
	m := must[*microsandbox.Metrics](t)(sb.Metrics(ctx))
	if m.MemoryLimitBytes != 256<<20 || m.MemoryBytes == 0 {
		t.Errorf("metrics %+v", m)
	}
	if all := must[map[string]*microsandbox.Metrics](t)(microsandbox.AllSandboxMetrics(ctx)); all["m"] == nil || len(all) != 1 {
		t.Errorf("all metrics %+v", all)
	}
	stream := must[*microsandbox.MetricsStreamHandle](t)(sb.MetricsStream(ctx, 10*time.Millisecond))
	for range 3 {
		if m := must[*microsandbox.Metrics](t)(stream.Recv(ctx)); m == nil {
			t.Fatal("the stream ended")
		}
	}
	if err := sb.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(ctx); m != nil || err != nil {
		t.Errorf("after the end: %+v, %v", m, err)
	}
	if err := errors.Join(stream.Close(), stream.Close()); err != nil {
		t.Error(err)
	}
	_, err := sb.Metrics(ctx)
	wantKind(t, err, microsandbox.ErrSandboxNotRunning)
}

func TestModify(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "mod", microsandbox.WithEnv(map[string]string{"A": "1"}))
	plan := must[*microsandbox.SandboxModificationPlan](t)(sb.Modify(ctx, microsandbox.ModifyOptions{DryRun: true, Env: map[string]string{"A": "2"}}))
	if plan.Applied || len(plan.Changes) != 1 || plan.Changes[0].Field != "env.A" || plan.Changes[0].Disposition != "live" || plan.Policy != microsandbox.ModificationPolicyNoRestart {
		t.Errorf("plan %+v", plan)
	}
	plan = must[*microsandbox.SandboxModificationPlan](t)(sb.Modify(ctx, microsandbox.ModifyOptions{Env: map[string]string{"A": "2"}, Workdir: "/usr"}))
	if !plan.Applied {
		t.Errorf("plan %+v", plan)
	}
	if got := shell(t, sb, "echo $A $PWD"); got != "2 /usr" {
		t.Errorf("after a live change: %q", got)
	}
	// What another process changes holds for the next command, whenever this one has looked last.
	for i, pause := range []time.Duration{0, 5 * time.Millisecond, 150 * time.Millisecond, 0, 150 * time.Millisecond} {
		time.Sleep(pause)
		if got := shell(t, sb, "echo $PWD"); got != "/usr" {
			t.Errorf("round %d: %q", i, got)
		}
		want := strconv.Itoa(10 + i)
		if out, err := exec.Command(filepath.Join(bin, "msb"), "modify", "mod", "--env", "A="+want).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if got := shell(t, sb, "echo $A"); got != want {
			t.Errorf("after another's change: %q, want %q", got, want)
		}
	}
	_, err := sb.Modify(ctx, microsandbox.ModifyOptions{Policy: microsandbox.ModificationPolicyNextStart, Secrets: map[string]microsandbox.SecretModifySpec{"X": {Value: "hunter2", AllowedHosts: []string{"a.example"}}}})
	wantKind(t, err, microsandbox.ErrUnsupportedOperation)
}

func TestVolumes(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	v := must[*microsandbox.Volume](t)(microsandbox.CreateVolume(ctx, "data", microsandbox.WithVolumeQuota(16), microsandbox.WithVolumeLabels(map[string]string{"k": "v"})))
	_, err := microsandbox.CreateVolume(ctx, "data")
	wantKind(t, err, microsandbox.ErrVolumeAlreadyExists)
	_, err = microsandbox.CreateVolume(ctx, "disk", microsandbox.WithVolumeKind(microsandbox.VolumeKindDisk), microsandbox.WithVolumeSize(256))
	wantKind(t, err, microsandbox.ErrUnsupportedOperation)
	h := must[*microsandbox.VolumeHandle](t)(microsandbox.GetVolume(ctx, "data"))
	if h.Name() != "data" || h.Kind() != microsandbox.VolumeKindDir || *h.QuotaMiB() != 16 || h.Labels()["k"] != "v" || h.CreatedAt().IsZero() || h.IsDefault() || h.CapacityBytes() != nil || h.Path() != v.Path() {
		t.Errorf("handle %+v", h)
	}
	f := v.FS()
	if err := errors.Join(f.Mkdir(ctx, "nested/deep"), f.WriteString(ctx, "nested/deep/file", "from here")); err != nil {
		t.Fatal(err)
	}
	sb := newSandbox(t, "vol", microsandbox.WithEphemeral(true), microsandbox.WithMounts(map[string]microsandbox.MountConfig{
		"/data": microsandbox.Mount.Named("data", microsandbox.MountOptions{}),
		"/ro":   microsandbox.Mount.Named("data", microsandbox.MountOptions{Readonly: true}),
	}))
	if got := shell(t, sb, "cat /ro/nested/deep/file; ln -s /etc/passwd /data/escape; echo there > /data/back; echo no > /ro/x || echo refused"); got != "from hererefused" {
		t.Errorf("the guest says %q", got)
	}
	if got := must[string](t)(f.ReadString(ctx, "back")); got != "there\n" {
		t.Errorf("read %q", got)
	}
	for _, path := range []string{"../../etc/passwd", "/etc/passwd", "a/../../x", "escape"} {
		if _, err := f.Read(ctx, path); !errors.Is(err, microsandbox.ErrPathEscape) {
			t.Errorf("Read(%q): %v", path, err)
		}
	}
	if err := v.Remove(ctx); !microsandbox.IsKind(err, microsandbox.ErrVolumeInUse) && err == nil {
		t.Errorf("remove of a volume in use: %v", err)
	}
	if err := sb.Close(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"nested/deep/file": true, "nothing": false} {
		if got, err := f.Exists(ctx, path); got != want || err != nil {
			t.Errorf("Exists(%q) = %v, %v", path, got, err)
		}
	}
	if err := errors.Join(f.Remove(ctx, "nested/deep/file"), f.RemoveAll(ctx, "nested")); err != nil {
		t.Error(err)
	}
	if all := must[[]*microsandbox.VolumeHandle](t)(microsandbox.ListVolumes(ctx)); len(all) != 1 || all[0].Name() != "data" {
		t.Errorf("%d volumes", len(all))
	}
	if err := microsandbox.RemoveVolume(ctx, "data"); err != nil {
		t.Fatal(err)
	}
	_, err = microsandbox.GetVolume(ctx, "data")
	wantKind(t, err, microsandbox.ErrVolumeNotFound)
}

func TestPorts(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "ports", microsandbox.WithEphemeral(true), microsandbox.WithPortBindings(microsandbox.PortBinding{GuestPort: 80}))
	h := must[*microsandbox.SandboxHandle](t)(microsandbox.GetSandbox(ctx, sb.Name()))
	if c := must[*microsandbox.SandboxConfig](t)(h.Config()); len(c.PortBindings) != 1 || c.PortBindings[0].GuestPort != 80 {
		t.Errorf("ports %+v", c.PortBindings)
	}
}

func TestImages(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	_, err := microsandbox.Image.Get(ctx, "nothing:here")
	wantKind(t, err, microsandbox.ErrImageNotFound)
	if all := must[[]*microsandbox.ImageHandle](t)(microsandbox.Image.List(ctx)); len(all) != 0 {
		t.Errorf("%d images", len(all))
	}
	dir := t.TempDir()
	archive := filepath.Join(dir, "image.tar")
	if err := os.WriteFile(archive, dockerArchive(t), 0o644); err != nil {
		t.Fatal(err)
	}
	loaded := must[[]*microsandbox.ImageHandle](t)(microsandbox.Image.Load(ctx, archive, "tiny:one", "tiny:two"))
	var refs []string
	for _, i := range loaded {
		refs = append(refs, i.Reference())
	}
	slices.Sort(refs)
	if want := []string{"docker.io/library/tiny:one", "docker.io/library/tiny:two", "example.org/tiny:first"}; !slices.Equal(refs, want) {
		t.Fatalf("loaded %v, want %v", refs, want)
	}
	d := must[*microsandbox.ImageDetail](t)(microsandbox.Image.Inspect(ctx, "tiny:one"))
	if d.Reference() != "docker.io/library/tiny:one" || d.LayerCount() != 1 || len(d.Layers) != 1 || d.Config == nil || d.ManifestDigest() == "" || d.OS() != "linux" {
		t.Errorf("detail %+v", d)
	}
	out := filepath.Join(dir, "out.tar")
	if err := microsandbox.Image.Save(ctx, []string{"tiny:one"}, out, microsandbox.ImageArchiveOCI); err != nil {
		t.Fatal(err)
	}
	wantKind(t, microsandbox.Image.Save(ctx, []string{"tiny:none"}, filepath.Join(dir, "none.tar"), ""), microsandbox.ErrImageNotFound)
	if _, err := os.Stat(filepath.Join(dir, "none.tar")); err == nil {
		t.Error("an archive of nothing was written")
	}
	wantKind(t, microsandbox.Image.Save(ctx, []string{"tiny:one"}, out, "zip"), microsandbox.ErrInvalidArgument)
	if err := loaded[0].Remove(ctx, false); err != nil {
		t.Error(err)
	}
	if r := must[*microsandbox.ImagePruneReport](t)(microsandbox.Image.Prune(ctx)); r.ImageRefsRemoved != 2 {
		t.Errorf("pruned %+v", r)
	}
}

// dockerArchive is a small image as docker save writes it.
func dockerArchive(t *testing.T) []byte {
	t.Helper()
	layer := testimage.Layer(t, testimage.Tar(t, testimage.Entry{Header: tar.Header{Name: "file"}, Body: "content"}), testimage.Gzip)
	ref := must[name.Tag](t)(name.NewTag("example.org/tiny:first"))
	var b bytes.Buffer
	if err := tarball.Write(ref, testimage.Image(t, v1.Config{}, layer), &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
