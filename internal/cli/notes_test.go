package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// notes is a backend that notes what is asked of it and does nothing. It has the sandboxes s, which runs, and t, which does not.
type notes struct {
	mu    sync.Mutex
	lines []string
	looks int        // at metrics
	open  []net.Conn // a process would end with them open
	wait  sync.WaitGroup
}

func (n *notes) add(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, fmt.Sprintf(format, args...))
}

func (n *notes) all() []string {
	n.mu.Lock()
	for _, c := range n.open {
		_ = c.Close()
	}
	n.mu.Unlock()
	n.wait.Wait()
	return n.lines
}

func (n *notes) backend(t *testing.T) func(config.Settings, Use, func(string, ...string)) (backend.Backend, error) {
	return func(config.Settings, Use, func(string, ...string)) (backend.Backend, error) {
		return &noting{n, t}, nil
	}
}

type noting struct {
	*notes
	t *testing.T
}

func (b *noting) json(v any) string {
	j, err := json.Marshal(v)
	if err != nil {
		b.t.Error(err)
	}
	return string(j)
}

func noted(name string, s sandbox.Status) sandbox.Info {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	spec := sandbox.Spec{Name: sandbox.Name(name), Image: sandbox.Image{OCI: &sandbox.OCIImage{Reference: "host"}}, Labels: map[string]string{"k": "v"}}
	return sandbox.Info{Ref: sandbox.DefaultRef(name), ID: "id", Status: s, Spec: spec.WithDefaults(), CreatedAt: at, UpdatedAt: at}
}

func (b *noting) Create(_ context.Context, r backend.CreateRequest) (sandbox.Info, error) {
	b.add("create %v attached=%v startup=%v prepare=%v replace=%v grace=%v generated=%v %s", r.Ref, r.Attached, r.Startup, r.Prepare, r.Replace, r.Grace, r.Generated, b.json(r.Spec))
	if r.Progress != nil {
		r.Progress(backend.Event{Step: "image", Pull: &backend.PullEvent{Phase: backend.PullResolved, Digest: "sha256:aaaaaaaaaaaaaaaa", Layers: 1}})
	}
	info := noted(string(r.Ref.Name), sandbox.Running)
	info.Ref, info.Spec = r.Ref, r.Spec
	return info, nil
}

func (b *noting) Start(_ context.Context, ref sandbox.Ref, o backend.StartOptions) (sandbox.Info, error) {
	b.add("start %v attached=%v quiet=%v", ref, o.Attached, o.Quiet)
	return noted(string(ref.Name), sandbox.Running), nil
}

func (b *noting) Get(_ context.Context, ref sandbox.Ref) (sandbox.Info, error) {
	for _, i := range []sandbox.Info{noted("s", sandbox.Running), noted("t", sandbox.Stopped)} {
		if i.Ref == ref {
			return i, nil
		}
	}
	return sandbox.Info{}, &sandbox.Error{Ref: ref, Kind: sandbox.NotFound}
}

func (b *noting) List(_ context.Context, namespace string) ([]sandbox.Info, error) {
	b.add("list %s", namespace)
	other := noted("u", sandbox.Running)
	other.Spec.Labels = nil
	return []sandbox.Info{noted("s", sandbox.Running), noted("t", sandbox.Stopped), other}, nil
}

func (b *noting) Stop(_ context.Context, ref sandbox.Ref, o backend.StopOptions) error {
	b.add("stop %v %+v", ref, o)
	return nil
}

func (b *noting) Remove(_ context.Context, ref sandbox.Ref, force bool) error {
	b.add("remove %v force=%v", ref, force)
	return nil
}

