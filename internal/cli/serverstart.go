package cli

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// readyVar tells a server that was detached on which descriptor it says how its start went.
const readyVar = "MSB_SERVER_READY_FD"

// serverFlags are the flags of msb server start.
type serverFlags struct {
	host, path             string
	port                   int
	dev, detach, reset     bool
	hostImage, hostNetwork bool
	key, keyFile           string
	cert, certKey          string
	hosts, origins, roots  []string
	limits                 server.Limits
	sandboxes, cpus, queue int
}

func (a *app) serverStartCommand() *cobra.Command {
	s := serverFlags{host: server.DefaultHost, port: server.DefaultPort}
	c := a.command(&cobra.Command{Use: "start", Short: "Start the server",
		Long: `Clients need an API key of msb server keygen, unless --dev is given. Sandboxes that clients make are kept until they are removed, and
live on when the server ends.`,
		Example: `msb server start --dev
msb server start --detach --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
msb server start --detach --volume-root /srv/data --max-sandboxes 20`})
	f := flagsOf(c, false)
	f.group("Server")
	f.value("", "host", "ADDRESS", "Address to listen on (default "+server.DefaultHost+")", setString(&s.host))
	f.value("", "port", "PORT", "Port to listen on; 0 is any (default "+strconv.Itoa(server.DefaultPort)+")", setInt(&s.port, 0, 65535))
	f.value("p", "path", "DIR", "Directory of the namespaces and their Sandboxfiles (default in MSB_HOME)", setString(&s.path))
	f.toggle("", "dev", "Ask nobody for a key; only programs of this machine are answered", &s.dev)
	f.value("k", "key", "KEY", "Sign API keys with this, and save it", setString(&s.key))
	f.value("", "key-file", "FILE", "Sign API keys with what is in the file", setString(&s.keyFile))
	f.toggle("r", "reset-key", "Sign API keys with a new one: those that were made are worthless then", &s.reset)
	f.toggle("d", "detach", "Return when it answers, and leave it running", &s.detach)
	f.group("Who may ask")
	f.value("", "tls-cert", "FILE", "Certificate, as PEM; with --tls-key", setString(&s.cert))
	f.value("", "tls-key", "FILE", "Its private key, as PEM", setString(&s.certKey))
	f.value("", "allow-host", "NAME", "Another name of this server, besides localhost; repeatable", setAppend(&s.hosts, verbatim))
	f.value("", "allow-origin", "ORIGIN", "Origin whose web pages may ask, or * for all; repeatable", setAppend(&s.origins, verbatim))
	f.group("What they may have")
	f.value("", "volume-root", "DIR", "Directory of this machine from which sandboxes may mount; repeatable", setAppend(&s.roots, filepath.Abs))
	f.toggle("", "allow-host-image", "Let keys of one namespace have the image host, which has this machine's /usr", &s.hostImage)
	f.toggle("", "allow-host-network", "Let their sandboxes reach what listens on this machine, where their policies allow it", &s.hostNetwork)
	f.value("", "max-sandboxes", "N", "Running sandboxes of a namespace", setInt(&s.limits.Sandboxes, 1, 1<<20))
	f.value("", "max-cpus", "N", "CPUs of a namespace's running sandboxes", setInt(&s.limits.CPUs, 1, 1<<20))
	f.value("", "max-memory", "SIZE", "Memory of a namespace's running sandboxes", setParsed(&s.limits.MemoryMiB, sandbox.ParseSize))
	f.value("", "max-disk", "SIZE", "Root disks of a namespace's sandboxes", setParsed(&s.limits.DiskMiB, sandbox.ParseSize))
	f.value("", "max-starts", "N", "Starts at the same time; others wait", setInt(&s.limits.Starts, 1, 1<<20))
	c.RunE = func(c *cobra.Command, _ []string) error { return a.serve(c.Context(), &s) }
	return c
}

// becomeServer makes msb-server of this process, with the same command line. It returns only if that fails.
func (a *app) becomeServer() error {
	set, err := a.settings()
	if err != nil {
		return err
	}
	path, err := config.FindBinary(config.Server, set.Home)
	if err != nil {
		return err
	}
	err = syscall.Exec(path, append([]string{os.Args[0]}, a.args...), os.Environ())
	return &sandbox.Error{Op: "start server", Kind: sandbox.LibraryNotLoaded, Message: "start " + path, Err: err}
}

