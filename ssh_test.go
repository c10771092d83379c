package microsandbox_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/microsandbox-go/microsandbox"
)

func TestSSHClient(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "ssh", microsandbox.WithEphemeral(true), microsandbox.WithUser("12"), microsandbox.WithEnv(map[string]string{"A": "b"}))
	c := must[*microsandbox.SSHClient](t)(sb.SSH().OpenClient(ctx))
	out := must[*microsandbox.SSHOutput](t)(c.Exec(ctx, "id -u; echo $A; echo err >&2; exit 4"))
	if out.Status != 4 || string(out.Stdout) != "0\nb\n" || string(out.Stderr) != "err\n" || out.Success() {
		t.Errorf("output %d %q %q", out.Status, out.Stdout, out.Stderr)
	}
	if out := must[*microsandbox.SSHOutput](t)(c.Exec(ctx, "test -t 0 && stty size", microsandbox.WithSSHTTY(true))); string(out.Stdout) != "24 80\r\n" {
		t.Errorf("with a terminal %q", out.Stdout)
	}
	if out := must[*microsandbox.SSHOutput](t)(c.Exec(ctx, "kill -TERM $$")); out.Status != -1 {
		t.Errorf("killed: %d", out.Status)
	}
	late, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err := c.Exec(late, "sleep 1000")
	wantKind(t, err, microsandbox.ErrCancelled)
	f := must[*microsandbox.SFTPClient](t)(c.SFTP(ctx))
	for what, err := range map[string]error{
		"mkdir": f.Mkdir(ctx, "/tmp/d"), "again": nil,
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := errors.Join(f.Write(ctx, "/tmp/d/f", []byte("data")), f.Rename(ctx, "/tmp/d/f", "/tmp/d/g"), f.Symlink(ctx, "g", "/tmp/d/l")); err != nil {
		t.Fatal(err)
	}
	if got := must[[]byte](t)(f.Read(ctx, "/tmp/d/l")); string(got) != "data" {
		t.Errorf("read %q", got)
	}
	if got := must[string](t)(f.ReadLink(ctx, "/tmp/d/l")); got != "g" {
		t.Errorf("link %q", got)
	}
	if got := must[string](t)(f.RealPath(ctx, "/tmp/d/l")); got != "/tmp/d/g" {
		t.Errorf("real path %q", got)
	}
	_, err = f.Read(ctx, "/tmp/nothing")
	if !microsandbox.IsKind(err, microsandbox.ErrFilesystem) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := errors.Join(f.RemoveFile(ctx, "/tmp/d/l"), f.RemoveFile(ctx, "/tmp/d/g"), f.RemoveDir(ctx, "/tmp/d"), f.Close(ctx)); err != nil {
		t.Error(err)
	}
	if err := errors.Join(c.Close(ctx), c.Close(ctx)); err != nil {
		t.Error(err)
	}
	no := must[*microsandbox.SSHClient](t)(sb.SSH().OpenClient(ctx, microsandbox.WithSSHClientSFTP(false), microsandbox.WithSSHUser("12")))
	defer no.Close(ctx)
	if _, err := no.SFTP(ctx); err == nil {
		t.Error("SFTP was refused and works")
	}
	if out := must[*microsandbox.SSHOutput](t)(no.Exec(ctx, "id -u")); string(out.Stdout) != "12\n" {
		t.Errorf("user %q", out.Stdout)
	}
}

// keyPair writes a new key pair of OpenSSH's form.
func keyPair(t *testing.T, file string) ssh.Signer {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block := must[*pem.Block](t)(ssh.MarshalPrivateKey(private, "test"))
	signer := must[ssh.Signer](t)(ssh.NewSignerFromKey(private))
	pub := must[ssh.PublicKey](t)(ssh.NewPublicKey(public))
	if err := errors.Join(os.WriteFile(file, pem.EncodeToMemory(block), 0o600), os.WriteFile(file+".pub", ssh.MarshalAuthorizedKey(pub), 0o644)); err != nil {
		t.Fatal(err)
	}
	return signer
}