// Dial connects to a guest that notes what it is to do. The program "hang" does not end before it is killed.
func (b *noting) Dial(context.Context, sandbox.Ref) (net.Conn, error) {
	ours, theirs := net.Pipe()
	b.mu.Lock()
	b.open = append(b.open, theirs)
	b.mu.Unlock()
	b.wait.Go(func() {
		defer theirs.Close()
		start, end := agentproto.IDRange(0)
		hello := agentproto.AppendWords(nil, start, end)
		if _, err := theirs.Write(agentproto.Append(hello, 0, agentproto.TypeReady, &agentproto.Ready{AgentVersion: "noting"})); err != nil {
			return
		}
		frames := agentproto.NewReader(theirs)
		for {
			f, err := frames.Next()
			if err != nil {
				return
			}
			answer := b.answer(f)
			f.Release()
			if _, err := theirs.Write(answer); err != nil {
				return
			}
		}
	})
	return ours, nil
}

func (b *noting) answer(f *agentproto.Frame) []byte {
	m, err := agentproto.Open(f.Body())
	if err != nil {
		b.t.Error(err)
		return nil
	}
	exited := func(code int32) []byte {
		return agentproto.Append(nil, f.ID, agentproto.TypeExecExited, &agentproto.ExecExited{Code: code})
	}
	switch m.Type {
	case agentproto.TypeExecRequest:
		var r agentproto.ExecRequest
		if err := agentproto.Decode(m.Payload, &r); err != nil {
			b.t.Error(err)
		}
		b.add("exec %s", b.json(r))
		started := agentproto.Append(nil, f.ID, agentproto.TypeExecStarted, &agentproto.ExecStarted{PID: 1})
		if r.Cmd == "hang" {
			return started
		}
		return append(started, exited(0)...)
	case agentproto.TypePing:
		b.add("ping")
		return agentproto.Append(nil, f.ID, agentproto.TypePong, nil)
	case agentproto.TypeTouch:
		b.add("touch")
		return agentproto.Append(nil, f.ID, agentproto.TypeTouched, &agentproto.Touched{ActivitySeq: 1})
	case agentproto.TypeExecSignal:
		return exited(-1)
	case agentproto.TypeFSRequest:
		var r agentproto.FSRequest
		if err := agentproto.Decode(m.Payload, &r); err != nil {
			b.t.Error(err)
		}
		result, n := &agentproto.FSResponse{OK: true}, uint64(1)
		switch r.Op.Op {
		case agentproto.OpStat:
			result.Data = &agentproto.FSResult{Stat: &agentproto.FileInfo{Kind: agentproto.KindDir}}
			if r.Op.Path != "/" {
				result = &agentproto.FSResponse{Error: "stat: no such file or directory"}
			}
		case agentproto.OpOpenFile:
			result.Data = &agentproto.FSResult{Handle: &n}
		case agentproto.OpWrite:
			return nil // its answer comes after the data
		}
		return agentproto.Append(nil, f.ID, agentproto.TypeFSResponse, result)
	case agentproto.TypeFSData:
		if data, err := agentproto.DecodeData(m.Payload); err == nil && len(data) == 0 {
			return agentproto.Append(nil, f.ID, agentproto.TypeFSResponse, &agentproto.FSResponse{OK: true})
		}
	}
	return nil
}

var notedImage = backend.Image{Reference: "docker.io/library/x:latest", Short: "x", Digest: "sha256:aaaaaaaaaaaaaaaa", OS: "linux", Architecture: "amd64"}

func (b *noting) PullImage(_ context.Context, ref string, o backend.PullOptions) (backend.Image, error) {
	o.Progress = nil
	b.add("pull %s %+v", ref, o)
	return notedImage, nil
}

func (b *noting) ListImages(context.Context) ([]backend.Image, error) {
	return []backend.Image{notedImage}, nil
}

func (b *noting) InspectImage(context.Context, string) (backend.ImageDetail, error) {
	return backend.ImageDetail{Image: notedImage}, nil
}

func (b *noting) RemoveImage(_ context.Context, ref string, force bool) error {
	b.add("remove image %s %v", ref, force)
	return nil
}

func (b *noting) PruneImages(context.Context) (backend.ImagePrune, error) {
	b.add("prune")
	return backend.ImagePrune{Images: 1}, nil
}

