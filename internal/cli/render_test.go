package cli

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/guest"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func TestTable(t *testing.T) {
	var b strings.Builder
	err := printTable(&b, []string{"NAME", "IMAGE", "STATUS"}, [][]string{{"a", "", "Running"}, {"long-näme", "host", "Stopped"}})
	if err != nil {
		t.Fatal(err)
	}
	const want = "NAME         IMAGE    STATUS\n" +
		"a            -        Running\n" +
		"long-näme    host     Stopped\n"
	if b.String() != want {
		t.Errorf("table\n%s\nwant\n%s", b.String(), want)
	}
}

func TestJSON(t *testing.T) {
	var b strings.Builder
	v := struct {
		Z string            `json:"z"`
		A uint64            `json:"a"`
		M map[string]string `json:"m"`
	}{"<&>", 1<<63 + 1, map[string]string{"b": "", "a": ""}}
	if err := printJSON(&b, v); err != nil {
		t.Fatal(err)
	}
	const want = "{\n  \"a\": 9223372036854775809,\n  \"m\": {\n    \"a\": \"\",\n    \"b\": \"\"\n  },\n  \"z\": \"<&>\"\n}\n"
	if b.String() != want {
		t.Errorf("JSON\n%s\nwant\n%s", b.String(), want)
	}
}

// The keys are those of contract msb-0.6 §1.3, and ours beside them.
func TestShapes(t *testing.T) {
	code := 3
	info := sandbox.Info{Ref: sandbox.DefaultRef("s"), ID: "id", Status: sandbox.Running, CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 678000, time.UTC),
		Spec: sandbox.Spec{Name: "s", Image: sandbox.Image{OCI: &sandbox.OCIImage{Reference: "host"}},
			Runtime: sandbox.RuntimeOptions{Entrypoint: []string{"sh", "-c"}, Cmd: []string{"echo hi"}}}.WithDefaults()}
	keys := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		return strings.Join(slices.Sorted(maps.Keys(m)), ",")
	}
	if got, want := keys(listJSON(info)), "created_at,image,name,status"; got != want {
		t.Errorf("list has %s, want %s", got, want)
	}
	if got, want := keys(statusJSON(info)), "command,cpus,image,max_cpus,max_memory_mib,memory_mib,name,ports,status,thp"; got != want {
		t.Errorf("status has %s, want %s", got, want)
	}
	if got, want := keys(inspectJSON(info)), "active_config,config,confinement,created_at,end,id,name,pending_changes,status,updated_at"; got != want {
		t.Errorf("inspect has %s, want %s", got, want)
	}
	status := statusJSON(info).(map[string]any)
	if status["command"] != `sh -c "echo hi"` || status["status"] != "Running" {
		t.Errorf("status is %v", status)
	}
	if got := timestamp(info.CreatedAt); got != "2026-01-02T03:04:05.000678+00:00" {
		t.Errorf("timestamp is %v", got)
	}
	if got := timestamp(time.Time{}); got != nil {
		t.Errorf("no time is %v", got)
	}
	info.Status, info.End = sandbox.Stopped, &sandbox.End{Reason: sandbox.ReasonCompleted, ExitCode: &code}
	if m := inspectJSON(info).(map[string]any); m["active_config"] != nil {
		t.Error("a sandbox that does not run has an active configuration")
	}
	info.Spec.Mounts = []sandbox.Mount{{Type: sandbox.MountBind, Host: "/data", Guest: "/in"}}
	if text := inspectText(info, style{}); !strings.Contains(text, "Status:      Stopped\n") || !strings.Contains(text, "Network:     egress deny, ingress allow, ") || !strings.Contains(text, "Mount:       /in (bind, /data)\n") || !strings.Contains(text, `sh -c "echo hi"`) {
		t.Errorf("inspect prints\n%s", text)
	}
	info.Spec.Resources.MaxCPUs = 4
	if row := statusRow(info); row[3] != "1 / 4" || row[4] != "512 MiB" {
		t.Errorf("status prints %q", row)
	}
}

// reportOf does what Main does with an error, and returns what was printed.
func reportOf(t *testing.T, err error) (string, int) {
	t.Helper()
	r, w, perr := os.Pipe()
	if perr != nil {
		t.Fatal(perr)
	}
	defer r.Close()
	a := &app{err: w}
	code := a.report(nil, err)
	w.Close()
	b := make([]byte, 4096)
	n, _ := r.Read(b)
	return string(b[:n]), code
}