// serve starts the server, here or in a process of its own.
func (a *app) serve(ctx context.Context, s *serverFlags) error {
	if _, err := netip.ParseAddr(s.host); err != nil {
		return &sandbox.Error{Op: "start server", Kind: sandbox.InvalidConfig, Err: errors.New("Invalid host address: " + s.host)}
	}
	if (s.cert == "") != (s.certKey == "") {
		return usageErrorf("", "--tls-cert and --tls-key belong together")
	}
	if s.keyFile != "" && (s.key != "" || s.reset) {
		return usageErrorf("", "--key-file excludes --key and --reset-key")
	}
	if a.env.Server == nil {
		return a.becomeServer()
	}
	set, err := a.settings()
	if err != nil {
		return err
	}
	if s.path == "" {
		s.path = filepath.Join(set.Home, "namespaces")
	}
	if s.path, err = filepath.Abs(s.path); err != nil {
		return err
	}
	if state, runs, _ := server.Find(set.Home); runs {
		fmt.Fprintln(a.err, (&server.Running{PID: state.PID}).Error())
		return nil
	}
	if !s.dev {
		if err := a.secret(set.Home, s); err != nil {
			return err
		}
	}
	if s.key != "" { // it is saved; in this process's arguments everybody could read it
		self, err := os.Executable()
		if err != nil {
			return err
		}
		args := append([]string{os.Args[0]}, s.args()...)
		if s.detach {
			args = append(args, "--detach")
		}
		return syscall.Exec(self, args, os.Environ())
	}
	if s.detach {
		return a.detachServer(ctx, set.Home, s)
	}
	return a.runServer(ctx, set, s)
}

// secret sees to it that there is something to sign API keys with (contract server-v0.2 §5.4).
func (a *app) secret(home string, s *serverFlags) error {
	if s.keyFile != "" {
		return nil
	}
	if s.key == "" && !s.reset {
		if _, err := server.OpenKeys(home, ""); sandbox.KindOf(err) != sandbox.NotFound {
			return err
		}
	}
	return server.SaveSecret(home, s.key)
}

// args are those of a server that does the same, in the foreground and without its key.
func (s *serverFlags) args() []string {
	args := []string{"server", "start", "--host", s.host, "--port", strconv.Itoa(s.port), "--path", s.path}
	if s.dev {
		args = append(args, "--dev")
	}
	if s.hostImage {
		args = append(args, "--allow-host-image")
	}
	if s.hostNetwork {
		args = append(args, "--allow-host-network")
	}
	for _, f := range []struct {
		name   string
		values []string
	}{{"key-file", one(s.keyFile)}, {"tls-cert", one(s.cert)}, {"tls-key", one(s.certKey)}, {"allow-host", s.hosts}, {"allow-origin", s.origins}, {"volume-root", s.roots},
		{"max-sandboxes", number(s.limits.Sandboxes, "")}, {"max-cpus", number(s.limits.CPUs, "")}, {"max-memory", number(s.limits.MemoryMiB, "M")},
		{"max-disk", number(s.limits.DiskMiB, "M")}, {"max-starts", number(s.limits.Starts, "")}} {
		for _, v := range f.values {
			args = append(args, "--"+f.name+"="+v)
		}
	}
	return args
}

func one(v string) []string {
	if v == "" {
		return nil
	}
	return []string{v}
}

func number(n int, unit string) []string {
	if n == 0 {
		return nil
	}
	return []string{strconv.Itoa(n) + unit}
}

// detachServer starts the server in a session of its own and returns when it answers.
func (a *app) detachServer(ctx context.Context, home string, s *serverFlags) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(self, s.args()...)
	cmd.Env = append(os.Environ(), readyVar+"=3", "MSB_HOME="+home)
	cmd.ExtraFiles = []*os.File{w}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return &sandbox.Error{Op: "start server", Kind: sandbox.IO, Message: "start the server", Err: err}
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	stop := context.AfterFunc(ctx, func() { r.Close() })
	defer stop()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		select {
		case err = <-gone:
		case <-time.After(time.Second):
		}
		return &sandbox.Error{Op: "start server", Kind: sandbox.IO, Message: "the server ended as it started", Err: err, Hint: "see why with: msb server log"}
	}
	url, failure, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
	if failure != "" {
		<-gone
		return &sandbox.Error{Op: "start server", Kind: sandbox.IO, Message: failure}
	}
	a.did(false, "Started", fmt.Sprintf("the server at %s (PID %d)", url, cmd.Process.Pid))
	return nil
}

