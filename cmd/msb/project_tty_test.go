package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/config"
)

// TestProjectStatus follows msb status --file on a terminal through the life of a project: it is drawn anew in its place, cut to the
// terminal, and ends with ctrl-C.
func TestProjectStatus(t *testing.T) {
	needSandboxes(t)
	home, dir := filepath.Join(t.TempDir(), "home"), t.TempDir()
	t.Cleanup(func() { nothingLeft(t, home) })
	var file strings.Builder
	file.WriteString("name: p\nsandboxes:\n  web: {image: host, memory: 64, command: [sleep, '1000']}\n")
	for i := range 9 {
		fmt.Fprintf(&file, "  n%d: {image: host, ports: ['0:%d', '0:%d']}\n", i, 1000+i, 2000+i)
	}
	if err := os.WriteFile(filepath.Join(dir, "Sandboxfile"), []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	msb := func(args ...string) {
		t.Helper()
		cmd := &exec.Cmd{Path: self, Args: append([]string{"msb"}, args...), Env: append(os.Environ(), config.HomeVar+"="+home)}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("msb %v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() { msb("clean", "-q", "-F", "-f", dir) })
	again := func(lines int) string { return regexp.QuoteMeta(fmt.Sprintf("\r\x1b[%dA\x1b[J", lines)) }

	c := openConsole(t, home, "status", "-f", dir)
	c.expect(`^\r\x1b\[JLast updated: .*\r\nSANDBOX .*(\r\nn\d +Absent .*){9}\r\nweb +Absent +- +- +- +-\r\n$`)
	if c.termios().Lflag&unix.ISIG == 0 {
		t.Error("ctrl-C means nothing on the terminal")
	}
	msb("up", "-q", "-d", "-f", dir, "web")
	c.expect(again(12) + `Last updated: [^\x1b]*\r\nweb +Running +\d+\.\d% +\d+ MiB +\d+ MiB +-\r\n`)
	c.resize(6, 30) // too small for it
	c.expect(`\x1b\[H\x1b\[2JLast updated: .*\r\nSANDBOX.{1,22}…\r\nn0 .*\r\nn1 .*\r\n… and 8 more\r\n`)
	msb("down", "-q", "-f", dir)
	c.resize(33, 99)
	c.expect(`\x1b\[H\x1b\[2JLast updated: [^\x1b]*\r\nweb +Stopped +- +- +- +-\r\n`)
	c.write("\x03")
	c.ends(0)

	once := openConsole(t, home, "status", "--all", "-f", dir, "web")
	once.expect(`^SANDBOX .*\r\nweb +Stopped`)
	once.ends(0)
}
