package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestServerSoak has many clients make mixed calls: each is answered, with what it asked for or a typed error. Then the server is killed
// while they do: sandboxes and interpreters are as they were.
func TestServerSoak(t *testing.T) {
	clients, calls := soak(20, 200), soak(6, 20)
	served(t, func(w *world) {
		s := w.serve("--max-starts", "4")
		const sandboxes = 6
		for i := range sandboxes {
			w.must(s.old(fmt.Sprintf("s%d", i)).start("host"))
		}
		heap := func() float64 {
			a := s.ask("GET", "/metrics", keyed(s.all), "")
			var n float64
			for line := range strings.Lines(a.body) {
				fmt.Sscanf(line, "go_memstats_heap_inuse_bytes %g", &n)
			}
			return n
		}
		var mu sync.Mutex
		var took []time.Duration
		said := map[string]int{}
		var odd atomic.Int64
		// round has each client make n calls. With killed, the server may be gone in between: a client tries again.
		round := func(n int, killed bool) {
			var wait sync.WaitGroup
			for i := range clients {
				wait.Go(func() {
					for range n {
						x := mixed(i, fmt.Sprintf("s%d", rand.IntN(sandboxes)), !killed)
						begin := time.Now()
						a, err := s.try(x.method, x.path, keyed(s.all), x.body)
						for err != nil && killed && time.Since(begin) < patience {
							time.Sleep(20 * time.Millisecond)
							a, err = s.try(x.method, x.path, keyed(s.all), x.body)
						}
						d := time.Since(begin)
						mu.Lock()
						took = append(took, d)
						said[fmt.Sprintf("%s %d", x.name, a.status)]++
						mu.Unlock()
						if err != nil || !x.typed(a) {
							if odd.Add(1) < 10 {
								t.Errorf("%s: %d %s %v", x.name, a.status, clip(a.body), err)
							}
						}
					}
				})
			}
			wait.Wait()
		}
		round(1, false) // what is made once
		before := heap()
		round(calls, false)
		after := heap()
		slices.Sort(took)
		t.Logf("%d calls of %d clients, the median %v, p99 %v; the heap had %.1f MiB before and %.1f after; %v", len(took), clients,
			took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond), before/(1<<20), after/(1<<20), said)
		if after > 2*before+64<<20 {
			t.Errorf("the heap grew from %.0f to %.0f bytes", before, after)
		}

		// The server is killed while all of them ask, and another takes its place.
		for i := range sandboxes {
			c := s.old(fmt.Sprintf("s%d", i))
			w.must(c.start("host"))
			s.runCell(s.all, s.on(c.name)+"/interpreters/bash/kept", fmt.Sprintf("STATE=%d; echo %d > /tmp/state", i, i), "")
		}
		_, port, err := net.SplitHostPort(strings.TrimPrefix(s.url, "http://"))
		w.must(err)
		asking := make(chan struct{})
		go func() {
			defer close(asking)
			round(calls, true)
		}()
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Millisecond) // somewhere in it
		s.kill()
		next := &service{w: w, all: s.all}
		next.start("--port", port, "--max-starts", "4")
		<-asking
		for i := range sandboxes {
			c := next.old(fmt.Sprintf("s%d", i))
			if out, _, err := c.run("cat", []string{"/tmp/state"}); err != nil || out != fmt.Sprintf("%d\n", i) {
				t.Errorf("%s: %q %v", c.name, out, err)
			}
			if r := next.runCell(s.all, s.on(c.name)+"/interpreters/bash/kept", "echo $STATE", ""); r.Fresh || len(r.Outputs) != 1 || r.Outputs[0].Text != fmt.Sprintf("%d\n", i) {
				t.Errorf("%s: what its interpreter had is %+v", c.name, r)
			}
		}
	})
}

// mixedCall is one call of a soak.
type mixedCall struct{ name, method, path, body string }

// mixed is a call of any protocol by a client to a sandbox, with which nothing need be right. One in 240 stops it, if that may be.
func mixed(client int, name string, stop bool) mixedCall {
	rpc := func(method, params string) mixedCall {
		return mixedCall{method, "POST", "/api/v1/rpc", rpcBody(method, `{"sandbox":"`+name+`","namespace":"default",`+params+`}`)}
	}
	tool := func(tool, params string) mixedCall {
		return mixedCall{tool, "POST", "/mcp", toolBody(tool, `{"sandbox":"`+name+`","namespace":"default",`+params+`}`)}
	}
	at := "/v1/sandboxes/by-name/" + name
	switch rand.IntN(24) {
	case 0, 1:
		return rpc("sandbox.metrics.get", `"x":1`)
	case 2, 3:
		return rpc("sandbox.start", `"config":null`)
	case 4:
		return rpc("sandbox.command.run", `"command":"no-such-command"`)
	case 5:
		return rpc("sandbox.command.run", `"command":"sleep","args":["9"],"timeout":1`)
	case 6:
		if stop && rand.IntN(10) == 0 { // or most would be stopped most of the time
			return rpc("sandbox.stop", `"x":1`)
		}
	case 7, 8:
		return rpc("sandbox.repl.run", `"language":"bash","code":"echo $((6*7))"`)
	case 9:
		return tool("sandbox_run_command", `"command":"echo","args":["here"]`)
	case 10:
		return tool("sandbox_write_file", `"path":"/tmp/file","content":"text"`)
	case 11:
		return mixedCall{"GET sandbox", "GET", at, ""}
	case 12:
		return mixedCall{"GET interpreters", "GET", at + "/interpreters", ""}
	case 13, 14:
		return mixedCall{"run", "POST", fmt.Sprintf("%s/interpreters/bash/c%d/run", at, client%8), `{"code":"N=$((N+1)); head -c 10000 /dev/zero | tr \\\\0 x","timeout_ms":5000}`}
	case 15:
		return mixedCall{"interrupt", "POST", fmt.Sprintf("%s/interpreters/bash/c%d/interrupt", at, client%8), ""}
	}
	return rpc("sandbox.command.run", fmt.Sprintf(`"command":"sh","args":["-c","echo %d; head -c %d /dev/zero"]`, client, rand.IntN(100000)))
}

// typed reports whether an answer is what was asked for, or an error in the words of its protocol.
func (x mixedCall) typed(a answer) bool {
	var flat struct {
		Error  *string
		Code   *int
		Result json.RawMessage
	}
	var nested struct {
		Error *struct{ Code, Message string }
	}
	body := []byte(a.body)
	switch {
	case strings.HasPrefix(x.path, "/v1/") && a.status != 200:
		return json.Unmarshal(body, &nested) == nil && nested.Error != nil && nested.Error.Code != "" && nested.Error.Code != "internal_error"
	case strings.HasPrefix(x.path, "/v1/"):
		return json.Valid(body)
	case a.status != 200:
		return json.Unmarshal(body, &flat) == nil && flat.Error != nil && flat.Code != nil
	}
	return json.Unmarshal(body, &flat) == nil && flat.Result != nil
}