func TestReport(t *testing.T) {
	ref := sandbox.DefaultRef("s")
	failed := func(k agentproto.FailureKind) error {
		return &sandbox.Error{Op: "exec", Kind: sandbox.ExecFailed, Err: &agentproto.ExecFailed{Kind: k, Message: `spawn "x": no`}}
	}
	for _, c := range []struct {
		err  error
		text string
		code int
	}{
		{nil, "", 0},
		{exitCode(7), "", 7},
		{&sandbox.Error{Kind: sandbox.NotFound, Ref: ref}, "error: sandbox not found: s\n", 1},
		{&sandbox.Error{Kind: sandbox.Unsupported, Message: "no", Hint: "do this"}, "error: no\n  → do this\n", 1},
		{usageErrorf("msb --help", "what"), "error: what\n  → see: msb --help\n", 2},
		{failed(agentproto.FailNotFound), "error: exec failed: spawn \"x\": no\n", 127},
		{failed(agentproto.FailPermissionDenied), "error: exec failed: spawn \"x\": no\n", 126},
		{failed(agentproto.FailNotExecutable), "error: exec failed: spawn \"x\": no\n", 126},
		{failed(agentproto.FailBadCwd), "error: exec failed: spawn \"x\": no\n", 1},
		{&codedError{errors.New("x"), 137}, "error: x\n", 137},
		{&os.PathError{Op: "write", Path: "stdout", Err: syscall.EPIPE}, "", 141},
		{errors.New("a\nb\x1b[31m"), "error: a b [31m\n", 1},
		{&sandbox.Error{Op: "start", Ref: ref, Kind: sandbox.BootFailed, Message: `failed to start "s"`, Err: errors.New("no kernel"), Hint: "try again"},
			"error: failed to start \"s\"\n  → start: no kernel\n  → try again\n", 1},
		{&sandbox.Error{Ref: ref, Kind: sandbox.BootFailed, Message: "no kernel"}, "error: failed to start \"s\"\n  → boot: no kernel\n", 1},
	} {
		text, code := reportOf(t, c.err)
		if text != c.text || code != c.code {
			t.Errorf("%v prints %q and exits %d; want %q and %d", c.err, text, code, c.text, c.code)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"run", "list", "ls", "status", "memory", "max-memory", "name"}
	for word, want := range map[string]string{"rnu": "run", "runn": "run", "lsit": "list", "stat": "status", "memroy": "memory", "nmae": "name",
		"mem": "memory", "xyz": "", "somethingelse": "", "": ""} {
		if got := nearest(word, names, ""); got != want {
			t.Errorf("nearest to %q is %q, want %q", word, got, want)
		}
	}
	if d := distance(strings.Repeat("a", 1<<20), "a"); d != 64 {
		t.Errorf("a long word is %d away", d)
	}
}

func TestWords(t *testing.T) {
	if got := quoteWords([]string{"a", "b c", `"`, "", "é", "a && b <c >d"}); got != `a "b c" "\"" "" é "a && b <c >d"` {
		t.Errorf("quoteWords: %s", got)
	}
	if was, is := differing("egress deny, ingress allow, allow@host:udp+tcp:53, allow@host", "egress deny, ingress allow, deny@example.com", 40); was != "…allow@host:udp+tcp:53, allow@host" || is != "…deny@example.com" {
		t.Errorf("differing: %s, %s", was, is)
	}
	if was, is := differing("a, b", "a, c", 4); was != "a, b" || is != "a, c" {
		t.Errorf("differing: %s, %s", was, is)
	}
	if got := shorten("abcdé", 4); got != "abc…" {
		t.Errorf("shorten: %s", got)
	}
	for n, want := range map[int]string{1: "1 MiB", 512: "512 MiB", 1024: "1 GiB", 1536: "1536 MiB"} {
		if got := mebibytes(n); got != want {
			t.Errorf("mebibytes(%d) = %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{time.Second: "1s", 5 * time.Minute: "300s", 1500 * time.Millisecond: "1.5s", 300 * time.Millisecond: "300ms"} {
		if got := guest.Seconds(d); got != want {
			t.Errorf("seconds(%v) = %s, want %s", d, got, want)
		}
	}
}

// Each command is found by the names that it has.
func TestCommands(t *testing.T) {
	a := &app{}
	for _, e := range a.commands() {
		c := e.make()
		if have := append([]string{c.Name()}, c.Aliases...); !slices.Equal(have, e.names) {
			t.Errorf("a command has the names %q and is found by %q", have, e.names)
		}
	}
}
