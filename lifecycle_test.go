package microsandbox_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func TestLifecycle(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "life", microsandbox.WithEnv(map[string]string{"A": "b"}), microsandbox.WithLabels(map[string]string{"team": "ml"}))
	if !sb.OwnsLifecycleOrFalse() || sb.Name() != "life" || sb.BackendKind() != microsandbox.BackendLocal || !strings.HasPrefix(sb.ID(), "local:") {
		t.Errorf("owns %v, name %q, kind %q, ID %q", sb.OwnsLifecycleOrFalse(), sb.Name(), sb.BackendKind(), sb.ID())
	}
	_, err := microsandbox.CreateSandbox(ctx, "life", microsandbox.WithImage("host"))
	wantKind(t, err, microsandbox.ErrSandboxAlreadyExists)
	if err.Error() != "sandbox already exists: life" {
		t.Errorf("error %q", err)
	}
	if err := microsandbox.RemoveSandbox(ctx, "life"); !microsandbox.IsKind(err, microsandbox.ErrSandboxStillRunning) {
		t.Errorf("remove of a running sandbox: %v", err)
	}
	h := must[*microsandbox.SandboxHandle](t)(microsandbox.GetSandbox(ctx, "life"))
	if h.Status() != microsandbox.SandboxStatusRunning || h.ID() != sb.ID() || h.CreatedAt().IsZero() || h.UpdatedAt().IsZero() {
		t.Errorf("status %s, ID %s", h.Status(), h.ID())
	}
	other := must[*microsandbox.Sandbox](t)(h.Connect(ctx))
	if owns, err := other.OwnsLifecycle(); owns || err != nil {
		t.Errorf("a connected Sandbox owns the sandbox: %v, %v", owns, err)
	}
	shell(t, sb, "echo kept > /root/file; sync")
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	wantKind(t, other.Close(), microsandbox.ErrInvalidHandle)
	if got := shell(t, sb, "echo $A"); got != "b" {
		t.Errorf("A is %q", got)
	}
	if err := sb.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := sb.Stop(ctx); err != nil {
		t.Errorf("second stop: %v", err)
	}
	_, err = sb.Exec(ctx, "true", nil)
	wantKind(t, err, microsandbox.ErrSandboxNotRunning)
	if err.Error() != "sandbox 'life' is not running (status: Stopped)" || !errors.Is(err, sandbox.NotRunning) {
		t.Errorf("error %q", err)
	}
	if e := (*microsandbox.Error)(nil); !errors.As(err, &e) || e.Hint() != "start it with: msb start life" {
		t.Errorf("its hint: %#v", err)
	}
	_, err = h.Connect(ctx)
	wantKind(t, err, microsandbox.ErrSandboxNotRunning)
	res := must[*microsandbox.SandboxStopResult](t)(h.WaitUntilStopped(ctx))
	if res.Name != "life" || res.Status != microsandbox.SandboxStatusStopped || res.Source == nil {
		t.Errorf("result %+v", res)
	}
	again := must[*microsandbox.Sandbox](t)(microsandbox.StartSandbox(ctx, "life"))
	if again.ID() != sb.ID() || !again.OwnsLifecycleOrFalse() {
		t.Errorf("started: ID %s, owns %v", again.ID(), again.OwnsLifecycleOrFalse())
	}
	if got := shell(t, sb, "cat /root/file"); got != "kept" { // the first Sandbox connects again
		t.Errorf("the file has %q", got)
	}
	second := must[*microsandbox.Sandbox](t)(h.Start(ctx)) // runs already
	if second.OwnsLifecycleOrFalse() {
		t.Error("who did not start the sandbox owns it")
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	h = must[*microsandbox.SandboxHandle](t)(h.Refresh(ctx))
	if h.Status() != microsandbox.SandboxStatusStopped {
		t.Errorf("after Close by its owner it is %s", h.Status())
	}
	if err := h.Remove(ctx); err != nil {
		t.Fatal(err)
	}
	_, err = microsandbox.GetSandbox(ctx, "life")
	wantKind(t, err, microsandbox.ErrSandboxNotFound)
	if err.Error() != "sandbox not found: life" {
		t.Errorf("error %q", err)
	}
}

