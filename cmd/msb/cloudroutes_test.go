package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// described is the API as the server describes it.
type described struct {
	t     *testing.T
	Paths map[string]map[string]operation
	// Components are what schemas refer to.
	Components struct{ Schemas map[string]json.RawMessage }

	known map[string]*jsonschema.Resolved
}

type operation struct {
	Parameters  []struct{ Name, In string }
	RequestBody struct {
		Content map[string]struct{ Schema json.RawMessage }
	}
	Responses map[string]struct {
		Content map[string]struct{ Schema json.RawMessage }
	}
}

func (c *cloud) described() *described {
	d := &described{t: c.t, known: map[string]*jsonschema.Resolved{}}
	c.get("/v1/openapi.json", d)
	return d
}

// schema is one that values can be held to.
func (d *described) schema(raw json.RawMessage) *jsonschema.Resolved {
	d.t.Helper()
	if r := d.known[string(raw)]; r != nil {
		return r
	}
	defs, err := json.Marshal(d.Components.Schemas)
	if err != nil {
		d.t.Fatal(err)
	}
	var s jsonschema.Schema
	text := strings.ReplaceAll(fmt.Sprintf(`{"allOf":[%s],"$defs":%s}`, raw, defs), "#/components/schemas/", "#/$defs/")
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		d.t.Fatal(err)
	}
	r, err := s.Resolve(nil)
	if err != nil {
		d.t.Fatal(err)
	}
	d.known[string(raw)] = r
	return r
}

// answered holds an answer to what is described, and says its status.
func (d *described) answered(what string, op operation, resp *http.Response) int {
	d.t.Helper()
	data, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	key := "200"
	if resp.StatusCode != http.StatusOK {
		key = "default"
	}
	if resp.StatusCode >= 500 {
		d.t.Errorf("%s: %s: %s", what, resp.Status, data)
	}
	schema := op.Responses[key].Content["application/json"].Schema
	if schema == nil || strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return resp.StatusCode // bytes, or events
	}
	var v any
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if err == nil {
		err = d.schema(schema).Validate(v)
	}
	if err != nil {
		d.t.Errorf("%s: %s: %v: %s", what, resp.Status, err, data)
	}
	return resp.StatusCode
}

// maker makes values of schemas, and spoils them.
type maker struct {
	*rand.Rand
	d *described
	n int // of names that were made
}

// hints are values for properties whose schemas do not say enough to be taken. No image is named that a registry would be asked for.
func (m *maker) hint(name string) (any, bool) {
	m.n++
	of := map[string][]any{
		"name": {fmt.Sprintf("made-%d", m.n)}, "slug": {nil}, "reference": {"host"}, "type": {"oci"}, "path": {"a/b", "c"}, "from": {"a/b"}, "to": {fmt.Sprintf("to/%d", m.n)},
		"image": {map[string]any{"type": "oci", "reference": "host"}}, "mounts": {nil, []any{}, []any{map[string]any{"type": "tmpfs", "guest": "/t", "size_mib": 16}}},
		"patches": {nil, []any{map[string]any{"type": "text", "path": "/p", "content": "x"}}}, "network": {map[string]any{"enabled": true}, map[string]any{"enabled": false}},
		"vcpus": {1, 2}, "memory_mib": {256, 512}, "disk_size_mib": {64, 4096}, "rlimits": {[]any{map[string]any{"resource": "nofile", "soft": 64, "hard": 128}}},
		"env": {[]any{map[string]any{"key": "A", "value": "b"}}, nil}, "Env": {[]any{map[string]any{"key": "A", "value": "b"}}}, "workdir": {"/tmp", nil}, "shell": {"/bin/sh"}, "user": {"root", "1000", nil},
		"log_level": {"debug", nil}, "init": {nil}, "registry": {nil, map[string]any{"mode": "auto"}}, "microsandbox": {nil}, "capacity_gib": {1, 7, nil}, "capacity_mib": {1, 2048},
		"max_duration_secs": {60, nil}, "idle_timeout_secs": {60, nil}, "scripts": {map[string]any{"s": "echo"}}, "Policy": {"no_restart", "next_start", ""}, "CPUs": {1, nil}, "MaxCPUs": {2, nil},
		"MemoryMiB": {256, nil}, "MaxMemoryMiB": {512, nil}, "RootDiskMiB": {8192, nil}, "Workdir": {"/", nil}, "Secrets": {nil}, "NetworkPolicy": {nil}, "code": {"echo 1", "exit 3"}, "timeout_ms": {2000},
		"max_output_bytes": {100, 100000}, "ephemeral": {false}, "platform": {"", "linux/amd64"}, "ca_certs": {nil, []any{}}, "wait": {true}, "auth": {nil},
	}[name]
	if of == nil {
		return nil, false
	}
	return of[m.IntN(len(of))], true
}

