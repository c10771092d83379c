package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/guest"
	"github.com/microsandbox-go/microsandbox/internal/sshserver"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (a *app) sshCommand() *cobra.Command {
	c := a.sshConnectCommand("ssh")
	c.AddCommand(a.sshConnectCommand("connect"), a.sshServeCommand(), a.sshAuthorizeCommand())
	return c
}

// inactivityFlags say when a connection without traffic ends.
type inactivityFlags struct {
	after        time.Duration
	given, never bool
}

func (i *inactivityFlags) declare(f *flags) {
	f.value("", "inactivity-timeout", "DURATION", "End a connection after this time without traffic; 0 is never (default 10m)", func(v string) (err error) {
		i.after, err = sandbox.ParseDuration(v)
		i.given = true
		return err
	})
	f.toggle("", "no-inactivity-timeout", "Never end it for want of traffic", &i.never)
}

// timeout is what the flags say, or else config.json.
func (i *inactivityFlags) timeout(configured time.Duration) (time.Duration, error) {
	switch {
	case i.never && i.given:
		return 0, usageErrorf("", "--inactivity-timeout and --no-inactivity-timeout exclude each other")
	case i.never:
		return 0, nil
	case i.given:
		return i.after, nil
	}
	return configured, nil
}

// sshConnectCommand is msb ssh and msb ssh connect. Both are on this machine, so that nothing needs to be encrypted.
func (a *app) sshConnectCommand(use string) *cobra.Command {
	var (
		name string
		idle inactivityFlags
	)
	c := a.command(&cobra.Command{Use: use, Short: "Get a root shell in a sandbox, or run a line of one",
		Long: `It is what ssh gives: a shell as root, or /bin/sh -c with the words after --, with a terminal if this is one. Nothing is encrypted, for it
is on this machine; there is no SSH connection that an inactivity timeout could end. For the programs ssh, scp and sftp:
msb ssh serve.`,
		Example: "msb ssh work\nmsb ssh work -- 'ls -l | head'"},
		positional{"[SANDBOX]", "Sandbox to get it in; needed unless --name is given"}, positional{"[-- REMOTE_COMMAND...]", "Command to run in it"})
	f := flagsOf(c, false)
	f.value("", "name", "NAME", "Sandbox, also where it is named like a command", setString(&name))
	idle.declare(f)
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, args []string) error {
		names, command := split(c, args)
		switch {
		case len(names) == 0 && name == "":
			return usageErrorf("for example: msb ssh work", "msb ssh needs a sandbox")
		case len(names) > 0 && name != "":
			return usageErrorf("", "the sandbox is named twice")
		case len(names) > 0:
			name = names[0]
		}
		if _, err := idle.timeout(0); err != nil {
			return err
		}
		if idle.given || idle.never {
			a.warn("the session is on this machine: there is no connection that would end for want of traffic, whatever --inactivity-timeout says")
		}
		b, info, err := a.get(c.Context(), name)
		if err != nil {
			return err
		}
		e := execFlags{}
		if len(command) > 0 {
			command, e.noTTY = []string{sandbox.DefaultShell, "-c", strings.Join(command, " ")}, true
		} else {
			e.tty = isTerminal(a.in) // as ssh does
			e.noTTY = !e.tty
		}
		s := a.catchSignals(c.Context())
		defer s.stop()
		return a.execStarted(s, b, info, false, a.jobOf(&e, []byte(defaultDetach), command, nil, "", "0"))
	}
	return c
}