func (b *noting) LoadImages(_ context.Context, r io.Reader, tag string, _ func(backend.PullEvent)) ([]backend.Image, error) {
	data, err := io.ReadAll(r)
	b.add("load %q %s", data, tag)
	return []backend.Image{notedImage}, err
}

func (b *noting) SaveImages(_ context.Context, w io.Writer, refs []string, format backend.ArchiveFormat) error {
	b.add("save %q %s", refs, format)
	_, err := io.WriteString(w, "archive")
	return err
}

func (b *noting) Login(_ context.Context, host string, auth backend.RegistryAuth, o backend.PullOptions) error {
	o.Progress = nil
	b.add("login %s %s %s %+v", host, auth.Username, string(auth.Password), o)
	return nil
}

func (b *noting) Logout(_ context.Context, host string) error {
	b.add("logout %s", host)
	return nil
}

func (b *noting) Logins(context.Context) ([]backend.RegistryLogin, error) {
	return []backend.RegistryLogin{{Host: "r", Username: "u", Source: "login"}}, nil
}

// Metrics are of a sandbox that has ended at the second look.
func (b *noting) Metrics(_ context.Context, ref sandbox.Ref) (sandbox.Metrics, error) {
	state := sandbox.MetricsRunning
	if b.looks++; b.looks > 1 {
		state = sandbox.MetricsExited
	}
	return sandbox.Metrics{Ref: ref, Name: ref.Name, State: state}, nil
}

func (b *noting) AllMetrics(context.Context, string) ([]sandbox.Metrics, error) {
	return []sandbox.Metrics{{Name: "s", State: sandbox.MetricsRunning, CPUPercent: 1, MemoryBytes: 3}, {Name: "u", State: sandbox.MetricsRunning, CPUPercent: 2, MemoryBytes: 2},
		{Name: "t", State: sandbox.MetricsExited}}, nil
}

func (b *noting) OpenLogs(_ context.Context, ref sandbox.Ref, o sandbox.LogOptions) (backend.LogStream, error) {
	b.add("logs %v %+v", ref, o)
	one, two := uint64(1), uint64(2)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return &notedLogs{{Time: at, Source: sandbox.LogStdout, Session: &one, Data: []byte("\x1b[31mred\x1b[0m\n")}, {Time: at, Source: sandbox.LogStderr, Session: &two, Data: []byte("plain\n")}}, nil
}

// notedLogs are entries to be read.
type notedLogs []sandbox.LogEntry

func (l *notedLogs) Next() (sandbox.LogEntry, error) {
	if len(*l) == 0 {
		return sandbox.LogEntry{}, io.EOF
	}
	e := (*l)[0]
	*l = (*l)[1:]
	return e, nil
}

func (l *notedLogs) Close() error { return nil }

func (b *noting) Modify(_ context.Context, ref sandbox.Ref, r backend.ModifyRequest) (sandbox.Plan, error) {
	b.add("modify %v %s", ref, b.json(r))
	return sandbox.Plan{Sandbox: ref.Name, Status: sandbox.Running, Applied: !r.DryRun, Policy: r.Policy}, nil
}

func (b *noting) CreateVolume(_ context.Context, r backend.VolumeRequest) (backend.Volume, error) {
	b.add("create volume %s", b.json(r))
	return backend.Volume{Namespace: r.Namespace, Name: r.Name}, nil
}

func (b *noting) GetVolume(_ context.Context, namespace, name string) (backend.Volume, error) {
	return backend.Volume{Namespace: namespace, Name: name}, nil
}

func (b *noting) ListVolumes(_ context.Context, namespace string) ([]backend.Volume, error) {
	return []backend.Volume{{Namespace: namespace, Name: "v"}}, nil
}

func (b *noting) RemoveVolume(_ context.Context, namespace, name string) error {
	b.add("remove volume %s/%s", namespace, name)
	return nil
}