// value is one of the schema.
func (m *maker) value(raw json.RawMessage, depth int) any {
	var s struct {
		Ref                  string `json:"$ref"`
		Type                 string
		Enum                 []any
		AnyOf, OneOf         []json.RawMessage
		Properties           map[string]json.RawMessage
		Required             []string
		Items                json.RawMessage
		AdditionalProperties json.RawMessage
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		m.d.t.Fatal(err)
	}
	switch any := append(s.AnyOf, s.OneOf...); {
	case s.Ref != "":
		return m.value(m.d.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")], depth)
	case len(s.Enum) > 0:
		return s.Enum[m.IntN(len(s.Enum))]
	case len(any) > 0:
		return m.value(any[m.IntN(len(any))], depth)
	}
	switch s.Type {
	case "object":
		o := map[string]any{}
		for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
			if !slices.Contains(s.Required, name) && (depth > 5 || m.IntN(3) == 0) {
				continue
			}
			if v, ok := m.hint(name); ok {
				o[name] = v
			} else {
				o[name] = m.value(s.Properties[name], depth+1)
			}
		}
		if s.AdditionalProperties != nil {
			o["k"+strconv.Itoa(m.IntN(3))] = m.value(s.AdditionalProperties, depth+1)
		}
		return o
	case "array":
		list := []any{}
		for range m.IntN(3) {
			list = append(list, m.value(s.Items, depth+1))
		}
		return list
	case "string":
		return []string{"a", "text", "x-1"}[m.IntN(3)]
	case "integer", "number":
		return m.IntN(1000)
	case "boolean":
		return m.IntN(2) == 0
	case "null":
		return nil
	}
	return map[string]any{}
}

// wrong are values that few places take; as texts none that an image could be called.
func (m *maker) wrong() any {
	all := []any{nil, true, -1, 0, 1 << 62, 1e300, -0.5, "", "../..", "\x00", "\u202e/%2e%2e", strings.Repeat("A", 70_000), []any{}, []any{nil, -1, []any{}}, map[string]any{}, map[string]any{"": nil}}
	return all[m.IntN(len(all))]
}

// spoil changes something somewhere in a value.
func (m *maker) spoil(v any) any {
	switch v := v.(type) {
	case map[string]any:
		keys := slices.Sorted(maps.Keys(v))
		if len(keys) == 0 || m.IntN(8) == 0 {
			return m.wrong()
		}
		k := keys[m.IntN(len(keys))]
		switch m.IntN(6) {
		case 0:
			delete(v, k)
		case 1:
			v["unknown"] = m.wrong()
		default:
			v[k] = m.spoil(v[k])
		}
		return v
	case []any:
		if len(v) == 0 || m.IntN(4) == 0 {
			return m.wrong()
		}
		i := m.IntN(len(v))
		v[i] = m.spoil(v[i])
		return v
	}
	return m.wrong()
}

// body is the text of a body: as it is to be, spoiled as a value, or as a text.
func (m *maker) body(raw json.RawMessage, right bool) string {
	if raw == nil {
		return ""
	}
	v := m.value(raw, 0)
	if !right && m.IntN(8) > 0 {
		v = m.spoil(v)
		right = true
	}
	data, err := json.Marshal(v)
	if err != nil {
		m.d.t.Fatal(err)
	}
	text := string(data)
	if !right {
		cut := m.IntN(len(text) + 1)
		text = []string{text[:cut], text[:cut] + "\xff" + text[cut:], strings.Repeat("[", 20_000), text + text, "null", `"x"`}[m.IntN(6)]
	}
	return text
}

// parameter is a value for a query or a header.
func (m *maker) parameter(name string, right bool) string {
	of := map[string][]string{
		"limit": {"1", "1000"}, "cursor": {""}, "labels": {`{"a":"b"}`, ""}, "wait_for": {"running"}, "wait_timeout": {"5"}, "sources": {"stdout,system"}, "follow": {"false"}, "since": {"2026-01-01T00:00:00Z"},
		"until": {"2030-01-01T00:00:00.5+02:00"}, "tail": {"3"}, "force": {"true", "false"}, "event_type": {"sandbox.create"}, "reference": {"host"}, "undo": {"remove", "stop"}, "start": {"false"},
		"Last-Event-ID": {""}, "X-Msb-File-Path": {"YS9i", "YQ"}, "X-Msb-File-Recursive": {"true"}, "X-Msb-Namespace": {""},
	}[name]
	if !right && name != "follow" && name != "start" && m.IntN(2) == 0 { // nobody waits for a log, nor starts what cannot
		of = []string{"-1", "0", "99999999999999999999", "%", "\xff\xfe", "null", "{", `{"a":1}`, "../..", strings.Repeat("9", 5000), base64.RawURLEncoding.EncodeToString([]byte("9/" + strings.Repeat("x", 300))), "e30"}
	}
	if len(of) == 0 {
		return ""
	}
	return of[m.IntN(len(of))]
}