func (a *app) sshServeCommand() *cobra.Command {
	var (
		host  = "127.0.0.1"
		port  = 2222
		stdio bool
		idle  inactivityFlags
	)
	c := a.command(&cobra.Command{Use: "serve", Short: "Serve a sandbox to the programs ssh, scp and sftp",
		Long: `The server is this process, until it is interrupted; the sandbox needs none. Who connects is let in by the keys of msb ssh authorize, and is root
in the sandbox, whatever user is named. Ports are forwarded from the client into the sandbox (ssh -L). The server's key is
ssh/host_ed25519 of MSB_HOME.`,
		Example: `msb ssh authorize --file ~/.ssh/id_ed25519.pub
msb ssh serve work
ssh -p 2222 root@127.0.0.1
ssh -o 'ProxyCommand=msb ssh serve --stdio work' root@work`},
		positional{"<SANDBOX>", "Sandbox to serve"})
	f := flagsOf(c, false)
	f.value("", "host", "HOST", "Address to listen at (default 127.0.0.1)", setString(&host))
	f.value("", "port", "PORT", "Port to listen at, 0 any that is free (default 2222)", setInt(&port, 0, 65535))
	f.toggle("", "stdio", "Serve one connection by stdin and stdout", &stdio)
	idle.declare(f)
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, args []string) error {
		set, err := a.settings()
		if err != nil {
			return err
		}
		timeout, err := idle.timeout(set.File.SSHInactivity)
		if err != nil {
			return err
		}
		b, info, err := a.get(c.Context(), args[0])
		if err != nil {
			return err
		}
		link := &guest.Link{Get: func(ctx context.Context) (sandbox.Info, error) { return b.Get(ctx, info.Ref) },
			Dial: func(ctx context.Context) (*agentclient.Client, error) { return guest.Connect(ctx, b, info.Ref) }}
		defer link.Close()
		s := a.catchSignals(c.Context())
		defer s.stop()
		if _, _, err := link.Agent(s.ctx); err != nil {
			return s.explain(err)
		}
		server := sshserver.Server{Agent: link.Agent, Inactivity: timeout}
		if err := server.Open(set.Home, "", ""); err != nil {
			return err
		}
		if stdio {
			err := server.Serve(s.ctx, sshserver.Stdio(a.in, a.out))
			return s.explain(err)
		}
		return s.clean(a.serveSSH(s.ctx, &server, net.JoinHostPort(host, strconv.Itoa(port)), info))
	}
	return c
}

// serveSSH serves whoever connects, until ctx ends.
func (a *app) serveSSH(ctx context.Context, server *sshserver.Server, address string, info sandbox.Info) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return &sandbox.Error{Op: "ssh", Ref: info.Ref, Kind: sandbox.IO, Err: err, Hint: "choose another port: --port 0 takes any that is free"}
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	fmt.Fprintf(a.err, "serving %s at %s (%s)\n", info.Ref.Name, l.Addr(), ssh.FingerprintSHA256(server.HostKey.PublicKey()))
	var all sync.WaitGroup
	defer all.Wait()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return &sandbox.Error{Op: "ssh", Ref: info.Ref, Kind: sandbox.IO, Err: err}
		}
		all.Go(func() {
			if err := server.Serve(ctx, conn); err != nil && ctx.Err() == nil {
				a.warn(fmt.Sprintf("%s: %v", conn.RemoteAddr(), err))
			}
		})
	}
}

func (a *app) sshAuthorizeCommand() *cobra.Command {
	var (
		file, key string
		stdin     bool
	)
	c := a.command(&cobra.Command{Use: "authorize", Short: "Let a public key in to the sandboxes that are served",
		Long:    "The keys are in ssh/authorized_keys of MSB_HOME, one per line, as sshd has them but without options.",
		Example: "msb ssh authorize --file ~/.ssh/id_ed25519.pub\nssh-add -L | msb ssh authorize --stdin"})
	f := flagsOf(c, false)
	f.value("", "file", "FILE", "File with the key", setString(&file))
	f.value("", "key", "KEY", "The key itself", setString(&key))
	f.toggle("", "stdin", "Read the key from stdin", &stdin)
	c.RunE = func(*cobra.Command, []string) error {
		given := 0
		for _, g := range []bool{file != "", key != "", stdin} {
			if g {
				given++
			}
		}
		if given != 1 {
			return usageErrorf("for example: msb ssh authorize --file ~/.ssh/id_ed25519.pub", "msb ssh authorize needs one of --file, --key and --stdin")
		}
		set, err := a.settings()
		if err != nil {
			return err
		}
		data, err := []byte(key), error(nil)
		switch {
		case file != "":
			data, err = readSome(file)
		case stdin:
			data, err = io.ReadAll(io.LimitReader(a.in, maxKeyFile))
		}
		if err != nil {
			return &sandbox.Error{Op: "ssh", Kind: sandbox.IO, Message: "read the key", Err: err}
		}
		all, added, err := sshserver.Authorize(sshserver.AuthorizedPath(set.Home), data)
		if err != nil {
			return err
		}
		a.did(false, "Authorized", fmt.Sprintf("%d keys, %d of them new", all, added))
		return nil
	}
	return c
}

// maxKeyFile is how much of a file is looked at for keys, in bytes.
const maxKeyFile = 1 << 20

func readSome(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	return data, errors.Join(err, f.Close())
}
