package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// TestLogsSurviveKillNine kills the runner and its sandbox while a command prints: what was printed before is read, and the
// log of the next run goes on in the same file.
func TestLogsSurviveKillNine(t *testing.T) {
	each(t, func(w *world) {
		w.ok("run", "-d", "-q", "--name", "chatty", "host", "--", "sh", "-c", "i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done; exec sleep 600")
		if !until(patience, func() bool { return strings.Contains(w.ok("logs", "--tail", "1", "chatty"), "line 999\n") }) {
			t.Fatal("the log does not have what was printed")
		}
		w.must(syscall.Kill(w.runner("chatty"), syscall.SIGKILL))
		if !until(patience, func() bool { return w.inspect("chatty").Status == "Crashed" }) {
			t.Fatalf("after kill -9 it is %s", w.inspect("chatty").Status)
		}
		var want strings.Builder
		for n := range 1000 {
			fmt.Fprintln(&want, "line", n)
		}
		if got := w.ok("logs", "-f", "chatty"); got != want.String() { // which ends, for the sandbox has
			t.Errorf("after kill -9 the log has %d bytes, want %d", len(got), want.Len())
		}
		if got := w.ok("exec", "chatty", "--", "echo", "again"); got != "again\n" {
			t.Errorf("echo printed %q", got)
		}
		if got := w.ok("logs", "chatty"); got != want.String()+"again\n" {
			t.Errorf("after the next run the log has %d bytes, want %d", len(got), want.Len()+6)
		}
		w.ok("rm", "-qf", "chatty")
	})
}

// TestLogsOfWhatIsEphemeral reads along with a command that somebody else runs, and leaves nothing.
func TestLogsOfWhatIsEphemeral(t *testing.T) {
	each(t, func(w *world) {
		// The log of what somebody is attached to is begun late; a command that goes on is in it.
		cmd := w.msb("run", "host", "--", "sh", "-c", "echo first; sleep 1; echo second; read line")
		in, err := cmd.StdinPipe()
		w.must(err)
		w.must(cmd.Start())
		var name string
		if !until(patience, func() bool {
			name = strings.TrimSpace(w.ok("ls", "-q", "--running"))
			return name != "" && strings.Contains(w.ok("logs", name), "second\n")
		}) {
			t.Error("the log does not have what was printed")
		}
		if got := w.ok("logs", name); got != "first\nsecond\n" {
			t.Errorf("the log has %q", got)
		}
		w.must(in.Close())
		_ = cmd.Wait() // read fails at the end of its input
	})
}
