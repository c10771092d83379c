package sshserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// session is one session channel (RFC 4254 §6): settings, then one command, shell or subsystem.
type session struct {
	c       *connection
	ctx     context.Context
	channel ssh.Channel
	env     []sandbox.EnvVar
	tty     bool
	rows    uint16
	cols    uint16

	x    *agentclient.Session // what runs
	done chan struct{}        // closed when it has ended; nil before there is something
}

func (c *connection) session(ctx context.Context, ch ssh.NewChannel) {
	channel, requests, err := ch.Accept()
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &session{c: c, ctx: ctx, channel: channel}
	for r := range requests {
		ok := s.request(r)
		if r.WantReply {
			_ = r.Reply(ok, nil)
		}
	}
	cancel() // the client closed the channel
	if s.done != nil {
		<-s.done
	}
	_ = channel.Close()
}

func (s *session) request(r *ssh.Request) bool {
	switch r.Type {
	case "env":
		var v struct{ Name, Value string }
		if ssh.Unmarshal(r.Payload, &v) != nil || s.done != nil || len(s.env) == maxEnv {
			return false
		}
		e := sandbox.EnvVar{Key: v.Name, Value: v.Value}
		if sandbox.ValidateEnv(e) != nil {
			return false
		}
		s.set(e)
		return true
	case "pty-req":
		var v struct {
			Term                      string
			Cols, Rows, Width, Height uint32
			Modes                     string
		}
		if ssh.Unmarshal(r.Payload, &v) != nil || s.done != nil {
			return false
		}
		s.tty, s.rows, s.cols = true, size(v.Rows), size(v.Cols)
		if e := (sandbox.EnvVar{Key: "TERM", Value: v.Term}); v.Term != "" && sandbox.ValidateEnv(e) == nil {
			s.set(e)
		}
		return true
	case "window-change":
		var v struct{ Cols, Rows, Width, Height uint32 }
		if ssh.Unmarshal(r.Payload, &v) != nil || s.x == nil || !s.tty {
			return false
		}
		return s.x.Resize(size(v.Rows), size(v.Cols)) == nil
	case "signal":
		var v struct{ Name string }
		if ssh.Unmarshal(r.Payload, &v) != nil || s.x == nil || signals[v.Name] == 0 {
			return false
		}
		return s.x.Signal(signals[v.Name]) == nil
	case "shell":
		return s.start(s.c.spec.Shell())
	case "exec":
		var v struct{ Command string }
		if ssh.Unmarshal(r.Payload, &v) != nil {
			return false
		}
		return s.start(sandbox.DefaultShell, "-c", v.Command)
	case "subsystem":
		var v struct{ Name string }
		if ssh.Unmarshal(r.Payload, &v) != nil || v.Name != "sftp" || s.c.s.NoSFTP || s.done != nil {
			return false
		}
		s.done = make(chan struct{})
		go s.sftp()
		return true
	}
	return false
}

func (s *session) set(e sandbox.EnvVar) {
	s.env = slices.DeleteFunc(s.env, func(have sandbox.EnvVar) bool { return have.Key == e.Key })
	s.env = append(s.env, e)
}

func size(n uint32) uint16 { return uint16(min(n, 0xffff)) }

// signals are those of RFC 4254 §6.10, by name.
var signals = map[string]int{"ABRT": 6, "ALRM": 14, "FPE": 8, "HUP": 1, "ILL": 4, "INT": 2, "KILL": 9, "PIPE": 13, "QUIT": 3, "SEGV": 11, "TERM": 15, "USR1": 10, "USR2": 12}

// start runs a command. One that cannot be started ends as a shell says it.
func (s *session) start(name string, args ...string) bool {
	if s.done != nil {
		return false // one session, one command
	}
	user := s.c.s.User
	if user == "" {
		user = "0"
	}
	req := agentclient.ExecRequest{Cmd: name, Args: args, User: user, TTY: s.tty, Rows: s.rows, Cols: s.cols, Stdin: s.channel, Stdout: s.channel, Stderr: s.channel.Stderr()}
	req.Complete(s.c.spec, s.env)
	s.done = make(chan struct{})
	x, err := s.c.client.Exec(s.ctx, req)
	if err != nil {
		go func() {
			defer close(s.done)
			fmt.Fprintln(s.channel.Stderr(), err)
			s.exit(codeOf(err), 0)
		}()
		return true
	}
	s.x = x
	go func() {
		defer close(s.done)
		code, err := x.Wait()
		if err != nil && s.ctx.Err() == nil {
			fmt.Fprintln(s.channel.Stderr(), err)
			code = 255
		}
		s.exit(code, x.Signaled())
	}()
	return true
}

// codeOf is the exit code of a command that could not be started (contract msb-0.6 §1.1).
func codeOf(err error) int {
	var failed *agentproto.ExecFailed
	if !errors.As(err, &failed) {
		return 255
	}
	switch failed.Kind {
	case agentproto.FailNotFound:
		return 127
	case agentproto.FailPermissionDenied, agentproto.FailNotExecutable:
		return 126
	}
	return 1
}

// exit says how the command ended, and closes the channel.
func (s *session) exit(code, signal int) {
	_ = s.channel.CloseWrite()
	if code >= 0 {
		_, _ = s.channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{uint32(code)}))
	} else {
		name := "KILL"
		for n, number := range signals {
			if number == signal {
				name = n
			}
		}
		_, _ = s.channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name     string
			Core     bool
			Message  string
			Language string
		}{Name: name}))
	}
	_ = s.channel.Close()
}

// sftp serves the guest's file system on the channel.
func (s *session) sftp() {
	defer close(s.done)
	f := &files{ctx: s.ctx, client: s.c.client}
	server := sftp.NewRequestServer(unclosed{s.channel}, sftp.Handlers{FileGet: f, FilePut: f, FileCmd: f, FileList: f}, sftp.WithStartDirectory(f.start(s.c.spec)))
	code := 0
	if err := server.Serve(); err != nil && !errors.Is(err, io.EOF) {
		code = 1
	}
	_ = server.Close()
	s.exit(code, 0)
}

// unclosed is a channel that pkg/sftp does not close: how the session ended is yet to be said.
type unclosed struct{ io.ReadWriter }

func (unclosed) Close() error { return nil }