func TestDetach(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "loose")
	if err := sb.Detach(ctx); err != nil {
		t.Fatal(err)
	}
	wantKind(t, sb.Close(), microsandbox.ErrInvalidHandle)
	if _, err := sb.OwnsLifecycle(); !microsandbox.IsKind(err, microsandbox.ErrInvalidHandle) {
		t.Errorf("OwnsLifecycle after Detach: %v", err)
	}
	_, err := sb.Exec(ctx, "true", nil)
	wantKind(t, err, microsandbox.ErrInvalidHandle)
	h := must[*microsandbox.SandboxHandle](t)(microsandbox.GetSandbox(ctx, "loose"))
	if h.Status() != microsandbox.SandboxStatusRunning {
		t.Errorf("after Detach it is %s", h.Status())
	}
	detached := newSandbox(t, "made-loose", microsandbox.WithDetached())
	if detached.OwnsLifecycleOrFalse() {
		t.Error("a detached sandbox is owned")
	}
	if err := detached.Close(); err != nil {
		t.Fatal(err)
	}
	if h := must[*microsandbox.SandboxHandle](t)(microsandbox.GetSandbox(ctx, "made-loose")); h.Status() != microsandbox.SandboxStatusRunning {
		t.Errorf("after Close of a detached one it is %s", h.Status())
	}
}

func init() {
	roles["owner"] = func() error {
		ctx := context.Background()
		for _, name := range []string{"owned", "let-go"} {
			sb, err := microsandbox.CreateSandbox(ctx, name, microsandbox.WithImage("host"))
			if err == nil && name == "let-go" {
				err = sb.Detach(ctx)
			}
			if err != nil {
				return err
			}
		}
		fmt.Println("ready")
		select {} // until it is killed
	}
}

// A sandbox ends with the process that made it, however that ends, unless it was let go of.
func TestOwnerIsKilled(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	cmd := self(ctx, false, []string{roleVar + "=owner"})
	out := must[interface{ Read([]byte) (int, error) }](t)(cmd.StdoutPipe())
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the owner said %q, %v", line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	h := must[*microsandbox.SandboxHandle](t)(microsandbox.GetSandbox(ctx, "owned"))
	res := must[*microsandbox.SandboxStopResult](t)(h.WaitUntilStopped(ctx))
	if res.Source == nil || *res.Source != string(sandbox.ReasonParentGone) {
		t.Errorf("it ended %+v", res)
	}
	if err := h.Remove(ctx); err != nil {
		t.Error(err)
	}
	h = must[*microsandbox.SandboxHandle](t)(microsandbox.GetSandbox(ctx, "let-go"))
	sb := must[*microsandbox.Sandbox](t)(h.Connect(ctx))
	discard(t, sb)
	if got := shell(t, sb, "echo lives"); got != "lives" {
		t.Errorf("it said %q", got)
	}
}

func TestReplace(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	first := newSandbox(t, "same")
	second := newSandbox(t, "same", microsandbox.WithReplaceWithTimeout(0))
	if first.ID() == second.ID() {
		t.Error("both have the same ID")
	}
	_, err := first.Exec(ctx, "true", nil)
	wantKind(t, err, microsandbox.ErrSandboxReplaced)
	for name, err := range map[string]error{"Stop": first.Stop(ctx), "Kill": first.Kill(ctx), "Destroy": first.Destroy(ctx), "RequestStop": first.RequestStop(ctx)} {
		if !microsandbox.IsKind(err, microsandbox.ErrSandboxReplaced) {
			t.Errorf("%s of a sandbox that was replaced: %v", name, err)
		}
	}
	if err := first.Close(); err != nil {
		t.Errorf("Close of a sandbox that was replaced: %v", err)
	}
	if got := shell(t, second, "echo unharmed"); got != "unharmed" {
		t.Errorf("it said %q", got)
	}
}

func TestEphemeral(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "brief", microsandbox.WithEphemeral(true))
	if got := shell(t, sb, "echo hi"); got != "hi" {
		t.Errorf("it said %q", got)
	}
	h := must[*microsandbox.SandboxHandle](t)(microsandbox.GetSandbox(ctx, "brief"))
	if err := sb.Close(); err != nil {
		t.Fatal(err)
	}
	if res := must[*microsandbox.SandboxStopResult](t)(h.WaitUntilStopped(ctx)); res.Status != microsandbox.SandboxStatusStopped {
		t.Errorf("result %+v", res)
	}
	page := must[*microsandbox.SandboxPage](t)(microsandbox.ListSandboxes(ctx))
	if len(page.Sandboxes) != 0 {
		t.Errorf("%d sandboxes are left", len(page.Sandboxes))
	}
	again := newSandbox(t, "brief", microsandbox.WithEphemeral(true)) // its name is free
	if again.ID() == sb.ID() {
		t.Error("both have the same ID")
	}
}

