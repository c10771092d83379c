package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/backend/local"
	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/internal/testimage"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// newKeyedCloud is a cloud that asks for keys.
func newKeyedCloud(t *testing.T) *cloud {
	c := newCloud(t)
	c.stop()
	c.keys = openedKeys(t, "0123456789abcdefghijklmnopqrstuv")
	c.start()
	return c
}

func openedKeys(t *testing.T, secret string) *server.Keys {
	t.Helper()
	dir := t.TempDir()
	if err := server.SaveSecret(dir, secret); err != nil {
		t.Fatal(err)
	}
	keys, err := server.OpenKeys(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// ask sends a request as others' clients do, and returns the status and the answer.
func (c *cloud) ask(method, path, body string) (int, string) {
	c.t.Helper()
	r, err := http.NewRequestWithContext(within(c.t), method, "http://"+c.addr+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+c.key())
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// get reads an answer that has to be right.
func (c *cloud) get(path string, into any) {
	c.t.Helper()
	status, text := c.ask("GET", path, "")
	if err := json.Unmarshal([]byte(text), into); err != nil || status != http.StatusOK {
		c.t.Fatalf("%s: %d %s, %v", path, status, text, err)
	}
}

func (c *cloud) home() string {
	return filepath.Dir(filepath.Dir(c.from.RunDir(sandbox.DefaultRef("x"))))
}

// nowhere looks through all files for texts, in clear and in base64.
func (c *cloud) nowhere(when string, texts ...string) {
	c.t.Helper()
	err := filepath.WalkDir(c.home(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.Contains(path, "/images/") || strings.Contains(path, "/bin/") {
			return nil // just gone, or nobody's words
		}
		data, err := os.ReadFile(path)
		for _, text := range texts {
			if err == nil && (bytes.Contains(data, []byte(text)) || bytes.Contains(data, []byte(base64.StdEncoding.EncodeToString([]byte(text))))) {
				c.t.Errorf("%s: %s holds %s", when, path, text)
			}
		}
		return nil
	})
	if err != nil {
		c.t.Error(err)
	}
}

// TestCloudKeepsValues starts a sandbox again whose secret was given inline: by another server with the same key, and by none with
// another one, which says so. The value is nowhere in clear, and in no answer.
func TestCloudKeepsValues(t *testing.T) {
	needSandboxes(t)
	c := newKeyedCloud(t)
	const value, password = "hush-value-4711", "hush-password-4712"
	body := `{"name":"secretive","image":{"type":"oci","reference":"host"},"resources":{"memory_mib":256},"pull_policy":"never",
		"registry":{"mode":"inline","username":"u","password":"` + password + `"},
		"network":{"secrets":{"entries":[{"env_var":"TOKEN","placeholder":"$MSB_TOKEN","value":"` + value + `","allowed_hosts":[{"type":"exact","value":"api.example.com"}]}]}}}`
	said := ""
	step := func(want int, method, path, body string) string {
		t.Helper()
		status, text := c.ask(method, path, body)
		said += text
		if status != want {
			t.Fatalf("%s %s: %d %s, want %d", method, path, status, text, want)
		}
		return text
	}
	const at = "/v1/sandboxes/by-name/secretive"
	step(200, "POST", "/v1/sandboxes?start=true", body)
	c.nowhere("while it runs", value, password)
	step(200, "POST", at+"/stop", "{}")
	c.nowhere("once it is stopped", value, password)
	step(200, "POST", at+"/start", "{}") // by the same process
	step(200, "POST", at+"/stop", "{}")

	c.stop() // and by another
	c.from = sameHome(t, c)
	c.start()
	step(200, "POST", at+"/start", "{}")
	if out, err := runOver(within(t), c.from, sandbox.DefaultRef("secretive"), "echo $TOKEN"); out != "$MSB_TOKEN\n" || err != nil {
		t.Errorf("the guest has %q, %v", out, err)
	}
	// A value that is rotated is kept, too.
	step(200, "POST", at+"/modify", `{"Policy":"restart","Secrets":[{"env_var":"TOKEN","allowed_hosts":[{"exact":"api.example.com"}]}],"values":{"TOKEN":"`+value+`-b"}}`)
	step(200, "POST", at+"/stop", "{}")
	step(200, "POST", at+"/start", "{}")
	step(200, "POST", at+"/stop", "{}")
	c.nowhere("rotated", value, password)

	c.stop() // and not with another key
	c.from, c.keys, c.token = sameHome(t, c), openedKeys(t, "another-0123456789abcdefghijklmn"), ""
	c.start()
	text := step(400, "POST", at+"/start", "{}")
	for _, want := range []string{`"code":"invalid_sandbox_config"`, "TOKEN", "gone", "key", `"kind":"InvalidConfig"`} {
		if !strings.Contains(text, want) {
			t.Errorf("without the key it says %s, want %s", text, want)
		}
	}
	said += step(200, "GET", at, "") + step(200, "GET", "/v1/sandboxes", "") + step(200, "GET", "/v1/events", "")
	if strings.Contains(said, "hush") {
		t.Errorf("an answer has it: %s", said)
	}
	// Given again, it starts.
	step(200, "POST", at+"/modify", `{"Policy":"next_start","Secrets":[{"env_var":"TOKEN","allowed_hosts":[{"exact":"api.example.com"}]}],"values":{"TOKEN":"`+value+`-c"}}`)
	step(200, "POST", at+"/start", "{}")
}

// sameHome is another backend of a cloud's state, as another process has it.
func sameHome(t *testing.T, c *cloud) *local.Backend {
	t.Helper()
	if err := c.from.Close(); err != nil {
		t.Error(err)
	}
	return local.New(local.Config{Home: c.home(), Runner: os.Getenv(config.RunnerVar), Agent: os.Getenv(config.AgentVar)})
}

// TestCloudRenames gives a sandbox another name: all of it goes along.
func TestCloudRenames(t *testing.T) {
	needSandboxes(t)
	c := newKeyedCloud(t)
	b := c.client()
	ref := made(t, b, "old", false, map[string]string{"k": "v"})
	made(t, b, "other", true, nil)
	if _, err := runOver(within(t), b, ref, "echo kept >/kept; sync"); err != nil {
		t.Fatal(err)
	}
	before, err := b.Get(within(t), ref)
	if err != nil {
		t.Fatal(err)
	}
	at := "/v1/sandboxes/" + before.ID
	for body, want := range map[string]int{`{"name":"new"}`: 409, `{"name":"../x"}`: 400, `{"name":""}`: 400, `{"name":"a","slug":"b"}`: 400, `{}`: 200, `{"name":null}`: 200, `{"name":"old","slug":"old"}`: 200} {
		if status, text := c.ask("PATCH", at, body); status != want {
			t.Errorf("while it runs, %s: %d %s, want %d", body, status, text, want)
		}
	}
	if err := b.Stop(within(t), ref, backend.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if status, text := c.ask("PATCH", at, `{"name":"other"}`); status != 409 || !strings.Contains(text, "name_already_exists") {
		t.Errorf("a name that is taken: %d %s", status, text)
	}
	if status, text := c.ask("PATCH", at, `{"name":"new"}`); status != 200 || !strings.Contains(text, `"name":"new"`) || !strings.Contains(text, `"slug":"new"`) {
		t.Fatalf("%d %s", status, text)
	}
	if _, err := b.Get(within(t), ref); sandbox.KindOf(err) != sandbox.NotFound {
		t.Errorf("under its old name: %v", err)
	}
	next := sandbox.DefaultRef("new")
	now, err := b.Start(within(t), next, backend.StartOptions{})
	if err != nil || now.ID != before.ID || now.Spec.Labels["k"] != "v" {
		t.Fatalf("%+v, %v", now, err)
	}
	if out, err := runOver(within(t), b, next, "cat /kept"); out != "kept\n" || err != nil {
		t.Errorf("its file is %q, %v", out, err)
	}
	made(t, b, "old", true, nil) // the name is free
}

// TestRenameKilledAtEachStep kills the process that renames a sandbox: it is there under one of the two names, with its files.
func TestRenameKilledAtEachStep(t *testing.T) {
	needSandboxes(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := newLocal(t)
	ref, next := sandbox.DefaultRef("old"), sandbox.DefaultRef("new")
	home := filepath.Dir(filepath.Dir(b.RunDir(ref)))
	for n := range 4 {
		made(t, b, "old", false, nil)
		if _, err := runOver(within(t), b, ref, "echo kept >/kept; sync"); err != nil {
			t.Fatal(err)
		}
		if err := b.Stop(within(t), ref, backend.StopOptions{}); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(within(t), self, "old", "new")
		cmd.Args[0] = "renamer"
		cmd.Env = []string{config.HomeVar + "=" + home, killVar + "=" + fmt.Sprint(n)}
		out, err := cmd.CombinedOutput()
		if killed := n < 3; killed != (err != nil) || killed && cmd.ProcessState.ExitCode() != -1 {
			t.Errorf("step %d: %v %s", n, err, out)
		}
		after := local.New(local.Config{Home: home, Runner: os.Getenv(config.RunnerVar), Agent: os.Getenv(config.AgentVar)}) // another process
		infos, err := after.List(within(t), sandbox.DefaultNamespace)
		if err != nil || len(infos) != 1 || n >= 2 != (infos[0].Ref == next) {
			t.Fatalf("killed at step %d there is %+v, %v", n, infos, err)
		}
		at := infos[0].Ref
		if _, err := after.Start(within(t), at, backend.StartOptions{}); err != nil {
			t.Fatalf("killed at step %d: %v", n, err)
		}
		if out, err := runOver(within(t), after, at, "cat /kept"); out != "kept\n" || err != nil {
			t.Errorf("killed at step %d its file is %q, %v", n, out, err)
		}
		if err := after.Remove(within(t), at, true); err != nil {
			t.Error(err)
		}
		if err := after.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestCloudUse adds up what sandboxes used: in runs that ended and in one that goes on, of sandboxes that are there and gone, kept and not,
// and says the same after a restart.
func TestCloudUse(t *testing.T) {
	needSandboxes(t)
	c := newKeyedCloud(t)
	b := c.client()
	burn := func(ref sandbox.Ref) {
		t.Helper()
		if _, err := runOver(within(t), b, ref, "i=0; while [ $(cut -d' ' -f14 /proc/$$/stat) -lt 60 ]; do i=$((i+1)); done; sleep 2"); err != nil {
			t.Fatal(err)
		}
	}
	ref := made(t, b, "kept", false, nil)
	burn(ref)
	if err := b.Stop(within(t), ref, backend.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	type row struct {
		ID     string  `json:"sandbox_id"`
		VCPU   float64 `json:"vcpu_seconds"`
		Memory float64 `json:"mem_mib_seconds"`
		Disk   float64 `json:"disk_mib_seconds"`
		CPU    float64 `json:"cpu_seconds"`
		Name   string
		Day    time.Time
	}
	read := func() map[string]row {
		t.Helper()
		var u struct {
			Rows      []row
			Sandboxes []struct{ ID, Name, Slug string }
		}
		c.get("/v1/billing/usage/sandbox", &u)
		all := map[string]row{}
		for _, s := range u.Sandboxes {
			sum := row{Name: s.Name}
			for _, r := range u.Rows {
				if r.ID == s.ID {
					sum.VCPU, sum.Memory, sum.Disk, sum.CPU = sum.VCPU+r.VCPU, sum.Memory+r.Memory, sum.Disk+r.Disk, sum.CPU+r.CPU
				}
				if r.Day != r.Day.Truncate(24*time.Hour) {
					t.Errorf("the day is %s", r.Day)
				}
			}
			all[s.Name] = sum
		}
		return all
	}
	first := read()["kept"]
	if first.VCPU < 0.6 || first.CPU < 0.5 || first.CPU > 10*first.VCPU || first.Memory < 255*first.VCPU || first.Memory > 257*first.VCPU || first.Disk <= 0 {
		t.Errorf("after a run: %+v", first)
	}
	if _, err := b.Start(within(t), ref, backend.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	burn(ref)
	if second := read()["kept"]; second.CPU < first.CPU+0.5 || second.VCPU < first.VCPU+0.6 {
		t.Errorf("while the second run goes on: %+v, after the first %+v", second, first)
	}
	if err := b.Remove(within(t), ref, true); err != nil {
		t.Fatal(err)
	}
	brief := sandbox.DefaultRef("brief")
	spec := sandbox.Spec{Name: brief.Name, Image: sandbox.Image{OCI: &sandbox.OCIImage{Reference: sandbox.HostImage}}, Lifecycle: sandbox.Lifecycle{Ephemeral: true}}
	spec.Resources.MemoryMiB = 256
	if _, err := b.Create(within(t), backend.CreateRequest{Ref: brief, Spec: spec}); err != nil {
		t.Fatal(err)
	}
	burn(brief)
	if err := b.Stop(within(t), brief, backend.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	var before map[string]row
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) { // its end is noted when its runner has gone
		if before = read(); before["brief"].CPU > 0 || time.Now().After(deadline) {
			break
		}
	}
	if r := before["brief"]; r.VCPU < 0.6 || r.CPU < 0.5 {
		t.Errorf("an ephemeral one: %+v", r)
	}
	if r := before["kept"]; r.CPU < first.CPU+0.5 {
		t.Errorf("one that was removed: %+v", r)
	}
	var quota struct {
		VCPU   float64 `json:"vcpu_hours_used"`
		Memory float64 `json:"memory_gib_hours_used"`
	}
	c.get("/v1/quotas", &quota)
	if want := (before["kept"].VCPU + before["brief"].VCPU) / 3600; quota.VCPU < want*0.99 || quota.VCPU > want*1.01 || quota.Memory <= 0 {
		t.Errorf("the quota has %+v, want %v vCPU hours", quota, want)
	}
	c.stop()
	c.from = sameHome(t, c)
	c.start()
	if after := read(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("after a restart %+v, before %+v", after, before)
	}
}

// TestCloudVolumes changes how much a volume may hold.
func TestCloudVolumes(t *testing.T) {
	needSandboxes(t)
	c := newKeyedCloud(t)
	b := c.client()
	v, err := b.CreateVolume(within(t), backend.VolumeRequest{Namespace: sandbox.DefaultNamespace, Name: "v"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.from.RemoveVolume(context.Background(), sandbox.DefaultNamespace, "v") })
	at := "/v1/volumes/" + v.ID
	has := func(want string) {
		t.Helper()
		if _, text := c.ask("GET", at, ""); !strings.Contains(text, want) {
			t.Errorf("it is %s, want %s", text, want)
		}
	}
	for _, s := range []struct {
		body   string
		status int
		has    string
	}{
		{`{"capacity_gib":2}`, 200, `"capacity_bytes":2147483648`},
		{`{"labels":{"a":"b"}}`, 200, `"capacity_bytes":2147483648`},
		{`{"capacity_gib":0}`, 400, `"labels":{"a":"b"}`},
		{`{"capacity_gib":"2"}`, 400, `"capacity_bytes":2147483648`},
		{`{"capacity_gib":-1}`, 400, `"capacity_bytes":2147483648`},
		{`{"capacity_gib":99999999999}`, 400, `"capacity_bytes":2147483648`},
		{`{"labels":{"service.x":"b"}}`, 400, `"labels":{"a":"b"}`},
		{`{"labels":{}}`, 200, `"labels":{}`},
		{`{"capacity_gib":null}`, 200, `"capacity_bytes":null`},
	} {
		if status, text := c.ask("PATCH", at, s.body); status != s.status {
			t.Errorf("%s: %d %s, want %d", s.body, status, text, s.status)
		}
		has(s.has)
	}
	// Its limit holds for who mounts it next, and is not below what is in it.
	two := 2
	if v, err = b.UpdateVolume(within(t), sandbox.DefaultNamespace, "v", backend.VolumeChange{QuotaMiB: &two}); err != nil || v.QuotaMiB != 2 {
		t.Fatalf("%+v, %v", v, err)
	}
	ref := sandbox.DefaultRef("mounts")
	spec := sandbox.Spec{Name: ref.Name, Image: sandbox.Image{OCI: &sandbox.OCIImage{Reference: sandbox.HostImage}}, Mounts: []sandbox.Mount{{Type: sandbox.MountNamed, Host: "v", Guest: "/v"}}}
	spec.Resources.MemoryMiB = 256
	if _, err := b.Create(within(t), backend.CreateRequest{Ref: ref, Spec: spec}); err != nil {
		t.Fatal(err)
	}
	if out, err := runOver(within(t), b, ref, "head -c 1500000 /dev/zero >/v/some && ! head -c 1500000 /dev/zero 2>&1 >/v/more"); err != nil || !strings.Contains(out, "space") {
		t.Errorf("%q, %v", out, err)
	}
	one := 1
	if _, err = b.UpdateVolume(within(t), sandbox.DefaultNamespace, "v", backend.VolumeChange{QuotaMiB: &one}); sandbox.KindOf(err) != sandbox.InvalidConfig {
		t.Errorf("below what it holds: %v", err)
	}
	if err := b.Remove(within(t), ref, true); err != nil {
		t.Error(err)
	}
}

// TestCloudImages gets an image through a server, with progress, and looks at the server's images.
func TestCloudImages(t *testing.T) {
	needSandboxes(t)
	c := newKeyedCloud(t)
	b := c.client()
	registry := testimage.Serve(t, testimage.Options{Username: "u", Password: "hush-registry-4713"})
	ref := registry.Push(t, "busybox:1", testimage.Busybox(t))
	if _, err := b.PullImage(within(t), ref, backend.PullOptions{}); sandbox.KindOf(err) != sandbox.ImagePullFailed {
		t.Errorf("without a password: %v", err)
	}
	var phases []backend.PullPhase
	got, err := b.PullImage(within(t), ref, backend.PullOptions{Auth: &backend.RegistryAuth{Username: "u", Password: "hush-registry-4713"},
		Progress: func(e backend.PullEvent) { phases = append(phases, e.Phase) }})
	if err != nil || got.Reference != ref || got.Digest == "" {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, want := range []backend.PullPhase{backend.PullResolved, backend.PullDownloaded, backend.PullDone} {
		if !slices.Contains(phases, want) {
			t.Errorf("its progress was %v, without %s", phases, want)
		}
	}
	c.nowhere("after the pull", "hush-registry-4713")
	all, err := b.ListImages(within(t))
	if err != nil || len(all) != 1 || all[0] != got {
		t.Errorf("listed: %+v, %v, want %+v", all, err, got)
	}
	d, err := b.InspectImage(within(t), ref)
	if err != nil || d.Digest != got.Digest || len(d.LayerList) == 0 {
		t.Errorf("%+v, %v", d, err)
	}
	spec := sandbox.Spec{Name: "uses", Image: sandbox.Image{OCI: &sandbox.OCIImage{Reference: ref}}}
	spec.Resources.MemoryMiB = 256
	uses := sandbox.DefaultRef("uses")
	if _, err := b.Create(within(t), backend.CreateRequest{Ref: uses, Spec: spec}); err != nil {
		t.Fatal(err)
	}
	if err := b.RemoveImage(within(t), ref, false); sandbox.KindOf(err) != sandbox.ImageInUse {
		t.Errorf("an image that is used: %v", err)
	}
	if err := b.Remove(within(t), uses, true); err != nil {
		t.Fatal(err)
	}
	if err := b.RemoveImage(within(t), ref, false); err != nil {
		t.Error(err)
	}
	if _, err := b.InspectImage(within(t), ref); sandbox.KindOf(err) != sandbox.ImageNotFound {
		t.Errorf("one that is gone: %v", err)
	}
	if _, err := b.PullImage(within(t), "../x", backend.PullOptions{}); sandbox.KindOf(err) != sandbox.InvalidArgument {
		t.Errorf("what is no reference: %v", err)
	}
	if p, err := b.PruneImages(within(t)); err != nil {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestCloudCommands gives our command line what only servers of ours can do, over a profile.
func TestCloudCommands(t *testing.T) {
	needSandboxes(t)
	t.Setenv("CLOUD_TOKEN", "hush-value-4714") // of the server, which is this process
	c := newKeyedCloud(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &stepper{t: t, self: self, home: t.TempDir()}
	profile := fmt.Sprintf(`{"active_profile":"far","profiles":{"far":{"backend":"cloud","url":"http://%s","api_key_ref":"env:FAR_KEY"}}}`, c.addr)
	if err := os.WriteFile(filepath.Join(s.home, "config.json"), []byte(profile), 0o600); err != nil {
		t.Fatal(err)
	}
	ref := testimage.Serve(t, testimage.Options{}).Push(t, "busybox:1", testimage.Busybox(t))
	for _, l := range []struct {
		args string
		out  string // that stdout has, "" is none
		err  string // of what fails
	}{
		{"image ls", "", ""},
		{"image inspect " + ref, "", "image"},
		{"pull " + ref, "", ""},
		{"image ls -q", ref + "\n", ""},
		{"image ls --format json", `"reference": "` + ref + `"`, ""},
		{"image inspect --format json " + ref, `"layers": [`, ""},
		{"create -q --name it -m 256M " + ref, "", ""},
		{"image rm " + ref, "", "image in use"},
		{"modify it --secret CLOUD_TOKEN@api.example.com --next-start", "", ""},
		{"restart -q it", "", ""},
		{"exec it -- sh -c echo$IFS$CLOUD_TOKEN", "$MSB_CLOUD_TOKEN\n", ""},
		{"inspect it --format json", "CLOUD_TOKEN", ""},
		{"rm -f -q it", "", ""},
		{"image rm " + ref, "", ""},
		{"image prune -y", "", ""},
		{"load -i " + filepath.Join(s.home, "config.json"), "", "not supported by this backend"},
	} {
		out, err := s.run([]string{"FAR_KEY=" + c.key()}, strings.Fields(l.args)...)
		switch {
		case l.err == "" && err != nil, l.err != "" && (err == nil || !strings.Contains(err.Error(), l.err)):
			t.Errorf("%s: %v", l.args, err)
		case l.out == "" && out != "" && !strings.HasPrefix(l.args, "modify"), !strings.Contains(out, l.out):
			t.Errorf("%s prints %q, want %q", l.args, out, l.out)
		}
	}
	c.nowhere("in the end", "hush-value-4714")
}
