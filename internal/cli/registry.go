package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// registryCommand is what is done with registries; registries, its hidden other name, lists them when nothing is said.
func (a *app) registryCommand() *cobra.Command {
	c := a.groupCommand(&cobra.Command{Use: "registry", Short: "Manage what registries know you by",
		Example: "msb registry login ghcr.io\nmsb registry list"})
	c.AddCommand(a.loginCommand(), a.logoutCommand(), a.registryListCommand())
	return c
}

func (a *app) registriesCommand() *cobra.Command {
	c := a.registryListCommand()
	c.Use, c.Aliases, c.Hidden = "registries", []string{"regs"}, true
	c.AddCommand(a.loginCommand(), a.logoutCommand(), a.registryListCommand())
	return c
}

// maxPassword is the most that is read as a password; tokens of cloud registries have some kilobytes.
const maxPassword = 64 << 10

func (a *app) loginCommand() *cobra.Command {
	var (
		opt   backend.PullOptions
		auth  backend.RegistryAuth
		stdin bool
	)
	c := a.command(&cobra.Command{Use: "login", Short: "Store what a registry knows you by",
		Long:    "The registry is asked whether it takes it. It is kept in a file that only you may read, below MSB_HOME.",
		Example: "msb registry login ghcr.io -u octocat\necho $TOKEN | msb registry login ghcr.io -u octocat --password-stdin"},
		positional{"<REGISTRY>", "Host, or host:port, e.g. ghcr.io"})
	f := flagsOf(c, false)
	f.value("u", "username", "NAME", "User name; without it, one is asked for", setString(&auth.Username))
	f.toggle("", "password-stdin", "Read the password or token from standard input", &stdin)
	declareRegistry(f, &opt)
	c.RunE = func(c *cobra.Command, args []string) error {
		if !stdin && !isTerminal(a.in) {
			return usageErrorf("give the password on standard input: --password-stdin", "there is nobody to ask for the password")
		}
		if stdin && auth.Username == "" {
			return usageErrorf("add: -u NAME", "--password-stdin needs --username")
		}
		b, err := capable[backend.Registries](a, "Registry::login")
		if err != nil {
			return err
		}
		return a.interruptible(c, func(ctx context.Context) error {
			if err := a.credentials(ctx, args[0], stdin, &auth); err != nil {
				return err
			}
			a.spinFor(false, "Logging in to "+args[0])
			if err := b.Login(ctx, args[0], auth, opt); err != nil {
				return err
			}
			a.did(false, "Logged in", args[0])
			return nil
		})
	}
	return c
}

// credentials completes auth from standard input or by asking.
func (a *app) credentials(ctx context.Context, host string, stdin bool, auth *backend.RegistryAuth) error {
	var password string
	in := &interruptedReader{ctx, a.in}
	if stdin {
		b, err := io.ReadAll(io.LimitReader(in, maxPassword+1))
		switch {
		case err != nil:
			return ioError("registry login", "read the password", err)
		case len(b) > maxPassword:
			return &sandbox.Error{Op: "registry login", Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("the password is longer than %d KiB", maxPassword>>10)}
		}
		password = strings.TrimRight(string(b), "\r\n")
	} else {
		if auth.Username == "" {
			fmt.Fprintf(a.err, "User name for %s: ", host)
			line, err := bufio.NewReader(in).ReadString('\n')
			if err != nil && !errors.Is(err, io.EOF) {
				fmt.Fprintln(a.err)
				return err
			}
			auth.Username = strings.TrimSpace(line)
		}
		var err error
		if password, err = a.readPassword(ctx, fmt.Sprintf("Password or token for %s at %s: ", auth.Username, host)); err != nil {
			return err
		}
	}
	if auth.Username == "" || password == "" {
		return &sandbox.Error{Op: "registry login", Kind: sandbox.InvalidArgument, Message: "the user name or the password is empty"}
	}
	auth.Password = backend.Secret(password)
	return nil
}

// readPassword reads a line from the terminal without showing it. The terminal is as before when it returns, however that is.
func (a *app) readPassword(ctx context.Context, prompt string) (string, error) {
	fd := int(a.in.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", ioError("registry login", "read the password", err)
	}
	defer fmt.Fprintln(a.err)
	defer term.Restore(fd, before)
	// Nothing is shown from before the question on: a quick typist, or a program, may answer at once.
	quiet, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err == nil {
		quiet.Lflag &^= unix.ECHO
		quiet.Lflag |= unix.ICANON | unix.ISIG
		quiet.Iflag |= unix.ICRNL
		err = unix.IoctlSetTermios(fd, unix.TCSETS, quiet)
	}
	if err != nil {
		return "", ioError("registry login", "read the password", err)
	}
	fmt.Fprint(a.err, prompt)
	type result struct {
		line string
		err  error
	}
	done := make(chan result, 1)
	go func() { // it leaves the terminal's settings alone: it may outlive this call
		line, err := bufio.NewReader(io.LimitReader(a.in, maxPassword)).ReadString('\n')
		done <- result{strings.TrimRight(line, "\n"), err}
	}()
	select {
	case r := <-done:
		if r.err != nil && !errors.Is(r.err, io.EOF) {
			return "", ioError("registry login", "read the password", r.err)
		}
		return r.line, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (a *app) logoutCommand() *cobra.Command {
	c := a.command(&cobra.Command{Use: "logout", Short: "Forget what a registry knows you by", Example: "msb registry logout ghcr.io"},
		positional{"<REGISTRY>", "Host, or host:port"})
	c.RunE = func(c *cobra.Command, args []string) error {
		b, err := capable[backend.Registries](a, "Registry::logout")
		if err != nil {
			return err
		}
		if err := b.Logout(c.Context(), args[0]); err != nil {
			return err
		}
		a.did(false, "Logged out", args[0])
		return nil
	}
	return c
}

func (a *app) registryListCommand() *cobra.Command {
	var format string
	c := a.command(&cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the registries that know you",
		Long:    "Those of msb registry login and of config.json. What docker login stored is used, too, and not listed.",
		Example: "msb registry list"})
	flagsOf(c, false).format(&format)
	c.RunE = func(c *cobra.Command, _ []string) error {
		b, err := capable[backend.Registries](a, "Registry::list")
		if err != nil {
			return err
		}
		logins, err := b.Logins(c.Context())
		switch {
		case err != nil:
			return err
		case format == "json":
			return printJSON(a.out, each(logins, func(l backend.RegistryLogin) any {
				return map[string]any{"registry": l.Host, "username": l.Username, "source": l.Source}
			}))
		case len(logins) == 0:
			_, err := fmt.Fprintln(a.out, "No registries configured.") // contract msb-0.6 §1.1
			return err
		}
		return printTable(a.out, []string{"REGISTRY", "USERNAME", "SOURCE"}, each(logins, func(l backend.RegistryLogin) []string {
			return []string{l.Host, l.Username, l.Source}
		}))
	}
	return c
}
