package runner

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func readFlows(t *testing.T, path string) []sandbox.Flow {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var flows []sandbox.Flow
	in := bufio.NewScanner(f)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var one sandbox.Flow
		if err := json.Unmarshal(in.Bytes(), &one); err != nil {
			t.Fatalf("%s: %v", in.Text(), err)
		}
		flows = append(flows, one)
	}
	return flows
}

func TestFlowLog(t *testing.T) {
	dir := t.TempDir()
	var events []string
	l := newFlowLog(dir, slog.New(slog.DiscardHandler), func(text string) { events = append(events, text) })
	path := filepath.Join(dir, launch.FlowFile)
	want := sandbox.Flow{Event: sandbox.FlowDeny, Protocol: "tcp", Direction: "egress", Peer: "10.0.0.1:80", Name: "a\nb\x00\"", Verdict: "deny", Rule: -1, Reason: "default", Count: 3}
	l.add(want)
	l.tell("denied by policy: x")
	if err := l.close(); err != nil {
		t.Error(err)
	}
	l.add(want) // after the end
	if err := l.close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if flows := readFlows(t, path); len(flows) != 1 || flows[0] != want {
		t.Errorf("%+v", flows)
	}
	if len(events) != 1 || events[0] != "denied by policy: x" {
		t.Errorf("%q", events)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	// A run that follows goes on in the same file.
	l = newFlowLog(dir, slog.New(slog.DiscardHandler), nil)
	l.add(want)
	_ = l.close()
	if flows := readFlows(t, path); len(flows) != 2 {
		t.Errorf("%d flows", len(flows))
	}
}

// TestFlowLogIsBounded writes more than the log may hold: two files remain, neither above its size, with the latest lines,
// and no line is lost without a count.
func TestFlowLogIsBounded(t *testing.T) {
	dir := t.TempDir()
	l := newFlowLog(dir, slog.New(slog.DiscardHandler), nil)
	long := strings.Repeat("n", 100_000)
	const many = 3 * flowLogSize / 100_000
	for i := range many {
		l.add(sandbox.Flow{Event: sandbox.FlowOpen, ID: uint64(i + 1), Name: long})
	}
	if err := l.close(); err != nil {
		t.Error(err)
	}
	path := filepath.Join(dir, launch.FlowFile)
	kept, suppressed := 0, 0
	for _, p := range []string{path + ".1", path} {
		st, err := os.Stat(p)
		if err != nil {
			continue // if the disk is slow, most were left out
		}
		if st.Size() > flowLogSize {
			t.Errorf("%s has %d bytes", p, st.Size())
		}
		last := uint64(0)
		for _, f := range readFlows(t, p) {
			if f.ID <= last {
				t.Fatalf("%d after %d", f.ID, last)
			}
			if missing := int(f.ID - last - 1); last > 0 && missing != f.Suppressed {
				t.Fatalf("%d lines are missing before %d, it says %d", missing, f.ID, f.Suppressed)
			}
			last = f.ID
			kept++
			suppressed += f.Suppressed
		}
	}
	names, _ := filepath.Glob(path + "*")
	if len(names) > 2 || kept == 0 {
		t.Errorf("%v, %d lines, %d left out", names, kept, suppressed)
	}
}

// TestFlowLogRate: a guest that opens flows without end fills no disk.
func TestFlowLogRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l := newFlowLog(dir, slog.New(slog.DiscardHandler), nil)
		for i := range 4 * flowLogRate {
			l.add(sandbox.Flow{Event: sandbox.FlowOpen, ID: uint64(i + 1)})
		}
		time.Sleep(2 * time.Second)
		l.add(sandbox.Flow{Event: sandbox.FlowClose, ID: 1})
		_ = l.close()
		flows := readFlows(t, filepath.Join(dir, launch.FlowFile))
		if n := len(flows); n != flowLogRate+1 || flows[n-1].Suppressed != 3*flowLogRate {
			t.Errorf("%d lines, the last says that %d were left out", n, flows[n-1].Suppressed)
		}
	})
}

// TestFlowLogGathers: a line is in the file soon, though none follows, and a refusal at once.
func TestFlowLogGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l := newFlowLog(dir, slog.New(slog.DiscardHandler), nil)
		defer l.close()
		for i := range 3 {
			l.add(sandbox.Flow{Event: sandbox.FlowOpen, ID: uint64(i + 1)})
			time.Sleep(2 * flowLogGather)
			synctest.Wait()
			if flows := readFlows(t, filepath.Join(dir, launch.FlowFile)); len(flows) != i+1 {
				t.Errorf("%d lines, want %d", len(flows), i+1)
			}
		}
		l.add(sandbox.Flow{Event: sandbox.FlowClose, ID: 1})
		l.add(sandbox.Flow{Event: sandbox.FlowDeny, ID: 4})
		synctest.Wait()
		if flows := readFlows(t, filepath.Join(dir, launch.FlowFile)); len(flows) != 5 {
			t.Errorf("%d lines after a refusal, want 5", len(flows))
		}
	})
}

// TestFlowLogWithoutADisk passes events on though no line can be written, and never waits.
func TestFlowLogWithoutADisk(t *testing.T) {
	n := 0
	l := newFlowLog(filepath.Join(t.TempDir(), "missing"), slog.New(slog.DiscardHandler), func(string) { n++ })
	for i := range 10 {
		l.add(sandbox.Flow{Event: sandbox.FlowOpen})
		l.tell(fmt.Sprint(i))
	}
	if err := l.close(); err != nil || n != 10 {
		t.Errorf("%d events, %v", n, err)
	}
}

// TestFlowLogFollowsNoLink: the guest cannot make files there, but another program of this user might have.
func TestFlowLogFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.Symlink(target, filepath.Join(dir, launch.FlowFile)); err != nil {
		t.Fatal(err)
	}
	l := newFlowLog(dir, slog.New(slog.DiscardHandler), nil)
	l.add(sandbox.Flow{Event: sandbox.FlowOpen})
	_ = l.close()
	if _, err := os.Stat(target); err == nil {
		t.Error("the link was followed")
	}
}
