package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// controlAnswer is what a runner answers.
type controlAnswer struct {
	OK           bool
	Capabilities []string
	Error        struct{ Kind, Message string }
}

// control sends a line to the runner of a sandbox.
func (w *world) control(name, line string) (answer controlAnswer) {
	w.t.Helper()
	path := filepath.Join(w.runDir(name), "control.sock")
	var conn net.Conn
	if !until(patience, func() (done bool) { // it is there a moment after the sandbox runs
		var err error
		conn, err = net.Dial("unix", path)
		return err == nil
	}) {
		w.t.Fatal("the runner cannot be spoken to")
	}
	defer conn.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		w.t.Errorf("the socket is %v, %v", info.Mode(), err)
	}
	w.must(conn.SetDeadline(time.Now().Add(patience)))
	_, err := fmt.Fprintln(conn, line)
	w.must(err)
	b, err := bufio.NewReader(conn).ReadBytes('\n')
	w.must(err)
	w.must(json.Unmarshal(b, &answer))
	return answer
}

// TestDrain lets a sandbox finish its work and end.
func TestDrain(t *testing.T) {
	each(t, func(w *world) {
		w.ok("create", "-q", "--name", "busy", "host")
		if a := w.control("busy", `{"op":"capabilities"}`); !a.OK || len(a.Capabilities) < 2 {
			t.Errorf("capabilities: %+v", a)
		}
		if a := w.control("busy", `{"op":"nonsense"}`); a.OK || a.Error.Kind != string(sandbox.Unsupported) {
			t.Errorf("nonsense: %+v", a)
		}
		if a := w.control("busy", `nonsense`); a.OK || a.Error.Kind != string(sandbox.InvalidArgument) {
			t.Errorf("no JSON: %+v", a)
		}
		work := w.msb("exec", "busy", "--", "sh", "-c", "echo begun; read line; echo $line > /root/done; sync; echo finished")
		in, err := work.StdinPipe()
		w.must(err)
		out, err := work.StdoutPipe()
		w.must(err)
		w.must(work.Start())
		lines := bufio.NewReader(out)
		if l, err := lines.ReadString('\n'); l != "begun\n" {
			t.Fatalf("the command says %q, %v", l, err)
		}
		for range 2 { // the second changes nothing
			if a := w.control("busy", `{"op":"drain"}`); !a.OK {
				t.Fatalf("drain: %+v", a)
			}
		}
		if status := w.inspect("busy").Status; status != "Draining" {
			t.Errorf("while it drains it is %s", status)
		}
		if r := w.run("exec", "busy", "--", "true"); r.code != 1 || !strings.Contains(w.errorLine(r), "Draining") {
			t.Errorf("a new session: %+v", r)
		}
		_, err = io.WriteString(in, "what was to do\n")
		w.must(err)
		w.must(in.Close())
		rest, err := io.ReadAll(lines)
		if err != nil || string(rest) != "finished\n" {
			t.Errorf("the command says %q, %v", rest, err)
		}
		if err := work.Wait(); err != nil {
			t.Errorf("the command: %v", err)
		}
		if log := w.ok("logs", "-f", "--source", "system", "busy"); !strings.Contains(log, string(sandbox.ReasonDrain)) { // to its end
			t.Errorf("the log says %s", log)
		}
		if info := w.inspect("busy"); info.Status != "Stopped" || info.End == nil || info.End.Reason != sandbox.ReasonDrain {
			t.Errorf("it ended so: %+v", info)
		}
		if kept := w.ok("exec", "busy", "--", "cat", "/root/done"); kept != "what was to do\n" {
			t.Errorf("it wrote %q", kept)
		}
		w.ok("rm", "-qf", "busy")
	})
}