func TestConnectOrCreate(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	const n = 4
	got := make([]*microsandbox.Sandbox, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			got[i], errs[i] = microsandbox.ConnectOrCreateSandbox(ctx, "one", microsandbox.WithImage("host"), microsandbox.WithEnv(map[string]string{"WHO": fmt.Sprint(i)}))
		})
	}
	wg.Wait()
	for i := range n {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		discard(t, got[i])
		if got[i].ID() != got[0].ID() || got[i].OwnsLifecycleOrFalse() {
			t.Errorf("%d: ID %s, owns %v", i, got[i].ID(), got[i].OwnsLifecycleOrFalse())
		}
	}
	who := shell(t, got[0], "echo $WHO")
	if err := got[0].Stop(ctx); err != nil {
		t.Fatal(err)
	}
	again := must[*microsandbox.Sandbox](t)(microsandbox.ConnectOrCreateSandbox(ctx, "one", microsandbox.WithImage("host")))
	discard(t, again)
	if is := shell(t, again, "echo $WHO"); is != who || again.ID() != got[0].ID() {
		t.Errorf("WHO was %q and is %q", who, is)
	}
}

func TestRestartAndDestroy(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "again")
	pid := shell(t, sb, "echo mark > /root/mark; sync; echo $$")
	_ = pid
	next := must[*microsandbox.Sandbox](t)(sb.Restart(ctx))
	discard(t, next)
	if sb.OwnsLifecycleOrFalse() || !next.OwnsLifecycleOrFalse() || next.ID() != sb.ID() {
		t.Errorf("owners %v and %v", sb.OwnsLifecycleOrFalse(), next.OwnsLifecycleOrFalse())
	}
	if got := shell(t, next, "cat /root/mark"); got != "mark" {
		t.Errorf("mark is %q", got)
	}
	loose := must[*microsandbox.Sandbox](t)(next.Restart(ctx, microsandbox.WithRestartForce(), microsandbox.WithRestartDetached(), microsandbox.WithRestartTimeout(5*time.Second)))
	discard(t, loose)
	if loose.OwnsLifecycleOrFalse() {
		t.Error("a detached one is owned")
	}
	if h := must[*microsandbox.SandboxHandle](t)(loose.WaitForStatus(ctx, microsandbox.SandboxStatusRunning)); h.ID() != sb.ID() {
		t.Errorf("ID %s", h.ID())
	}
	h := must[*microsandbox.SandboxHandle](t)(microsandbox.GetSandbox(ctx, "again"))
	if err := loose.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	started := must[*microsandbox.Sandbox](t)(h.ConnectOrStart(ctx, microsandbox.WithConnectOrStartDetached()))
	discard(t, started)
	connected := must[*microsandbox.Sandbox](t)(h.ConnectOrStart(ctx))
	discard(t, connected)
	if started.OwnsLifecycleOrFalse() || connected.OwnsLifecycleOrFalse() {
		t.Error("one of them owns the sandbox")
	}
	if err := connected.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{"Destroy": h.Destroy(ctx), "Remove": h.Remove(ctx)} {
		if !microsandbox.IsKind(err, microsandbox.ErrSandboxNotFound) {
			t.Errorf("%s of a sandbox that was destroyed: %v", name, err)
		}
	}
	_, err := h.WaitForStatus(ctx, microsandbox.SandboxStatusRunning)
	wantKind(t, err, microsandbox.ErrSandboxNotFound)
}

