package agent

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

func TestFindInit(t *testing.T) {
	dir := t.TempDir()
	program, plain := filepath.Join(dir, "init"), filepath.Join(dir, "plain")
	for path, mode := range map[string]os.FileMode{program: 0o755, plain: 0o644} {
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := findInit(program); err != nil || got != program {
		t.Errorf("%s: %s, %v", program, got, err)
	}
	for path, want := range map[string]string{plain: "permission denied", dir: "permission denied", filepath.Join(dir, "nothing"): "no such file", "init": "not absolute", "": "not absolute"} {
		if _, err := findInit(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", path, err, want)
		}
	}
}

// An agent that is not PID 1 has nothing to hand over, and says so in the place of core.ready.
func TestHandOverRefused(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	done := make(chan error, 1)
	go func() { done <- (&Agent{Conn: theirs}).Run() }()
	hello := agentproto.Append(nil, 0, agentproto.TypeBootstrap, &agentproto.Bootstrap{HandoffInit: &agentproto.HandoffInit{Cmd: "/bin/sh"}})
	go func() { _, _ = ours.Write(agentproto.Append(hello, 0, agentproto.TypeInitAck, nil)) }()
	in := agentproto.NewReader(ours)
	for {
		f, err := in.Next()
		if err != nil {
			t.Fatal(err)
		}
		m, err := agentproto.Open(f.Body())
		if err != nil {
			t.Fatal(err)
		}
		if m.Type == agentproto.TypeInitResolved {
			continue
		}
		var e agentproto.Error
		if m.Type != agentproto.TypeError || agentproto.Decode(m.Payload, &e) != nil || !strings.Contains(e.Message, "cannot hand its PID 1 over") {
			t.Errorf("have %s %q", m.Type, e.Message)
		}
		break
	}
	if err := <-done; err == nil {
		t.Error("it runs on")
	}
}
