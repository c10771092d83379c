package agent

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// guest is what core.bootstrap says about every command.
type guest struct {
	user    string
	cwd     string
	env     []string
	rlimits []agentproto.Rlimit
}

// bootstrap is the conversation that makes the guest ready (contract msb-0.6 §4.4). The host writes its part in one
// piece: core.bootstrap, the files, core.init.ack.
func (a *Agent) bootstrap() error {
	var b agentproto.Bootstrap
	if err := a.expect(agentproto.TypeBootstrap, &b); err != nil {
		return err
	}
	if err := a.apply(&b); err != nil {
		return err
	}
	id, err := a.users.lookup(b.User)
	if err != nil {
		return err
	}
	resolved := &agentproto.InitResolved{DefaultUser: agentproto.UserID{UID: id.uid, GID: id.gid}}
	answer := agentproto.Append(nil, 0, agentproto.TypeInitResolved, resolved)
	if !a.frames.Buffered() { // else the ack is here, and one write says it all
		if err := a.out.write(answer); err != nil {
			return err
		}
		answer = nil
		late := time.AfterFunc(a.AckTimeout, func() { stopReading(a.Conn) })
		defer late.Stop()
	}
	waiting := time.Now()
	err = a.expect(agentproto.TypeInitAck, &agentproto.None{})
	if err != nil && time.Since(waiting) >= a.AckTimeout {
		return fmt.Errorf("no %s within %v", agentproto.TypeInitAck, a.AckTimeout)
	}
	if err != nil {
		return err
	}
	if b.HandoffInit != nil {
		return a.handOver(&b) // whose other side says the rest
	}
	return a.ready(answer)
}

// ready says that the guest is ready, after what is in answer.
func (a *Agent) ready(answer []byte) error {
	spent := time.Since(a.Started)
	answer = agentproto.Append(answer, 0, agentproto.TypeReady, &agentproto.Ready{
		BootTimeNS:   uint64(a.Boot),
		InitTimeNS:   uint64(spent),
		ReadyTimeNS:  uint64(a.Boot + spent),
		AgentVersion: a.Version,
		Types: []agentproto.Type{agentproto.TypeFiles, agentproto.TypeAck, agentproto.TypeCancel,
			agentproto.TypeFSPut, agentproto.TypeFSGet, agentproto.TypeKernelRun, agentproto.TypeKernelRequest},
	})
	return a.out.write(answer)
}

// expect reads the next message, which has to be of one type.
func (a *Agent) expect(t agentproto.Type, p agentproto.Payload) error {
	f, err := a.next()
	if err != nil {
		return err
	}
	defer f.Release()
	m, err := agentproto.Open(f.Body())
	if err != nil {
		return err
	}
	if m.Type != t {
		return fmt.Errorf("have %q, want %q", m.Type, t)
	}
	return agentproto.Decode(m.Payload, p)
}

// apply makes the guest what the bootstrap says. The network is configured by who made it: inside gVisor by the sentry.
func (a *Agent) apply(b *agentproto.Bootstrap) error {
	switch {
	case len(b.DiskMounts) > 0:
		return errors.New("this guest has no block devices")
	case len(b.DirMounts) > 0 || len(b.FileMounts) > 0:
		return errors.New("this guest has no shared directories")
	}
	if b.BlockRoot != nil {
		if err := a.enterRoot(b.BlockRoot); err != nil {
			return fmt.Errorf("mount the root: %w", err)
		}
	}
	for i := range b.TmpfsMounts {
		if err := a.mountTmpfs(&b.TmpfsMounts[i]); err != nil {
			return err
		}
	}
	if b.Hostname != "" && a.Init {
		if err := syscall.Sethostname([]byte(b.Hostname)); err != nil {
			return fmt.Errorf("set hostname %q: %w", b.Hostname, err)
		}
	}
	if b.Files {
		if err := a.receiveFiles(b.Scripts, b.KeepProfile); err != nil {
			return fmt.Errorf("apply files: %w", err)
		}
	}
	if b.SecurityProfile == agentproto.ProfileRestricted {
		if err := restrict(); err != nil {
			return fmt.Errorf("apply the restricted profile: %w", err)
		}
	}
	if _, err := parseRlimits(b.Rlimits); err != nil {
		return err
	}
	a.guest.Store(guestOf(b))
	return nil
}

func guestOf(b *agentproto.Bootstrap) *guest {
	g := &guest{user: b.User, cwd: b.DefaultCwd, rlimits: b.Rlimits}
	for _, v := range b.DefaultEnv {
		g.env = append(g.env, v.Key+"="+v.Value)
	}
	return g
}

// redefine takes what a later core.bootstrap says about commands to come: their variables and their directory.
func (a *Agent) redefine(b *agentproto.Bootstrap) {
	next := guestOf(b)
	now := a.guest.Load()
	next.user, next.rlimits = now.user, now.rlimits
	a.guest.Store(next)
}

func (a *Agent) mountTmpfs(m *agentproto.TmpfsMount) error {
	path, err := a.below(m.Path)
	if err != nil {
		return err
	}
	flags := uintptr(0)
	for _, f := range []struct {
		on   bool
		flag uintptr
	}{{m.Flags.ReadOnly, syscall.MS_RDONLY}, {m.Flags.NoExec, syscall.MS_NOEXEC}, {m.Flags.NoSUID, syscall.MS_NOSUID}, {m.Flags.NoDev, syscall.MS_NODEV}} {
		if f.on {
			flags |= f.flag
		}
	}
	mode := uint32(0o1777)
	if m.Mode != nil {
		mode = *m.Mode & 0o7777
	}
	options := fmt.Sprintf("mode=%o", mode)
	if m.SizeMiB > 0 {
		options += fmt.Sprintf(",size=%dm", m.SizeMiB)
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	if err := syscall.Mount("tmpfs", path, "tmpfs", flags, options); err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", m.Path, err)
	}
	return nil
}