// serve serves SSH for a sandbox on a port, until the test ends.
func serve(t *testing.T, sb *microsandbox.Sandbox, opts ...microsandbox.SSHServerOption) (addr string, host ssh.PublicKey) {
	t.Helper()
	ctx := ctxOf(t)
	server := must[*microsandbox.SSHServer](t)(sb.SSH().PrepareServer(ctx, opts...))
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { _ = server.ServeConn(ctx, conn) })
		}
	})
	t.Cleanup(func() {
		if err := errors.Join(l.Close(), server.Close(ctx)); err != nil {
			t.Error(err)
		}
		all.Wait()
	})
	return l.Addr().String(), server.HostKey()
}

func TestSSHServer(t *testing.T) {
	dir := t.TempDir()
	home(t)
	sb := newSandbox(t, "served", microsandbox.WithEphemeral(true))
	key := keyPair(t, filepath.Join(dir, "id"))
	stranger := keyPair(t, filepath.Join(dir, "stranger"))
	opts := []microsandbox.SSHServerOption{microsandbox.WithSSHHostKeyPath(filepath.Join(dir, "host")), microsandbox.WithSSHAuthorizedKeysPath(filepath.Join(dir, "id.pub"))}
	addr, host := serve(t, sb, opts...)
	_, again := serve(t, sb, opts...)
	if !bytes.Equal(host.Marshal(), again.Marshal()) {
		t.Error("the host key is another one")
	}
	dial := func(auth ...ssh.AuthMethod) (*ssh.Client, error) {
		return ssh.Dial("tcp", addr, &ssh.ClientConfig{User: "root", Auth: auth, HostKeyCallback: ssh.FixedHostKey(host), Timeout: 10 * time.Second})
	}
	if _, err := dial(ssh.PublicKeys(stranger)); err == nil {
		t.Error("a key that is not authorized is let in")
	}
	if _, err := dial(ssh.Password("root")); err == nil {
		t.Error("a password is let in")
	}
	if _, err := dial(); err == nil {
		t.Error("anybody is let in")
	}
	c := must[*ssh.Client](t)(dial(ssh.PublicKeys(key)))
	defer c.Close()
	s := must[*ssh.Session](t)(c.NewSession())
	if err := s.Setenv("LANG", "xx"); err != nil {
		t.Error(err)
	}
	if err := s.Setenv("MSB_X", "y"); err == nil {
		t.Error("a variable of ours can be set")
	}
	s.Stdin = strings.NewReader("in")
	out, err := s.Output("cat; echo $LANG; exit 9")
	var exit *ssh.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 9 || string(out) != "inxx\n" {
		t.Errorf("%q, %v", out, err)
	}
	// A terminal with a size that changes, and signals.
	s = must[*ssh.Session](t)(c.NewSession())
	in := must[io.WriteCloser](t)(s.StdinPipe())
	stdout := must[io.Reader](t)(s.StdoutPipe())
	if err := errors.Join(s.RequestPty("vt100", 10, 20, nil), s.Shell(), s.WindowChange(30, 40)); err != nil {
		t.Fatal(err)
	}
	// Requests and data come to the server by two ways: the size may be there a little after the line.
	if _, err := io.WriteString(in, `n=0; until [ "$(stty size)" = "30 40" ] || [ $((n+=1)) -gt 1000 ]; do :; done; stty size; echo $TERM; exit 3`+"\n"); err != nil {
		t.Fatal(err)
	}
	text := must[[]byte](t)(io.ReadAll(stdout))
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 3 || !strings.HasSuffix(string(text), "30 40\r\nvt100\r\n") {
		t.Errorf("%q, %v", text, err)
	}
	s = must[*ssh.Session](t)(c.NewSession())
	stdout = must[io.Reader](t)(s.StdoutPipe())
	if err := s.Start("echo up; exec sleep 1000"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if err := s.Signal(ssh.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := s.Wait(); !errors.As(err, &exit) || exit.Signal() != "TERM" {
		t.Errorf("after a signal: %v", err)
	}
	// A client that goes away leaves no command.
	s = must[*ssh.Session](t)(c.NewSession())
	stdout = must[io.Reader](t)(s.StdoutPipe())
	if err := s.Start("echo up; exec sleep 4321"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	f := must[*sftp.Client](t)(sftp.NewClient(c))
	w := must[*sftp.File](t)(f.Create("/tmp/large"))
	data := make([]byte, 3<<20+17)
	if _, err := io.ReadFull(random(), data); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ReadFrom(bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), f.Chmod("/tmp/large", 0o640), f.Truncate("/tmp/large", int64(len(data)))); err != nil {
		t.Error(err)
	}
	r := must[*sftp.File](t)(f.Open("/tmp/large"))
	var back bytes.Buffer
	if _, err := r.WriteTo(&back); err != nil || !bytes.Equal(back.Bytes(), data) {
		t.Errorf("read %d bytes of %d, %v", back.Len(), len(data), err)
	}
	_ = r.Close()
	if st := must[os.FileInfo](t)(f.Stat("/tmp/large")); st.Size() != int64(len(data)) || st.Mode() != 0o640 {
		t.Errorf("stat %v %v", st.Size(), st.Mode())
	}
	if err := f.Rename("/tmp/large", "/etc/hostname"); err == nil {
		t.Error("a rename replaced a file")
	}
	if names := must[[]os.FileInfo](t)(f.ReadDir("/tmp")); len(names) != 1 || names[0].Name() != "large" {
		t.Errorf("%d names", len(names))
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	left := "1"
	for end := time.Now().Add(10 * time.Second); left != "0" && time.Now().Before(end); {
		left = shell(t, sb, "ps ax | grep -c '[s]leep 4321'; true")
	}
	if left != "0" {
		t.Error("a command is left of a client that went away")
	}
}

// A connection without traffic ends; one with traffic does not.
func TestSSHInactivity(t *testing.T) {
	dir := t.TempDir()
	home(t)
	sb := newSandbox(t, "idle", microsandbox.WithEphemeral(true))
	key := keyPair(t, filepath.Join(dir, "id"))
	addr, host := serve(t, sb, microsandbox.WithSSHHostKeyPath(filepath.Join(dir, "host")), microsandbox.WithSSHAuthorizedKeysPath(filepath.Join(dir, "id.pub")),
		microsandbox.WithSSHServerInactivityTimeout(time.Second))
	c := must[*ssh.Client](t)(ssh.Dial("tcp", addr, &ssh.ClientConfig{User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.FixedHostKey(host)}))
	defer c.Close()
	s := must[*ssh.Session](t)(c.NewSession())
	if out, err := s.Output("for i in 1 2 3 4 5 6; do echo $i; sleep 0.3; done"); err != nil || len(out) != 12 {
		t.Errorf("with traffic: %q, %v", out, err)
	}
	_ = c.Wait() // the test is over when that is, or hangs
}

// The programs of OpenSSH, upon msb ssh serve.
func TestOpenSSH(t *testing.T) {
	for _, program := range []string{"ssh", "scp", "sftp"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("there is no %s here: %v", program, err)
		}
	}
	if _, err := user.LookupId(strconv.Itoa(os.Geteuid())); err != nil {
		t.Skipf("OpenSSH wants its user to have a name: %v", err)
	}
	dir := t.TempDir()
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "open", microsandbox.WithEphemeral(true))
	keyPair(t, filepath.Join(dir, "id"))
	msb := func(args ...string) *exec.Cmd { return exec.CommandContext(ctx, filepath.Join(bin, "msb"), args...) }
	if out, err := msb("ssh", "authorize", "--file", filepath.Join(dir, "id.pub")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { os.RemoveAll(filepath.Join(os.Getenv("MSB_HOME"), "ssh")) })
	out, err := msb("ssh", "open", "--", "id -u; echo $((1 + 1)); exit 6").Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 6 || string(out) != "0\n2\n" {
		t.Errorf("msb ssh: %q, %v", out, err)
	}
	server := msb("ssh", "serve", "--port", "0", "open")
	said := must[io.ReadCloser](t)(server.StderrPipe())
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		_ = server.Wait()
	})
	var name, at, address, print string
	if _, err := fmt.Fscanf(said, "%s %s %s %s %s\n", &name, &name, &at, &address, &print); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	options := []string{"-F", "none", "-i", filepath.Join(dir, "id"), "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=" + filepath.Join(dir, "known"), "-o", "LogLevel=ERROR", "-o", "BatchMode=yes"}
	program := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, name, append(append([]string{}, options...), args...)...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil && !errors.As(err, &exit) {
			t.Fatalf("%s: %v", name, err)
		}
		return fmt.Sprintf("%d %s%s", cmd.ProcessState.ExitCode(), out, errs.String())
	}
	if got := program("ssh", "-p", port, "root@127.0.0.1", "echo hello; exit 7"); got != "7 hello\n" {
		t.Errorf("ssh: %q", got)
	}
	if got := program("ssh", "-p", port, "-tt", "root@127.0.0.1", "test -t 0 && echo terminal"); got != "0 terminal\r\n" {
		t.Errorf("ssh -t: %q", got)
	}
	if got := program("ssh", "-o", "ProxyCommand="+filepath.Join(bin, "msb")+" ssh serve --stdio open", "root@open", "echo by stdio"); got != "0 by stdio\n" {
		t.Errorf("ssh by stdio: %q", got)
	}
	data := make([]byte, 1<<20+3)
	if _, err := io.ReadFull(random(), data); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := program("scp", "-P", port, filepath.Join(dir, "data"), "root@127.0.0.1:/tmp/data"); got != "0 " {
		t.Errorf("scp to: %q", got)
	}
	if got := program("scp", "-P", port, "root@127.0.0.1:/tmp/data", filepath.Join(dir, "back")); got != "0 " {
		t.Errorf("scp from: %q", got)
	}
	if back, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || !bytes.Equal(back, data) {
		t.Errorf("scp brought %d bytes, %v", len(back), err)
	}
	batch := filepath.Join(dir, "batch")
	if err := os.WriteFile(batch, []byte("mkdir /tmp/d\nput "+filepath.Join(dir, "data")+" /tmp/d/x\nrename /tmp/d/x /tmp/d/y\nls -1 /tmp/d\nrm /tmp/d/y\nrmdir /tmp/d\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := program("sftp", "-P", port, "-q", "-b", batch, "root@127.0.0.1"); !strings.HasPrefix(got, "0 ") || !strings.Contains(got, "/tmp/d/y") {
		t.Errorf("sftp: %q", got)
	}
	// -L: a port of this machine that leads into the guest, here to the agent's end of an echo server.
	x := must[*microsandbox.ExecHandle](t)(sb.ExecStream(ctx, "python3", []string{"-c", "import socket\ns=socket.create_server(('127.0.0.1',0))\nprint(s.getsockname()[1],flush=True)\nwhile 1:\n c,_=s.accept()\n c.sendall(c.recv(99).upper())\n c.close()"}))
	defer x.Close()
	inside := ""
	for inside == "" {
		e := must[*microsandbox.ExecEvent](t)(x.Recv(ctx))
		if e.Kind == microsandbox.ExecEventFailed {
			t.Skip("there is no python3 here")
		}
		if e.Kind == microsandbox.ExecEventStdout {
			inside = strings.TrimSpace(string(e.Data))
		}
	}
	free := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	local := free.Addr().String()
	_ = free.Close()
	tunnel := exec.CommandContext(ctx, "ssh", append(append([]string{}, options...), "-p", port, "-o", "ExitOnForwardFailure=yes", "-N", "-L", local+":127.0.0.1:"+inside, "root@127.0.0.1")...)
	if err := tunnel.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tunnel.Process.Kill(); _ = tunnel.Wait() }()
	var conn net.Conn
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if conn, err = net.Dial("tcp", local); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "through"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "THROUGH" || err != nil {
		t.Errorf("ssh -L brought %q, %v", got, err)
	}
}
