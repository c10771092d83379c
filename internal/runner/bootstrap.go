package runner

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/rootfs"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
)

// readyTimeout is how long an agent may take to answer (contract msb-0.6 §4.4).
const readyTimeout = 180 * time.Second

// bootstrapFrames returns all that the agent needs before it is ready, in one piece, so that no round trip is made: the
// bootstrap, the files and the acknowledgement that it asks for.
func bootstrapFrames(cfg launch.Config, n rootfs.Network) ([]byte, error) {
	files, scripts, err := rootfs.Files(cfg.Info.Spec, n)
	if err != nil {
		return nil, err
	}
	spec := cfg.Info.Spec
	m := &agentproto.Bootstrap{
		User: spec.Runtime.User, DefaultCwd: spec.Runtime.Workdir, SecurityProfile: spec.SecurityProfile, Files: true, Scripts: scripts,
	}
	for _, e := range spec.Env {
		m.DefaultEnv = append(m.DefaultEnv, agentproto.EnvVar{Key: e.Key, Value: e.Value})
	}
	for _, l := range spec.Rlimits {
		m.Rlimits = append(m.Rlimits, agentproto.Rlimit{Resource: l.Resource, Soft: l.Soft, Hard: l.Hard})
	}
	b := agentproto.Append(make([]byte, 0, len(files)+4096), 0, agentproto.TypeBootstrap, m)
	for len(files) > 0 {
		n := min(len(files), agentproto.MaxFilesChunk)
		b = agentproto.AppendData(b, 0, agentproto.TypeFiles, files[:n])
		files = files[n:]
	}
	b = agentproto.AppendData(b, 0, agentproto.TypeFiles, nil)
	return agentproto.Append(b, 0, agentproto.TypeInitAck, nil), nil
}

// bringUp sends the bootstrap and waits for core.ready, whose frame it returns.
func bringUp(conn net.Conn, in *agentproto.Reader, frames []byte) ([]byte, error) {
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(frames)
		sent <- err
	}()
	_ = conn.SetReadDeadline(time.Now().Add(readyTimeout))
	defer conn.SetReadDeadline(time.Time{})
	for {
		f, err := in.Next()
		if err != nil {
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
			return nil, errors.New(e.Message)
		}
		f.Release()
	}
}