func TestRequestStopDrainPing(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "asked")
	if p := must[*microsandbox.SandboxPingResult](t)(sb.Ping(ctx)); p.Name != "asked" || p.Latency <= 0 {
		t.Errorf("ping %+v", p)
	}
	one := must[*microsandbox.SandboxTouchResult](t)(sb.Touch(ctx))
	h := must[*microsandbox.SandboxHandle](t)(microsandbox.GetSandbox(ctx, "asked"))
	two := must[*microsandbox.SandboxTouchResult](t)(h.Touch(ctx))
	if two.ActivitySeq <= one.ActivitySeq {
		t.Errorf("activity went from %d to %d", one.ActivitySeq, two.ActivitySeq)
	}
	if err := sb.RequestStop(ctx); err != nil {
		t.Fatal(err)
	}
	must[*microsandbox.SandboxStopResult](t)(sb.WaitUntilStopped(ctx))
	drained := newSandbox(t, "drained")
	x := must[*microsandbox.ExecHandle](t)(drained.ExecStream(ctx, "cat", nil, microsandbox.WithExecStdinPipe()))
	defer x.Close()
	if err := drained.RequestDrain(ctx); err != nil {
		t.Fatal(err)
	}
	if err := x.TakeStdin().Close(); err != nil {
		t.Fatal(err)
	}
	res := must[*microsandbox.SandboxStopResult](t)(drained.WaitUntilStopped(ctx))
	if res.Source == nil || *res.Source != string(sandbox.ReasonDrain) {
		t.Errorf("it ended %+v", res)
	}
	limited := newSandbox(t, "limited", microsandbox.WithMaxDuration(time.Millisecond))
	res = must[*microsandbox.SandboxStopResult](t)(limited.WaitUntilStopped(ctx))
	if res.Source == nil || *res.Source != string(sandbox.ReasonMaxDuration) {
		t.Errorf("it ended %+v", res)
	}
	killed := newSandbox(t, "killed")
	if err := killed.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if err := killed.Kill(ctx); err != nil {
		t.Errorf("second kill: %v", err)
	}
}

func TestList(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	for i, labels := range []map[string]string{{"a": "1"}, {"a": "1", "b": "2"}, {"b": "2"}} {
		sb := newSandbox(t, fmt.Sprintf("l%d", i), microsandbox.WithLabels(labels), microsandbox.WithMemory(128))
		if err := sb.Kill(ctx); err != nil {
			t.Fatal(err)
		}
	}
	names := func(opts ...microsandbox.ListOption) (names []string, next *string) {
		t.Helper()
		page := must[*microsandbox.SandboxPage](t)(microsandbox.ListSandboxesWith(ctx, opts...))
		for _, h := range page.Sandboxes {
			names = append(names, h.Name())
		}
		return names, page.NextCursor
	}
	if got, next := names(); fmt.Sprint(got) != "[l2 l1 l0]" || next != nil {
		t.Errorf("all: %v", got)
	}
	if got, _ := names(microsandbox.WithListLabels(map[string]string{"a": "1", "b": "2"})); fmt.Sprint(got) != "[l1]" {
		t.Errorf("with both labels: %v", got)
	}
	got, next := names(microsandbox.WithListLimit(2))
	if fmt.Sprint(got) != "[l2 l1]" || next == nil {
		t.Fatalf("first page: %v, %v", got, next)
	}
	if got, next = names(microsandbox.WithListCursor(*next)); fmt.Sprint(got) != "[l0]" || next != nil {
		t.Errorf("second page: %v", got)
	}
	_, err := microsandbox.ListSandboxesWith(ctx, microsandbox.WithListCursor("?"))
	wantKind(t, err, microsandbox.ErrInvalidArgument)
}

