package cloudapi

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// whole is a body with every field that clients send.
const whole = `{"name":"full","image":{"type":"oci","reference":"alpine"},"resources":{"vcpus":2,"memory_mib":512,"disk_size_mib":1024},
"runtime":{"workdir":"/w","shell":"/bin/bash","scripts":{"s":"echo"},"entrypoint":["/e"],"cmd":["c"],"user":"u","log_level":"debug"},
"env":[{"key":"A","value":"b"}],"labels":{"k":"v"},"rlimits":[{"resource":"nofile","soft":10,"hard":10}],
"mounts":[{"type":"bind","host":"/host","guest":"/b","options":{"readonly":true,"noexec":false,"nosuid":false,"nodev":false},"stat_virtualization":"strict","host_permissions":"private","quota_mib":null},
{"type":"named","name":"vol","guest":"/n","options":{"readonly":false,"noexec":true,"nosuid":false,"nodev":false}},{"type":"tmpfs","guest":"/t","size_mib":64,"options":{"readonly":false,"noexec":false,"nosuid":false,"nodev":false}}],
"patches":[{"type":"text","path":"/p","content":"x","mode":null,"replace":false},{"type":"file","path":"/f","content":[0,255,10],"mode":384},{"type":"mkdir","path":"/q","mode":null},{"type":"remove","path":"/r"},
{"type":"symlink","target":"/a","link":"/l","replace":false},{"type":"append","path":"/c","content":"d"}],
"network":{"enabled":true,"policy":{"default_egress":"deny","default_ingress":"allow","rules":[{"direction":"egress","destination":{"domain":"example.com"},"protocols":["tcp"],"ports":[{"start":443,"end":443}],"action":"allow"}]},
"secrets":{"entries":[{"env_var":"K","value":"hush","placeholder":"$MSB_K","allowed_hosts":[{"type":"exact","value":"api.x.com"},{"type":"wildcard","value":"*.y.com"}],"injection":{"headers":true,"basic_auth":true,"query_params":false,"body":false},"require_tls_identity":true}],"on_violation":{"type":"block_and_log"}},
"strict":false,"max_connections":5,"unheard_of":1},
"init":{"cmd":"auto","args":[],"env":[["X","y"]]},"pull_policy":"always","security_profile":"restricted",
"lifecycle":{"ephemeral":true,"max_duration_secs":60,"idle_timeout_secs":30},"registry":{"mode":"inline","username":"u","password":"p"},"unheard_of":{}}`

// TestBody reads a whole body, says the spec again and reads that: it is the same, and the secret is only in it where it is wanted.
func TestBody(t *testing.T) {
	var b CreateBody
	if err := json.Unmarshal([]byte(whole), &b); err != nil {
		t.Fatal(err)
	}
	first, err := b.Spec()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.WithDefaults().Validate(); err != nil {
		t.Fatal(err)
	}
	for _, values := range []bool{true, false} {
		said, lost := BodyOf(first, values)
		if len(lost) > 0 {
			t.Errorf("lost: %v", lost)
		}
		text, err := json.Marshal(said)
		if err != nil {
			t.Fatal(err)
		}
		var again CreateBody
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatal(err)
		}
		second, err := again.Spec()
		if err != nil {
			t.Fatal(err)
		}
		a, b := first.WithDefaults(), second.WithDefaults()
		if have := b.Network.Secrets.Secrets[0].Value.Reveal(); (have == "hush") != values {
			t.Errorf("the secret is %q", have)
		}
		b.Network.Secrets.Secrets[0].Value = a.Network.Secrets.Secrets[0].Value
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		if string(x) != string(y) {
			t.Errorf("the spec\n%s\nbecame\n%s", x, y)
		}
		if again.Registry != nil {
			t.Error("the registry's password is in the answer")
		}
	}
}

// TestRefused are fields that cannot be honoured: the error names them.
func TestRefused(t *testing.T) {
	for body, want := range map[string]string{
		`{}`: "image: there is none",
		`{"image":{"type":"disk_image","path":"/x"}}`:                                                                                      "image.type: a disk image as the root needs a microVM",
		`{"image":{"type":"oci","reference":"a"},"resources":{"vcpus":0}}`:                                                                 "resources.vcpus: 0 is less than 1",
		`{"image":{"type":"oci","reference":"a"},"mounts":[{"type":"tmpfs","guest":"/a"},{"type":"disk_image","guest":"/x"}]}`:             "mounts[1].type: a disk image needs a microVM",
		`{"image":{"type":"oci","reference":"a"},"pull_policy":"often"}`:                                                                   `pull_policy: "often" is not if_missing, always or never`,
		`{"image":{"type":"oci","reference":"a"},"registry":{"mode":"specific","credential_id":"c"}}`:                                      "registry.credential_id: this server keeps no credentials by id",
		`{"image":{"type":"oci","reference":"a"},"network":{"dns":{"nameservers":["1.1.1.1"]}}}`:                                           "network.dns: it is the server's to choose",
		`{"image":{"type":"oci","reference":"a"},"network":{"secrets":{"entries":[{"env_var":"A","allowed_hosts":[{"type":"regexp"}]}]}}}`: `network.secrets.entries[0].allowed_hosts: "regexp" is not exact, wildcard or any`,
	} {
		var b CreateBody
		if err := json.Unmarshal([]byte(body), &b); err != nil {
			t.Fatal(err)
		}
		_, err := b.Spec()
		var e *sandbox.Error
		if !errors.As(err, &e) || e.Message != want {
			t.Errorf("%s: %v, want %s", body, err, want)
		}
	}
}

