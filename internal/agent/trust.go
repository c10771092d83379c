package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// Where what the guest is to trust is put, and how much of it there may be.
const (
	trustDir   = "/.msb/tls"
	bundleName = "bundle.pem"
	trustMiB   = 16
	maxTrust   = 4 << 20 // bytes of one file of certificates
)

// bundles are the files in which systems keep what they trust. Where there is none, the first is made.
var bundles = [...]string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem",
}

// trust writes certificates to a file of a file system in memory, adds them to the bundles of the system, and puts all of
// them together beside the file. What is mounted from the host is left as it is. It is a second time what it is once.
func (a *Agent) trust(root *os.Root, name string, content io.Reader) error {
	certs, err := io.ReadAll(io.LimitReader(content, maxTrust+1))
	if err != nil {
		return err
	}
	if len(certs) > maxTrust {
		return fmt.Errorf("%s is larger than %d MiB", name, maxTrust>>20)
	}
	mode := uint32(0o755)
	if err := a.mountTmpfs(&agentproto.TmpfsMount{Path: trustDir, SizeMiB: trustMiB, Mode: &mode}); err != nil {
		return err
	}
	mounted := mountPoints()
	var all []byte
	for _, b := range bundles {
		have, err := extend(root, b, certs, mounted)
		if err != nil {
			return fmt.Errorf("trust certificates in %s: %w", b, err)
		}
		if all == nil {
			all = have
		}
	}
	if all == nil {
		if all, err = begin(root, bundles[0], certs, mounted); err != nil {
			return fmt.Errorf("trust certificates in %s: %w", bundles[0], err)
		}
	}
	dir, err := root.OpenRoot(strings.TrimPrefix(trustDir, "/"))
	if err != nil {
		return err
	}
	defer dir.Close()
	return errors.Join(dir.WriteFile(filepath.Base(name), certs, 0o644), dir.WriteFile(bundleName, all, 0o644))
}

// extend adds certificates to a bundle that is there, unless it has them, and returns all that is then in it. nil: there is
// none. One that is the host's, or too large, stays as it is.
func extend(root *os.Root, path string, certs []byte, mounted []string) ([]byte, error) {
	at, err := resolve(root, path)
	if err != nil {
		return nil, nil // of links that lead nowhere: no bundle
	}
	f, err := root.OpenFile(at, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, nil
	}
	have, err := io.ReadAll(io.LimitReader(f, maxTrust+1))
	f.Close()
	if err != nil || len(have) > maxTrust {
		return nil, nil
	}
	if bytes.Contains(have, certs) {
		return have, nil
	}
	more := append([]byte("\n"), certs...)
	all := append(have, more...)
	if within("/"+at, mounted) {
		return all, nil
	}
	f, err = root.OpenFile(at, os.O_WRONLY|os.O_APPEND|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.EROFS) {
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	_, err = f.Write(more)
	return all, errors.Join(err, f.Close())
}

// begin makes a bundle where there was none.
func begin(root *os.Root, path string, certs []byte, mounted []string) ([]byte, error) {
	at, err := resolve(root, path)
	if err != nil || within("/"+at, mounted) {
		return certs, nil
	}
	if err := root.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return nil, err
	}
	return certs, root.WriteFile(at, certs, 0o644)
}

// mountPoints are where other file systems than the root are.
func mountPoints() (list []string) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 4 && f[4] != "/" {
			list = append(list, strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(f[4]))
		}
	}
	return list
}

func within(path string, dirs []string) bool {
	for _, d := range dirs {
		if path == d || strings.HasPrefix(path, d+"/") {
			return true
		}
	}
	return false
}