// runServer is the server.
func (a *app) runServer(ctx context.Context, set settings, s *serverFlags) (err error) {
	ready := a.readyPipe()
	defer func() {
		if ready != nil && err != nil {
			fmt.Fprintf(ready, "\t%s\n", oneLine(err.Error()))
		}
	}()
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	instance, err := server.Become(set.Home)
	if err != nil {
		return err
	}
	defer instance.Release()
	cfg := server.Config{Settings: set.File, Namespaces: s.path, Hosts: s.hosts, Origins: s.origins, VolumeRoots: s.roots, HostImage: s.hostImage, HostNetwork: s.hostNetwork, Limits: s.limits}
	if !s.dev {
		if cfg.Keys, err = server.OpenKeys(set.Home, s.keyFile); err != nil {
			return err
		}
	}
	if s.cert != "" {
		cert, err := tls.LoadX509KeyPair(s.cert, s.certKey)
		if err != nil {
			return &sandbox.Error{Op: "start server", Kind: sandbox.InvalidConfig, Message: "read the certificate", Err: err}
		}
		cfg.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	}
	if err := set.local(); err != nil {
		return err
	}
	if cfg.Backend, err = a.backend(UseCreate); err != nil {
		return err
	}
	if err := os.MkdirAll(s.path, 0o700); err != nil {
		return &sandbox.Error{Op: "start server", Kind: sandbox.IO, Message: "make " + s.path, Err: err}
	}
	path := serverLogFile(set.Home)
	log, err := server.OpenLog(path, ready != nil)
	if err != nil {
		return &sandbox.Error{Op: "start server", Kind: sandbox.IO, Message: "open the log", Err: err}
	}
	defer log.Close()
	cfg.AuditFile = filepath.Join(filepath.Dir(path), "audit.log")
	audit, err := server.OpenLog(cfg.AuditFile, false)
	if err != nil {
		return &sandbox.Error{Op: "start server", Kind: sandbox.IO, Message: "open the audit log", Err: err}
	}
	defer audit.Close()
	cfg.Log, cfg.Audit = slog.New(slog.NewJSONHandler(log, nil)), slog.New(slog.NewJSONHandler(audit, nil))
	srv := a.env.Server(cfg)
	l, err := srv.Listen(ctx, net.JoinHostPort(s.host, strconv.Itoa(s.port)))
	if err != nil {
		return err
	}
	scheme := "http"
	if cfg.TLS != nil {
		scheme = "https"
	}
	state := server.State{PID: os.Getpid(), URL: scheme + "://" + l.Addr().String(), Dev: s.dev, Path: s.path, Log: path, StartedAt: time.Now().UTC()}
	if err := instance.Publish(state); err != nil {
		l.Close()
		return &sandbox.Error{Op: "start server", Kind: sandbox.IO, Message: "write the server's state", Err: err}
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l) }()
	cfg.Log.Info("started", "url", state.URL, "pid", state.PID, "dev", s.dev)
	if ready != nil {
		fmt.Fprintf(ready, "%s\n", state.URL)
		ready.Close()
		ready = nil
	} else {
		if s.dev {
			fmt.Fprintln(a.out, "✓ Running in development mode")
		}
		fmt.Fprintf(a.out, "✓ Server listening on %s\n", l.Addr())
	}
	err = <-done
	if ctx.Err() != nil { // it was told to
		err = nil
	}
	cfg.Log.Info("stopped", "err", err)
	return err
}

// readyPipe is where a server that was detached says how its start went; nil for one that was not.
func (a *app) readyPipe() *os.File {
	fd, err := strconv.Atoi(os.Getenv(readyVar))
	if err != nil || fd < 3 {
		return nil
	}
	_ = os.Unsetenv(readyVar)
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "ready")
}