// TestNetworkOff: one that is off reaches nothing, whatever its policy says; one that says nothing has the public profile.
func TestNetworkOff(t *testing.T) {
	for body, want := range map[string]*sandbox.NetworkPolicy{
		`{"enabled":true,"strict":false}`: nil,
		`{"enabled":false}`:               {DefaultEgress: sandbox.Deny, DefaultIngress: sandbox.Deny},
		`{"enabled":false,"policy":{"default_egress":"allow","default_ingress":"allow","rules":[]}}`: {DefaultEgress: sandbox.Deny, DefaultIngress: sandbox.Deny},
	} {
		b := CreateBody{Image: &Image{Type: "oci", Reference: "a"}}
		if err := json.Unmarshal([]byte(body), &b.Network); err != nil {
			t.Fatal(err)
		}
		s, err := b.Spec()
		if err != nil || !reflect.DeepEqual(s.WithDefaults().Network.Policy, want) {
			t.Errorf("%s: %+v, %v", body, s.WithDefaults().Network.Policy, err)
		}
	}
}

// TestErrors turns each kind into an answer and back; others' answers are what contract msb-0.6 §3.2 makes of them.
func TestErrors(t *testing.T) {
	for kind := range rows {
		in := &sandbox.Error{Op: "x", Kind: kind, Message: "what went wrong", Hint: "do it otherwise"}
		status, body := Body(in)
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		out := ErrorOf("x", sandbox.Ref{}, status, text, false, false)
		if sandbox.KindOf(out) != kind || out.Error() != in.Error() || sandbox.HintOf(out) != in.Hint {
			t.Errorf("%s became %s: %v, hint %q", kind, sandbox.KindOf(out), out, sandbox.HintOf(out))
		}
	}
	for _, c := range []struct {
		status         int
		body           string
		volume, create bool
		want           sandbox.Kind
	}{
		{404, `{"code":"sandbox_not_found","message":"m"}`, false, false, sandbox.NotFound},
		{404, `{"error":{"code":"volume_not_found","message":"m","details":null}}`, true, false, sandbox.VolumeNotFound},
		{404, "", true, false, sandbox.VolumeNotFound},
		{404, "gone", false, false, sandbox.NotFound},
		{409, "", false, true, sandbox.AlreadyExists},
		{409, "", true, true, sandbox.VolumeExists},
		{409, `{"code":"invalid_state_transition"}`, false, false, sandbox.Runtime},
		{422, "", false, false, sandbox.InvalidConfig},
		{502, "", false, false, sandbox.Runtime},
		{401, `{"error":{"code":"invalid_api_key","message":"Invalid API key"}}`, false, false, sandbox.InvalidConfig},
		{500, `{"error":{"code":"x","message":"m","details":{"kind":"NoSuchKind"}}}`, false, false, sandbox.Runtime},
	} {
		if err := ErrorOf("x", sandbox.Ref{}, c.status, []byte(c.body), c.volume, c.create); sandbox.KindOf(err) != c.want {
			t.Errorf("%d %s: %v (%s), want %s", c.status, c.body, err, sandbox.KindOf(err), c.want)
		}
	}
}

// FuzzBody reads bodies of anybody: what becomes a valid spec says itself again, and reads as the same.
func FuzzBody(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(`{"name":"a","image":{"type":"oci","reference":"host"}}`))
	f.Add([]byte(`{"image":{"type":"bind","path":"/x"},"network":{"enabled":false,"ports":[{"host_port":1,"guest_port":2}]}}`))
	f.Add([]byte(`{"patches":[{"type":"file","content":[256]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var b CreateBody
		if json.Unmarshal(data, &b) != nil {
			return
		}
		s, err := b.Spec()
		if err != nil {
			if k := sandbox.KindOf(err); k != sandbox.InvalidConfig && k != sandbox.Unsupported {
				t.Errorf("the error %v is of kind %s", err, k)
			}
			return
		}
		if s.WithDefaults().Validate() != nil {
			return
		}
		said, _ := BodyOf(s, true)
		text, err := json.Marshal(said)
		if err != nil {
			t.Fatal(err)
		}
		var again CreateBody
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		second, err := again.Spec()
		if err != nil || second.WithDefaults().Validate() != nil {
			t.Errorf("%s became %s: %v, %v", data, text, err, second.WithDefaults().Validate())
		}
	})
}

// FuzzError reads answers of servers.
func FuzzError(f *testing.F) {
	f.Add(404, []byte(`{"error":{"code":"sandbox_not_found","message":"m","details":{"kind":"SandboxNotFound"}}}`))
	f.Add(500, []byte(`{"code":"x"}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		err := ErrorOf("x", sandbox.Ref{}, status, body, false, false)
		if k := sandbox.KindOf(err); k == "" || k == sandbox.Internal || len(err.Error()) > maxMessage+200 {
			t.Errorf("%d %s: %v (%s)", status, body, err, k)
		}
	})
}