func TestConfigRoundTrip(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "conf",
		microsandbox.WithMemory(256), microsandbox.WithMaxMemory(512), microsandbox.WithCPUs(1), microsandbox.WithMaxCPUs(2),
		microsandbox.WithShell("/bin/bash"), microsandbox.WithWorkdir("/usr"), microsandbox.WithHostname("box"), microsandbox.WithUser("0"),
		microsandbox.WithEntrypoint("/bin/echo"), microsandbox.WithCmd("said"), microsandbox.WithScripts(map[string]string{"hello": "#!/bin/sh\necho from script\n"}),
		microsandbox.WithIdleTimeout(90*time.Second+time.Millisecond), microsandbox.WithMaxDuration(time.Hour), microsandbox.WithLabel("k", "v"),
		microsandbox.WithLogLevel(microsandbox.LogLevelInfo), microsandbox.WithPullPolicy(microsandbox.PullPolicyNever),
		microsandbox.WithMounts(map[string]microsandbox.MountConfig{"/scratch": microsandbox.Mount.Tmpfs(microsandbox.TmpfsOptions{SizeMiB: 8, Noexec: true})}),
		microsandbox.WithPatches(microsandbox.Patch.Text("/etc/greeting", "hi\n", microsandbox.PatchOptions{}), microsandbox.Patch.Symlink("/etc/greeting", "/etc/other", microsandbox.PatchOptions{})),
		microsandbox.WithNetwork(&microsandbox.NetworkConfig{DenyDomainSuffixes: []string{".ads"}, Rules: []microsandbox.PolicyRule{
			microsandbox.Rule.AllowDNS(), {Action: microsandbox.PolicyActionAllow, Destination: "example.com", Protocol: microsandbox.PolicyProtocolTCP, Ports: []string{"443", "8000-9000"}}}}),
	)
	h := must[*microsandbox.SandboxHandle](t)(microsandbox.GetSandbox(ctx, "conf"))
	c := must[*microsandbox.SandboxConfig](t)(h.Config())
	if c.Name != "conf" || c.Image != "host" || c.MemoryMiB != 256 || c.MaxMemoryMiB != 512 || c.CPUs != 1 || c.MaxCPUs != 2 || c.Shell != "/bin/bash" || c.Workdir != "/usr" ||
		c.Hostname != "box" || c.User != "0" || c.IdleTimeout != 91*time.Second || c.MaxDuration != time.Hour || c.Labels["k"] != "v" || c.PullPolicy != microsandbox.PullPolicyNever ||
		c.LogLevel != microsandbox.LogLevelInfo || len(c.Patches) != 2 || c.Volumes["/scratch"].SizeMiB != 8 || c.Volumes["/scratch"].Kind() != microsandbox.MountKindTmpfs ||
		c.RootDisk.Kind() != microsandbox.RootDiskKindManaged || c.RootDisk.SizeMiB != 4096 {
		t.Errorf("config %+v", c)
	}
	if n := c.Network; n == nil || len(n.Rules) != 3 || n.Rules[0].Destination != ".ads" || n.Rules[2].Ports[1] != "8000-9000" || n.DefaultEgress != microsandbox.PolicyActionDeny {
		t.Errorf("network %+v", c.Network)
	}
	for line, want := range map[string]string{"hostname": "box", "pwd": "/usr", "hello": "from script", "cat /etc/other": "hi", "echo $BASH": "/bin/bash", "grep -c ' /scratch tmpfs ' /proc/mounts": "1"} {
		if got := shell(t, sb, line); got != want {
			t.Errorf("%s printed %q, want %q", line, got, want)
		}
	}
	out := must[*microsandbox.ExecOutput](t)(sb.ExecDefault(ctx))
	if out.Stdout() != "said\n" {
		t.Errorf("the default command printed %q", out.Stdout())
	}
}

func TestInit(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "init", microsandbox.WithEphemeral(true), microsandbox.WithInit(microsandbox.Init.Cmd("/usr/bin/sleep", microsandbox.InitOptions{Args: []string{"infinity"}, Env: map[string]string{"A": "b"}})))
	if got := shell(t, sb, "cat /proc/1/comm; tr '\\0' '\\n' < /proc/1/environ | grep ^A="); got != "sleep\nA=b" {
		t.Errorf("process 1 is %q", got)
	}
	h := must[*microsandbox.SandboxHandle](t)(microsandbox.GetSandbox(ctx, "init"))
	if c := must[*microsandbox.SandboxConfig](t)(h.Config()); c.Init == nil || c.Init.Cmd != "/usr/bin/sleep" || c.Init.Args[0] != "infinity" || c.Init.Env["A"] != "b" {
		t.Errorf("init %+v", c.Init)
	}
}

