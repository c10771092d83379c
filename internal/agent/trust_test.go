package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestTrustBundles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, body string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(body), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	certs := []byte("-----OURS-----\n")
	write("etc/ssl/certs/ca-certificates.crt", "theirs")
	if err := errors.Join(os.Symlink("/etc/ssl/certs/ca-certificates.crt", filepath.Join(dir, "etc/ssl/cert.pem")), os.MkdirAll(filepath.Join(dir, "etc/pki/tls/certs"), 0o755),
		syscall.Mkfifo(filepath.Join(dir, "etc/pki/tls/certs/ca-bundle.crt"), 0o600), os.Symlink("/nowhere", filepath.Join(dir, "etc/ssl/ca-bundle.pem"))); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a sandbox that is started again
		for _, b := range bundles {
			have, err := extend(root, b, certs, nil)
			there := strings.HasSuffix(b, "ca-certificates.crt") || strings.HasSuffix(b, "cert.pem")
			if err != nil || (have != nil) != there || there && string(have) != "theirs\n"+string(certs) {
				t.Errorf("%s: %q, %v", b, have, err)
			}
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "etc/ssl/certs/ca-certificates.crt")); string(b) != "theirs\n"+string(certs) {
		t.Errorf("the bundle is %q, %v", b, err)
	}
	write("mnt/etc/x.pem", "the host's")
	if all, err := extend(root, "/mnt/etc/x.pem", certs, []string{"/mnt"}); err != nil || string(all) != "the host's\n"+string(certs) {
		t.Errorf("a mount: %q, %v", all, err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "mnt/etc/x.pem")); string(b) != "the host's" {
		t.Errorf("a file of the host became %q", b)
	}
	if all, err := begin(root, "/new/dir/x.pem", certs, []string{"/mnt"}); err != nil || string(all) != string(certs) {
		t.Errorf("where there was none: %q, %v", all, err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "new/dir/x.pem")); string(b) != string(certs) {
		t.Errorf("it has %q", b)
	}
	if _, err := begin(root, "/mnt/y.pem", certs, []string{"/mnt"}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "mnt/y.pem")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a file of the host was made")
	}
}
