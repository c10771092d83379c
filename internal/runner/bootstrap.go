package runner

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
	"github.com/microsandbox-go/microsandbox/internal/rootfs"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// readyTimeout is how long an agent may take to answer (contract msb-0.6 §4.4).
const readyTimeout = 180 * time.Second

// sendBootstrap sends all that the agent needs before it is ready, without a round trip: the bootstrap, the files and the
// acknowledgement that it asks for.
func sendBootstrap(conn io.Writer, cfg launch.Config, n rootfs.Network) error {
	spec := cfg.Info.Spec
	m := &agentproto.Bootstrap{
		User: spec.Runtime.User, DefaultCwd: spec.Runtime.Workdir, SecurityProfile: spec.SecurityProfile,
		Files: true, Scripts: len(spec.Runtime.Scripts) > 0, KeepProfile: spec.OnHost("/etc/profile"),
	}
	if spec.Init != nil {
		m.HandoffInit = handoff(*spec.Init, spec.Runtime.Entrypoint)
	}
	m.DefaultEnv = defaultEnv(spec, cfg.Proxy)
	for _, l := range spec.Rlimits {
		m.Rlimits = append(m.Rlimits, agentproto.Rlimit{Resource: l.Resource, Soft: l.Soft, Hard: l.Hard})
	}
	var (
		devices []*erofs.Entry
		err     error
	)
	disk := cfg.Root.Disk
	if disk != nil {
		m.BlockRoot = blockRoot(*disk)
	}
	if disk != nil && disk.Used {
		spec.Patches = nil
	} else if devices, err = imageDevices(cfg.Root.Image); err != nil {
		return err
	}
	w := &framer{conn: conn, frames: agentproto.Append(make([]byte, 0, 16<<10), 0, agentproto.TypeBootstrap, m)}
	if err := rootfs.Write(w, devices, spec, n); err != nil {
		return err
	}
	w.pack()
	w.frames = agentproto.AppendData(w.frames, 0, agentproto.TypeFiles, nil)
	w.frames = agentproto.Append(w.frames, 0, agentproto.TypeInitAck, nil)
	_, err = conn.Write(w.frames)
	return err
}

// defaultEnv are the variables of commands that say nothing else.
func defaultEnv(spec sandbox.Spec, p *launch.Proxy) (env []agentproto.EnvVar) {
	for _, e := range spec.Env {
		env = append(env, agentproto.EnvVar{Key: e.Key, Value: e.Value})
	}
	return append(env, proxyEnv(spec, len(trusted(p)) > 0)...)
}

// blockRoot tells the agent to put the disk upon the image.
func blockRoot(d launch.Disk) *agentproto.BlockRoot {
	upper := &agentproto.BlockUpper{Kind: agentproto.UpperTmpfs, SizeMiB: uint64(d.SizeMiB)}
	if d.Source != "" {
		upper = &agentproto.BlockUpper{Kind: agentproto.UpperDirectory, Device: driver.DiskTarget}
	}
	return &agentproto.BlockRoot{Kind: agentproto.RootOCI, Lower: "/", Upper: upper}
}

// imageDevices returns the devices of the image that its guest sees only when they are made for it.
func imageDevices(path string) ([]*erofs.Entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the image: %w", err)
	}
	defer f.Close()
	devices, err := erofs.Devices(f)
	if err != nil {
		return nil, fmt.Errorf("read the image %s: %w", path, err)
	}
	return devices, nil
}

// handoff is what the agent is told of an init. "auto" is the image's own entrypoint, if that is one, or what the agent finds.
func handoff(i sandbox.Init, entrypoint []string) *agentproto.HandoffInit {
	h := &agentproto.HandoffInit{Cmd: i.Cmd, Args: i.Args}
	if i.Cmd == sandbox.InitAuto && sandbox.IsInit(entrypoint) {
		h.Cmd = entrypoint[0]
		if len(i.Args) == 0 {
			h.Args = entrypoint[1:]
		}
	}
	for _, e := range i.Env {
		h.Env = append(h.Env, agentproto.EnvVar{Key: e.Key, Value: e.Value})
	}
	return h
}

// framer packs a tar into frames, and sends them when there are many.
type framer struct {
	conn   io.Writer
	frames []byte // whole frames, not sent yet
	data   []byte // of the next frame
}

// filesChunk is how much of the tar one frame carries.
const filesChunk = 256 << 10

func (w *framer) Write(p []byte) (int, error) {
	w.data = append(w.data, p...)
	if len(w.data) < filesChunk {
		return len(p), nil
	}
	w.pack()
	_, err := w.conn.Write(w.frames)
	w.frames = w.frames[:0]
	return len(p), err
}

func (w *framer) pack() {
	for len(w.data) > 0 {
		n := min(len(w.data), filesChunk)
		w.frames = agentproto.AppendData(w.frames, 0, agentproto.TypeFiles, w.data[:n])
		w.data = w.data[:copy(w.data, w.data[n:])]
	}
}

// bringUp sends the bootstrap and waits for core.ready, whose frame it returns.
func bringUp(conn net.Conn, in *agentproto.Reader, send func() error) ([]byte, error) {
	sent := make(chan error, 1)
	go func() {
		err := send()
		if err != nil {
			conn.Close() // the agent would wait for the rest
		}
		sent <- err
	}()
	_ = conn.SetReadDeadline(time.Now().Add(readyTimeout))
	defer conn.SetReadDeadline(time.Time{})
	for {
		f, err := in.Next()
		if err != nil {
			select {
			case failed := <-sent:
				if failed != nil {
					err = failed
				}
			default:
			}
			var known *sandbox.Error
			if errors.As(err, &known) {
				return nil, err
			}
			return nil, fmt.Errorf("the guest agent did not answer: %w", err)
		}
		m, err := agentproto.Open(f.Body())
		if err != nil {
			return nil, fmt.Errorf("the guest agent's first words: %w", err)
		}
		switch m.Type {
		case agentproto.TypeReady:
			raw := append([]byte(nil), f.Raw()...)
			f.Release()
			return raw, <-sent
		case agentproto.TypeError:
			var e agentproto.Error
			if err := agentproto.Decode(m.Payload, &e); err != nil {
				return nil, fmt.Errorf("the guest agent's refusal: %w", err)
			}
			if _, text, ok := strings.Cut(e.Message, "patch failed: "); ok {
				return nil, &sandbox.Error{Kind: sandbox.PatchFailed, Message: text}
			}
			return nil, errors.New(e.Message)
		}
		f.Release()
	}
}