func TestRefusals(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	for name, c := range map[string]struct {
		opts []microsandbox.SandboxOption
		kind microsandbox.ErrorKind
	}{
		"no image":        {nil, microsandbox.ErrInvalidConfig},
		"snapshot":        {[]microsandbox.SandboxOption{microsandbox.WithFromSnapshot("x")}, microsandbox.ErrUnsupportedOperation},
		"image disk":      {[]microsandbox.SandboxOption{microsandbox.WithImageDisk("/x.qcow2", "ext4")}, microsandbox.ErrUnsupportedOperation},
		"flat root disk":  {[]microsandbox.SandboxOption{microsandbox.WithImage("host"), microsandbox.WithRootDisk(microsandbox.RootDisk.Flat(microsandbox.RootDiskFlatOptions{}))}, microsandbox.ErrUnsupportedOperation},
		"vsock":           {[]microsandbox.SandboxOption{microsandbox.WithImage("host"), microsandbox.WithVsock(microsandbox.VsockRoute{})}, microsandbox.ErrUnsupportedOperation},
		"disk mount":      {[]microsandbox.SandboxOption{microsandbox.WithImage("host"), microsandbox.WithMounts(map[string]microsandbox.MountConfig{"/d": microsandbox.Mount.Disk("/x", microsandbox.DiskOptions{})})}, microsandbox.ErrUnsupportedOperation},
		"missing volume":  {[]microsandbox.SandboxOption{microsandbox.WithImage("host"), microsandbox.WithMounts(map[string]microsandbox.MountConfig{"/d": microsandbox.Mount.Named("nope", microsandbox.MountOptions{})})}, microsandbox.ErrVolumeNotFound},
		"bad environment": {[]microsandbox.SandboxOption{microsandbox.WithImage("host"), microsandbox.WithEnv(map[string]string{"MSB_X": "y"})}, microsandbox.ErrInvalidConfig},
		"bad label":       {[]microsandbox.SandboxOption{microsandbox.WithImage("host"), microsandbox.WithLabel("service.x", "y")}, microsandbox.ErrInvalidConfig},
		"patched twice": {[]microsandbox.SandboxOption{microsandbox.WithImage("host"), microsandbox.WithPatches(microsandbox.Patch.Text("/etc/x", "", microsandbox.PatchOptions{}),
			microsandbox.Patch.Text("/etc/x", "", microsandbox.PatchOptions{}))}, microsandbox.ErrPatchFailed},
	} {
		_, err := microsandbox.CreateSandbox(ctx, "refused", append(c.opts, microsandbox.WithEphemeral(true))...)
		if !microsandbox.IsKind(err, c.kind) {
			t.Errorf("%s: error %v, want kind %v", name, err, c.kind)
		}
	}
	_, err := microsandbox.CreateSandbox(ctx, "no/name", microsandbox.WithImage("host"))
	wantKind(t, err, microsandbox.ErrInvalidConfig)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	_, err = microsandbox.CreateSandbox(cancelled, "late", microsandbox.WithImage("host"))
	wantKind(t, err, microsandbox.ErrCancelled)
	_, err = microsandbox.Snapshot.List(ctx)
	wantKind(t, err, microsandbox.ErrUnsupportedOperation)
	_, err = microsandbox.GetDefaultVolume(ctx)
	wantKind(t, err, microsandbox.ErrUnsupportedOperation)
	t.Setenv("MSB_BACKEND", "cloud")
	_, err = microsandbox.GetSandbox(ctx, "x")
	wantKind(t, err, microsandbox.ErrInvalidConfig)
	_, err = microsandbox.DefaultBackendInfo()
	if err == nil || err.Error() != "invalid config: MSB_BACKEND=cloud requires a non-empty MSB_API_KEY or a cloud profile" {
		t.Errorf("error %v", err)
	}
}

func TestInstalled(t *testing.T) {
	dir := home(t)
	ctx := ctxOf(t)
	if err := microsandbox.EnsureInstalled(ctx, microsandbox.WithSkipDownload()); err != nil || !microsandbox.IsInstalled() {
		t.Errorf("EnsureInstalled: %v", err)
	}
	if v, err := microsandbox.RuntimeVersion(); err != nil || v != microsandbox.SDKVersion() {
		t.Errorf("runtime %q, %v; SDK %q", v, err, microsandbox.SDKVersion())
	}
	t.Setenv("MSB_RUNNER", "")
	t.Setenv("MSB_AGENT", "")
	t.Setenv("PATH", "/nonexistent")
	err := microsandbox.EnsureInstalled(ctx)
	wantKind(t, err, microsandbox.ErrLibraryNotLoaded)
	if err == nil || !strings.Contains(err.Error(), "go install github.com/microsandbox-go/microsandbox/cmd/msb-runner@") || !strings.Contains(err.Error(), "/cmd/msb-agent@") {
		t.Errorf("error %v", err)
	}
	_, err = microsandbox.CreateSandbox(ctx, "x", microsandbox.WithImage("host"))
	wantKind(t, err, microsandbox.ErrLibraryNotLoaded)
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"msb-runner", "msb-agent"} {
		if err := os.Symlink(filepath.Join(bin, name), filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(filepath.Join(dir, "bin", name))
	}
	if err := microsandbox.EnsureInstalled(ctx); err != nil {
		t.Errorf("with both in bin: %v", err)
	}
	info, err := microsandbox.DefaultBackendInfo()
	if err != nil || info != (microsandbox.BackendInfo{Kind: microsandbox.BackendLocal, Source: "default"}) {
		t.Errorf("backend %+v, %v", info, err)
	}
}
