package leakcheck_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/leakcheck"
)

func TestForms(t *testing.T) {
	const value = "sk/a+value=of?some&length"
	for _, text := range []string{
		value, url.QueryEscape("a b" + value), url.PathEscape(value), hex.EncodeToString([]byte("x" + value)),
		base64.StdEncoding.EncodeToString([]byte(value + "~~~")), base64.StdEncoding.EncodeToString([]byte("me:" + value)),
		base64.StdEncoding.EncodeToString([]byte("user:" + value)), base64.URLEncoding.EncodeToString([]byte("?" + value + ">")),
	} {
		var f leakcheck.Found
		f.Search(iotest.OneByteReader(strings.NewReader("before "+text+" after")), leakcheck.Forms(value)...)
		if !f.Has(leakcheck.Forms(value)...) {
			t.Errorf("not found in %q", text)
		}
	}
	var f leakcheck.Found
	f.Search(strings.NewReader(strings.Repeat("sk/a+value", 100)), leakcheck.Forms(value)...)
	if f.Has(leakcheck.Forms(value)...) || f.Bytes != 1000 {
		t.Errorf("%v in %d bytes", f.Texts, f.Bytes)
	}
}

// TestSearchMemory finds in another process what it was given, in a memory file, too, and nothing else.
func TestSearchMemory(t *testing.T) {
	given, filed, other := random(), random(), random()
	fd, err := unix.MemfdCreate("text", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "text")
	defer file.Close()
	if _, err := file.WriteAt([]byte(filed), 64<<20-5); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "60")
	cmd.Env, cmd.ExtraFiles = []string{"GIVEN=" + given}, []*os.File{file}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	f, err := leakcheck.SearchMemory(cmd.Process.Pid, given, filed, other)
	if err != nil || !f.Has(given) || !f.Has(filed) || f.Has(other) || f.Bytes > 32<<20 {
		t.Errorf("given %v, filed %v, other %v in %d bytes; %v", f.Has(given), f.Has(filed), f.Has(other), f.Bytes, err)
	}
}

func random() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