// TestCloudRoutes asks for every route of the API's description with bodies, parameters and headers made from that, right ones and
// spoiled ones: each answer is as it is described, an error has its envelope, and none is the server's fault. MSB_TEST_SEED makes others.
func TestCloudRoutes(t *testing.T) {
	needSandboxes(t)
	c := newKeyedCloud(t)
	d := c.described()
	seed := uint64(1)
	if s := os.Getenv("MSB_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	m := &maker{Rand: rand.New(rand.NewPCG(seed, 0)), d: d}
	made(t, c.from, "runs", false, nil)
	running, err := c.from.Get(within(t), sandbox.DefaultRef("runs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		all, err := c.from.ListVolumes(context.Background(), sandbox.DefaultNamespace)
		if err != nil {
			t.Error(err)
		}
		for _, v := range all {
			if err := c.from.RemoveVolume(context.Background(), v.Namespace, v.Name); err != nil {
				t.Error(err)
			}
		}
	})
	victims := 0
	victim := func() sandbox.Info { // what a route may do away with
		t.Helper()
		infos, err := c.from.List(within(t), sandbox.DefaultNamespace)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range infos {
			if i.Status == sandbox.Created && strings.HasPrefix(string(i.Ref.Name), "victim") {
				return i
			}
		}
		victims++
		ref := made(t, c.from, fmt.Sprintf("victim-%d", victims), true, nil)
		info, err := c.from.Get(within(t), ref)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	client := c.client()
	volume := func() string { // with what it is asked for

		t.Helper()
		v, err := c.from.GetVolume(within(t), sandbox.DefaultNamespace, "default")
		if sandbox.KindOf(err) == sandbox.VolumeNotFound {
			v, err = c.from.CreateVolume(within(t), backend.VolumeRequest{Namespace: sandbox.DefaultNamespace, Name: "default"})
		}
		for _, name := range []string{"a/b", "c"} {
			if err == nil {
				err = client.WriteVolume(within(t), v, name, strings.NewReader("content"))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		return v.ID
	}
	var event struct{ Data []struct{ ID string } }
	if status, text := c.ask("POST", "/v1/images/prune", ""); status != http.StatusOK { // which is an event
		t.Fatal(text)
	}
	succeeded := map[string]bool{}
	asked := 0
	for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(d.Paths[path])) {
			op := d.Paths[path][method]
			const rounds = 16
			for round := range rounds {
				right := round < rounds/2
				if strings.Contains(path, "/interpreters/") && round%4 != 0 {
					continue // each takes a while
				}
				who := running
				if method == "delete" || method == "patch" || strings.HasSuffix(path, "/spec") || strings.HasSuffix(path, "/modify") || strings.HasSuffix(path, "/stop") || strings.HasSuffix(path, "/drain") {
					who = victim()
				}
				if strings.Contains(path, "/interpreters") {
					who = running
				}
				name, id := string(who.Ref.Name), who.ID
				switch {
				case strings.Contains(path, "/volumes"):
					id = volume()
				case strings.Contains(path, "/events"):
					c.get("/v1/events", &event)
					id = ""
					if len(event.Data) > 0 {
						id = event.Data[0].ID
					}
				}
				if !right && m.IntN(4) == 0 {
					name, id = "%00", "%2e%2e"
				}
				at := strings.NewReplacer("{name}", name, "{id}", id, "{language}", "bash", "{session}", "s").Replace(path)
				q, header := url.Values{}, http.Header{"Authorization": {"Bearer " + c.key()}}
				for _, p := range op.Parameters {
					required := p.Name == "follow" || p.Name == "reference" || p.Name == "X-Msb-File-Path"
					if p.In == "path" || !required && m.IntN(2) == 0 {
						continue
					}
					v := m.parameter(p.Name, right)
					switch {
					case p.In == "query":
						q.Set(p.Name, v)
					case !strings.ContainsAny(v, "\xff\xfe"): // what no client would send
						header.Set(p.Name, v)
					}
				}
				if len(q) > 0 {
					at += "?" + q.Encode()
				}
				body := m.body(op.RequestBody.Content["application/json"].Schema, right)
				r, err := http.NewRequestWithContext(within(t), strings.ToUpper(method), "http://"+c.addr+at, strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				r.Header = header
				what := fmt.Sprintf("seed %d, %s %s with %.300q", seed, method, at, body)
				resp, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Errorf("%s: %v", what, err)
					continue
				}
				asked++
				if d.answered(what, op, resp) == http.StatusOK {
					succeeded[method+" "+path] = true
				}
			}
		}
	}
	// What is made is not only wrong:
	var never []string
	for path, methods := range d.Paths {
		for method := range methods {
			if !succeeded[method+" "+path] {
				never = append(never, method+" "+path)
			}
		}
	}
	slices.Sort(never)
	t.Logf("%d requests; these were never answered with 200: %s", asked, strings.Join(never, ", "))
	for _, want := range []string{"post /v1/sandboxes", "patch /v1/sandboxes/{id}", "patch /v1/volumes/{id}", "put /v1/sandboxes/{id}/spec", "post /v1/sandboxes/{id}/modify", "post /v1/volumes", "get /v1/events/{id}",
		"put /v1/volumes/{id}/files/content", "get /v1/volumes/{id}/files/content", "get /v1/volumes/{id}/files", "get /v1/sandboxes/{id}/logs", "post /v1/sandboxes/{id}/interpreters/{language}/{session}/run", "delete /v1/sandboxes/{id}"} {
		if !succeeded[want] {
			t.Errorf("no request for %s was right", want)
		}
	}
}
