package rest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// kept is a backend in memory that remembers what it was asked for.
type kept struct {
	backend.Backend
	asked []backend.CreateRequest
	infos []sandbox.Info
	dir   string

	modified []backend.ModifyRequest
	policy   *sandbox.NetworkPolicy // what was set
	relay    net.Conn               // what Dial returns
}

func (k *kept) Create(_ context.Context, req backend.CreateRequest) (sandbox.Info, error) {
	k.asked = append(k.asked, req)
	i := sandbox.Info{Ref: req.Ref, ID: uuidOf(string(req.Ref.Name)), Status: sandbox.Running, Spec: req.Spec.WithDefaults(), CreatedAt: time.Unix(int64(len(k.infos)), 0)}
	k.infos = append([]sandbox.Info{i}, k.infos...)
	return i, nil
}

func (k *kept) List(_ context.Context, namespace string) (all []sandbox.Info, err error) {
	for _, i := range k.infos {
		if i.Ref.Namespace == namespace {
			all = append(all, i)
		}
	}
	return all, nil
}

func (k *kept) Get(_ context.Context, ref sandbox.Ref) (sandbox.Info, error) {
	for _, i := range k.infos {
		if i.Ref == ref {
			return i, nil
		}
	}
	return sandbox.Info{}, &sandbox.Error{Ref: ref, Kind: sandbox.NotFound, Message: string(ref.Name)}
}

func (k *kept) Find(_ context.Context, id string) (sandbox.Info, error) {
	for _, i := range k.infos {
		if i.ID == id {
			return i, nil
		}
	}
	return sandbox.Info{}, &sandbox.Error{Kind: sandbox.NotFound}
}

func (k *kept) Modify(_ context.Context, _ sandbox.Ref, req backend.ModifyRequest) (sandbox.Plan, error) {
	k.modified = append(k.modified, req)
	return sandbox.Plan{}, nil
}

func (k *kept) Network(context.Context, sandbox.Ref) (sandbox.NetworkState, error) {
	return sandbox.NetworkState{}, nil
}

func (k *kept) SetNetworkPolicy(_ context.Context, _ sandbox.Ref, p sandbox.NetworkPolicy) error {
	k.policy = &p
	return nil
}

func (k *kept) CreateVolume(context.Context, backend.VolumeRequest) (backend.Volume, error) {
	return backend.Volume{}, nil
}
func (k *kept) GetVolume(ctx context.Context, namespace, name string) (backend.Volume, error) {
	if all, _ := k.ListVolumes(ctx, namespace); name == all[0].Name {
		return all[0], nil
	}
	return backend.Volume{}, &sandbox.Error{Kind: sandbox.VolumeNotFound}
}
func (k *kept) RemoveVolume(context.Context, string, string) error { return nil }
func (k *kept) ListVolumes(_ context.Context, namespace string) ([]backend.Volume, error) {
	return []backend.Volume{{Namespace: namespace, Name: "v", ID: "vol", Path: k.dir, QuotaMiB: 1}}, nil
}

// site is a server that asks for keys.
type site struct {
	testing.TB
	kept  *kept
	h     http.Handler
	roots string
	keys  map[string]string // by namespace
}

func newSite(t testing.TB) *site { return newSiteOf(t, "") }

// newSiteOf is one that goes on with an audit log.
func newSiteOf(t testing.TB, auditFile string, configure ...func(*server.Config)) *site {
	home := t.TempDir()
	if err := server.SaveSecret(home, "0123456789abcdefghijklmnopqrstuv"); err != nil {
		t.Fatal(err)
	}
	keys, err := server.OpenKeys(home, "")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{TB: t, kept: &kept{dir: t.TempDir()}, roots: t.TempDir(), keys: map[string]string{}}
	for _, ns := range []string{"team", "other", server.AllNamespaces} {
		if s.keys[ns], _, err = keys.Make(ns, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	cfg := server.Config{Backend: s.kept, Keys: keys, VolumeRoots: []string{s.roots}, HostImage: true, AuditFile: auditFile}
	if auditFile != "" {
		log, err := server.OpenLog(auditFile, false)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { log.Close() })
		cfg.Audit = slog.New(slog.NewJSONHandler(log, nil))
	}
	for _, c := range configure {
		c(&cfg)
	}
	srv := server.New(cfg)
	t.Cleanup(srv.Close)
	srv.Mount(New(srv).Routes()...)
	s.h = srv
	return s
}

// ask asks with the key of a namespace.
func (s *site) ask(as, method, path, body string, header ...string) (int, string) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = "127.0.0.1"
	if as != "" {
		r.Header.Set("Authorization", "Bearer "+s.keys[as])
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.h.ServeHTTP(w, r)
	data, _ := io.ReadAll(w.Body)
	return w.Code, string(data)
}

// refused asks for what is refused with a status and a code.
func (s *site) refused(status int, code, as, method, path, body string, header ...string) string {
	s.Helper()
	have, answer := s.ask(as, method, path, body, header...)
	var e cloudapi.Envelope
	if err := json.Unmarshal([]byte(answer), &e); err != nil || have != status || e.Error.Code != code || e.Error.Message == "" {
		s.Errorf("%s %s %s: %d %s, want %d %s", method, path, body, have, answer, status, code)
	}
	return e.Error.Message
}

func TestKeys(t *testing.T) {
	s := newSite(t)
	if m := s.refused(401, "invalid_api_key", "", "GET", "/v1/sandboxes", ""); m != "Invalid API key" {
		t.Errorf("without a key: %s", m)
	}
	body := `{"name":"a","image":{"type":"oci","reference":"host"}}`
	code, answer := s.ask("team", "POST", "/v1/sandboxes?start=true", body)
	var made cloudapi.Sandbox
	if err := json.Unmarshal([]byte(answer), &made); err != nil || code != 200 || s.kept.asked[0].Ref.Namespace != "team" || made.OrgID != orgID("team") {
		t.Fatalf("create: %d %s, %+v", code, answer, s.kept.asked)
	}
	for _, path := range []string{"/v1/sandboxes/" + made.ID, "/v1/sandboxes/by-name/a"} {
		if code, answer := s.ask("team", "GET", path, ""); code != 200 {
			t.Errorf("%s: %d %s", path, code, answer)
		}
		s.refused(404, "sandbox_not_found", "other", "GET", path, "")
		s.refused(404, "sandbox_not_found", "other", "DELETE", path, "")
		s.refused(404, "sandbox_not_found", "other", "POST", path+"/stop", "{}")
		s.refused(404, "sandbox_not_found", "other", "GET", path+"/agent", "")
		s.refused(404, "sandbox_not_found", "other", "GET", path+"/logs", "")
		s.refused(404, "sandbox_not_found", "other", "GET", path+"/interpreters", "")
		s.refused(404, "sandbox_not_found", "other", "POST", path+"/interpreters/python/x/run", `{"code":"1"}`)
		s.refused(404, "sandbox_not_found", "other", "POST", path+"/interpreters/python/x/interrupt", "")
		s.refused(404, "sandbox_not_found", "other", "POST", path+"/interpreters/python/x/restart", "")
		s.refused(404, "sandbox_not_found", "other", "DELETE", path+"/interpreters/python/x", "")
	}
	s.refused(403, "access_denied", "other", "GET", "/v1/sandboxes/by-name/a", "", cloudapi.NamespaceHeader, "team")
	s.refused(403, "access_denied", "other", "POST", "/v1/sandboxes/by-name/a/interpreters/python/x/run", `{"code":"1"}`, cloudapi.NamespaceHeader, "team")
	s.refused(401, "invalid_api_key", "", "POST", "/v1/sandboxes/by-name/a/interpreters/python/x/run", `{"code":"1"}`)
	if code, _ := s.ask(server.AllNamespaces, "GET", "/v1/sandboxes/by-name/a", "", cloudapi.NamespaceHeader, "team"); code != 200 {
		t.Errorf("a key for all, which says whose: %d", code)
	}
	if code, answer := s.ask("other", "GET", "/v1/sandboxes", ""); code != 200 || strings.Contains(answer, made.ID) {
		t.Errorf("the list of others: %d %s", code, answer)
	}
	if code, answer := s.ask("other", "GET", "/v1/events", ""); code != 200 || strings.Contains(answer, "sandbox.create") {
		t.Errorf("the events of others: %d %s", code, answer)
	}
	if code, answer := s.ask("team", "GET", "/v1/events", ""); code != 200 || !strings.Contains(answer, `"event_type":"sandbox.create"`) {
		t.Errorf("events: %d %s", code, answer)
	}
	s.refused(405, "method_not_allowed", "team", "PUT", "/v1/sandboxes/"+made.ID, "")
	s.refused(404, "not_found", "team", "GET", "/v1/moon", "")
}

// TestConfined are things of the server's machine that clients may not have.
func TestConfined(t *testing.T) {
	s := newSite(t)
	inside := filepath.Join(s.roots, "in")
	if err := os.Mkdir(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(s.roots, "link")); err != nil {
		t.Fatal(err)
	}
	body := func(more string) string { return `{"name":"a","image":{"type":"oci","reference":"host"},` + more + `}` }
	extension := func(spec string) string {
		return `{"name":"a","microsandbox":{"spec":{"image":{"Oci":{"reference":"host","root_disk":{"kind":""}}},` + spec + `}}}`
	}
	mount := func(host string) string { return body(`"mounts":[{"type":"bind","host":"` + host + `","guest":"/b"}]`) }
	for what, c := range map[string]struct{ body, names string }{
		"a directory":          {mount("/etc"), "mounts[0].host"},
		"one behind a link":    {mount(s.roots + "/link"), "mounts[0].host"},
		"one above":            {mount(inside + "/../../.."), "mounts[0].host"},
		"a relative one":       {mount("etc"), "mounts[0].host"},
		"an image":             {`{"name":"a","image":{"type":"bind","path":"/etc"}}`, "image.path"},
		"a file":               {body(`"patches":[{"type":"copy_file","src":"/etc/shadow","dst":"/x"}]`), "patches[0].src"},
		"a variable":           {body(`"network":{"secrets":{"entries":[{"env_var":"A","placeholder":"$A","source":{"type":"env","var":"HOME"},"allowed_hosts":[{"type":"exact","value":"x.com"}]}]}}`), "network.secrets.entries[0].source"},
		"a directory, our way": {extension(`"mounts":[{"type":"Bind","host":"/etc","guest":"/b"}]`), "mounts[0].host"},
		"a variable, our way":  {extension(`"network":{"secrets":{"secrets":[{"env_var":"A","source":{"kind":"env","var":"HOME"},"allowed_hosts":[{"exact":"x.com"}]}]}}`), "network.secrets.entries[0].source"},
		"a low port":           {extension(`"network":{"ports":[{"host_port":22,"guest_port":22}]}`), "network.ports[0].host_port"},
		"a key of TLS":         {extension(`"network":{"tls":{"enabled":true,"intercept_ca":{"cert_path":"/a","key_path":"/b"}}}`), "network.tls"},
		"another address":      {extension(`"network":{"ports":[{"host_port":8080,"guest_port":80,"host_bind":"0.0.0.0"}]}`), "network.ports"},
		"a proxy on loopback":  {extension(`"network":{"outbound_proxy":{"protocol":"socks5","address":"127.0.0.1:1080"}}`), "network.outbound_proxy"},
		"one by an alias":      {extension(`"network":{"outbound_proxy":{"protocol":"socks5","address":"[::ffff:127.0.0.1]:1080"}}`), "network.outbound_proxy"},
		"one of the metadata":  {extension(`"network":{"outbound_proxy":{"protocol":"socks5","address":"169.254.169.254:80"}}`), "network.outbound_proxy"},
		"the proxy's password": {extension(`"network":{"outbound_proxy":{"url":"http://1.2.3.4:1","password_env":"HOME"}}`), "network.outbound_proxy.password_env"},
	} {
		if m := s.refused(400, "invalid_sandbox_config", "team", "POST", "/v1/sandboxes?start=true", c.body); !strings.Contains(m, c.names) {
			t.Errorf("%s: %s, want %s", what, m, c.names)
		}
	}
	if len(s.kept.asked) > 0 {
		t.Errorf("asked for: %+v", s.kept.asked)
	}
	if code, answer := s.ask("team", "POST", "/v1/sandboxes?start=true", mount(inside)); code != 200 {
		t.Errorf("a directory that may be had: %d %s", code, answer)
	}
	if len(s.kept.asked) != 1 || !s.kept.asked[0].Resolved {
		t.Errorf("links may be followed again: %+v", s.kept.asked)
	}
	if !s.kept.asked[0].Proven {
		t.Error("an image of another's credentials would do")
	}
	if code, answer := s.ask(server.AllNamespaces, "POST", "/v1/sandboxes?start=true", mount(inside)); code != 200 || s.kept.asked[1].Proven || !s.kept.asked[1].Resolved {
		t.Errorf("with a key for all: %d %s, %+v", code, answer, s.kept.asked)
	}
}

// TestHostsProgramsAndNetwork has a key of one namespace ask for the server's /usr and for what listens on the server's machine.
func TestHostsProgramsAndNetwork(t *testing.T) {
	s := newSiteOf(t, "", func(c *server.Config) { c.HostImage = false })
	const host = `{"name":"a","image":{"type":"oci","reference":"host"}}`
	if m := s.refused(400, "invalid_sandbox_config", "team", "POST", "/v1/sandboxes?start=true", host); !strings.Contains(m, "image: ") {
		t.Errorf("it says %s", m)
	}
	if code, answer := s.ask(server.AllNamespaces, "POST", "/v1/sandboxes?start=true", host, cloudapi.NamespaceHeader, "team"); code != 200 {
		t.Errorf("with a key for all: %d %s", code, answer)
	}
	const policy = `{"default_egress":"allow","default_ingress":"allow","rules":[{"destination":{"group":"host"},"action":"allow"}]}`
	const open = `{"name":"b","microsandbox":{"spec":{"image":{"Oci":{"reference":"alpine","root_disk":{"kind":""}}},"network":{"enabled":true,"policy":` + policy + `}}}}`
	denied := func(what string, p *sandbox.NetworkPolicy) {
		t.Helper()
		if p == nil || len(p.Rules) != 2 || p.Rules[0].String() != "deny@host:tcp+udp:0-52,54-65535" || p.Rules[1].Action != sandbox.Allow {
			t.Errorf("%s: %+v", what, p)
		}
	}
	if code, answer := s.ask("team", "POST", "/v1/sandboxes?start=true", open); code != 200 {
		t.Fatalf("%d %s", code, answer)
	}
	made := s.kept.asked[len(s.kept.asked)-1].Spec.Network.Policy
	denied("created", made)
	again, err := json.Marshal(made)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{policy, string(again)} { // one that was read is not added to
		if code, answer := s.ask("team", "PUT", "/v1/sandboxes/by-name/b/network", p); code != 200 {
			t.Fatalf("%d %s", code, answer)
		}
		denied("set", s.kept.policy)
		if code, answer := s.ask("team", "POST", "/v1/sandboxes/by-name/b/modify", `{"NetworkPolicy":`+p+`}`); code != 200 {
			t.Fatalf("%d %s", code, answer)
		}
		denied("modified", s.kept.modified[len(s.kept.modified)-1].NetworkPolicy)
	}
	for what, s := range map[string]*site{"a key for all": s, "a server that allows it": newSiteOf(t, "", func(c *server.Config) { c.HostNetwork = true })} {
		as := "team"
		if what == "a key for all" {
			as = server.AllNamespaces
		}
		body := strings.Replace(open, `"b"`, `"c"`, 1)
		if code, answer := s.ask(as, "POST", "/v1/sandboxes?start=true", body, cloudapi.NamespaceHeader, "team"); code != 200 || len(s.kept.asked[len(s.kept.asked)-1].Spec.Network.Policy.Rules) != 1 {
			t.Errorf("%s: %d %s", what, code, answer)
		}
	}
}

// TestSecretsStay looks for what was sent in what is answered.
func TestSecretsStay(t *testing.T) {
	s := newSite(t)
	_, answer := s.ask("team", "POST", "/v1/sandboxes?start=true", `{"name":"a","image":{"type":"oci","reference":"host"},"pull_policy":"never","registry":{"mode":"inline","username":"u","password":"hush-registry"},
		"network":{"secrets":{"entries":[{"env_var":"A","placeholder":"$A","value":"hush-value","allowed_hosts":[{"type":"exact","value":"x.com"}]}]}}}`)
	if len(s.kept.asked) != 1 || s.kept.asked[0].Spec.Network.Secrets.Secrets[0].Value.Reveal() != "hush-value" {
		t.Fatalf("asked for %+v: %s", s.kept.asked, answer)
	}
	_, list := s.ask("team", "GET", "/v1/sandboxes", "")
	_, events := s.ask("team", "GET", "/v1/events", "")
	code, file := s.ask("team", "GET", "/v1/sandboxfile", "")
	if strings.Contains(answer+list+events+file, "hush") || code != 200 || !strings.Contains(file, "secrets:\n      A:\n        allow:\n          - x.com") {
		t.Errorf("%s %s %s %d %s", answer, list, events, code, file)
	}
}

// TestFiles goes for what is outside of a volume, and for more than it holds.
func TestFiles(t *testing.T) {
	s := newSite(t)
	at := func(p string) []string {
		return []string{cloudapi.FilePathHeader, base64.RawURLEncoding.EncodeToString([]byte(p))}
	}
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"link": outside, "dir": filepath.Dir(outside), "etc": "/etc"} {
		if err := os.Symlink(to, filepath.Join(s.kept.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	const files = "/v1/volumes/vol/files"
	for _, p := range []string{"../x", "a/../../x", "link", "dir/secret", "etc/passwd", "", "/", "a\x00b", strings.Repeat("a/", 300) + "b", strings.Repeat("a", 5000)} {
		for _, method := range []string{"GET", "PUT"} {
			if code, answer := s.ask("team", method, files+"/content", "changed", at(p)...); code == 200 || code >= 500 {
				t.Errorf("%s %q: %d %s", method, p, code, answer)
			}
		}
	}
	for _, body := range []string{`{"from":"dir/secret","to":"mine"}`, `{"from":"link","to":"mine"}`, `{"from":"../x","to":"mine"}`, `{"from":"a","to":"../mine"}`} {
		for _, op := range []string{"copy", "rename"} {
			if code, answer := s.ask("team", "POST", files+"/"+op, body); code >= 500 || code == 200 && !(op == "rename" && strings.Contains(body, `"link"`)) {
				t.Errorf("%s %s: %d %s", op, body, code, answer)
			}
		}
	}
	if code, answer := s.ask("team", "DELETE", files, "", append(at("dir"), cloudapi.RecursiveHeader, "true")...); code != 200 {
		t.Errorf("remove a link: %d %s", code, answer)
	}
	if data, err := os.ReadFile(outside); string(data) != "outside" || err != nil {
		t.Errorf("outside is %q, %v", data, err)
	}
	if code, answer := s.ask("team", "PUT", files+"/content", "good", at("new/file")...); code != 200 {
		t.Errorf("write: %d %s", code, answer)
	}
	s.refused(400, "invalid_volume_path", "team", "PUT", files+"/content", strings.Repeat("x", 2<<20), at("new/file")...)
	if code, answer := s.ask("team", "GET", files+"/content", "", at("/new/file")...); code != 200 || answer != "good" {
		t.Errorf("what does not fit has changed it: %d %q", code, answer)
	}
	s.refused(404, "volume_file_not_found", "team", "GET", files+"/stat", "", at("none")...)
	s.refused(404, "volume_not_found", "team", "GET", "/v1/volumes/none/files", "")
}

// TestModifyConfined changes secrets: their values are taken and not said, and they are not the server's.
func TestModifyConfined(t *testing.T) {
	s := newSite(t)
	_, _ = s.ask("team", "POST", "/v1/sandboxes?start=true", `{"name":"a","image":{"type":"oci","reference":"host"}}`)
	const at = "/v1/sandboxes/by-name/a/modify"
	const env = `{"Secrets":[{"env_var":"A","source":{"kind":"env","var":"HOME"},"allowed_hosts":[{"exact":"x.com"}]}]}`
	if m := s.refused(400, "invalid_sandbox_config", "team", "POST", at, env); !strings.Contains(m, "secrets.entries[0].source") {
		t.Errorf("it says %s", m)
	}
	if len(s.kept.modified) > 0 {
		t.Fatalf("the server's environment was asked for: %+v", s.kept.modified)
	}
	if code, answer := s.ask(server.AllNamespaces, "POST", at, env, cloudapi.NamespaceHeader, "team"); code != 200 {
		t.Errorf("with a key for all: %d %s", code, answer)
	}
	code, answer := s.ask("team", "POST", at, `{"Secrets":[{"env_var":"A","allowed_hosts":[{"exact":"x.com"}]}],"values":{"A":"hush-value"}}`)
	if code != 200 || len(s.kept.modified) != 2 || s.kept.modified[1].Secrets[0].Value.Reveal() != "hush-value" {
		t.Errorf("a value: %d %s, %+v", code, answer, s.kept.modified)
	}
	if _, events := s.ask("team", "GET", "/v1/events", ""); strings.Contains(answer+events, "hush") {
		t.Errorf("%s %s", answer, events)
	}
}

// TestModifyLimited makes of a sandbox what its namespace may not have, and makes and redefines ones with too large disks.
func TestModifyLimited(t *testing.T) {
	s := newSiteOf(t, "", func(c *server.Config) { c.Limits = server.Limits{CPUs: 4, MemoryMiB: 2048, DiskMiB: 10 << 10} })
	const image = `"image":{"type":"oci","reference":"host"}`
	if code, answer := s.ask("team", "POST", "/v1/sandboxes?start=true", `{"name":"a",`+image+`,"resources":{"cpus":1,"memory_mib":256}}`); code != 200 {
		t.Fatalf("%d %s", code, answer)
	}
	const at = "/v1/sandboxes/by-name/a/modify"
	for _, body := range []string{`{"CPUs":5}`, `{"MaxCPUs":5}`, `{"MemoryMiB":2049}`, `{"MaxMemoryMiB":4096}`, `{"RootDiskMiB":10241}`, `{"CPUs":5,"policy":"restart"}`, `{"RootDiskMiB":10241,"policy":"next_start"}`} {
		if code, answer := s.ask("team", "POST", at, body); code != 429 {
			t.Errorf("%s: %d %s", body, code, answer)
		}
	}
	if len(s.kept.modified) > 0 {
		t.Errorf("modified: %+v", s.kept.modified)
	}
	for _, body := range []string{`{"CPUs":4}`, `{"Workdir":"/x"}`, `{"CPUs":5,"DryRun":true}`} {
		if code, answer := s.ask("team", "POST", at, body); code != 200 {
			t.Errorf("%s: %d %s", body, code, answer)
		}
	}
	if code, answer := s.ask("team", "POST", "/v1/sandboxes", `{"name":"b","image":{"type":"oci","reference":"host"},"resources":{"disk_size_mib":8192}}`); code != 429 {
		t.Errorf("a disk too large of what is not started: %d %s", code, answer)
	}
}

// TestImagesOfTheServer asks for the images of all namespaces with the key of one.
func TestImagesOfTheServer(t *testing.T) {
	s := newSite(t)
	for _, r := range []struct{ method, path, body string }{{"GET", "/v1/images", ""}, {"GET", "/v1/images/inspect?reference=x", ""}, {"DELETE", "/v1/images?reference=x&force=true", ""},
		{"POST", "/v1/images/prune", ""}, {"POST", "/v1/images/pull", `{"reference":"x","insecure":true}`}, {"POST", "/v1/images/pull", `{"reference":"x","ca_certs":["x"]}`}} {
		s.refused(403, "access_denied", "team", r.method, r.path, r.body)
		s.refused(400, "invalid_sandbox_config", server.AllNamespaces, r.method, r.path, r.body) // it has none
	}
}

// TestEventsOfBefore asks a server for what was changed before it began, and finds that once, by the same ID.
func TestEventsOfBefore(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	type page struct {
		Data       []event
		NextCursor *string `json:"next_cursor"`
	}
	read := func(s *site, as, query string) (p page) {
		t.Helper()
		code, answer := s.ask(as, "GET", "/v1/events?limit=100"+query, "")
		if err := json.Unmarshal([]byte(answer), &p); err != nil || code != 200 {
			t.Fatalf("%d %s", code, answer)
		}
		return p
	}
	first := newSiteOf(t, file)
	_, _ = first.ask("team", "POST", "/v1/sandboxes?start=true", `{"name":"a","image":{"type":"oci","reference":"host"}}`)
	_, _ = first.ask("team", "POST", "/v1/sandboxes?start=true", `{"name":"../x","image":{"type":"oci","reference":"host"}}`)
	_, _ = first.ask("other", "POST", "/v1/volumes", `{"name":"v"}`)
	before := read(first, "team", "")
	if len(before.Data) != 2 || before.Data[1].Type != "sandbox.create" || before.Data[1].Payload.Name != "a" || before.Data[0].Payload.OK || before.Data[0].Payload.Kind != sandbox.InvalidConfig {
		t.Fatalf("%+v", before)
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("{\"time\":\"torn\n\xff\n{\"msg\":\"audit\"}\n"); err != nil {
		t.Fatal(err)
	}
	f.Close()

	second := newSiteOf(t, file)
	_, _ = second.ask("team", "POST", "/v1/volumes", `{"name":"w"}`) // before the log is read
	after := read(second, "team", "")
	if len(after.Data) != 3 || after.Data[0].Type != "volume.create" || after.Data[0].Category != "volume" {
		t.Fatalf("%+v", after)
	}
	for i, e := range before.Data {
		a := after.Data[i+1]
		if a.ID != e.ID || !a.Timestamp.Equal(e.Timestamp) || a.Type != e.Type || a.Payload != e.Payload || a.OrgID != e.OrgID {
			t.Errorf("it was %+v, and is %+v", e, a)
		}
	}
	if code, answer := second.ask("team", "GET", "/v1/events/"+before.Data[1].ID, ""); code != 200 || !strings.Contains(answer, "sandbox.create") {
		t.Errorf("by its ID: %d %s", code, answer)
	}
	if got := read(second, "other", ""); len(got.Data) != 1 || got.Data[0].Type != "volume.create" {
		t.Errorf("those of another namespace: %+v", got)
	}
	at := after.Data[1].Timestamp.Format(time.RFC3339Nano)
	if got := read(second, "team", "&since="+at+"&until="+at); len(got.Data) != 1 || got.Data[0].ID != after.Data[1].ID {
		t.Errorf("at %s: %+v", at, got)
	}
	if got := read(second, "team", "&event_type=sandbox.create"); len(got.Data) != 2 {
		t.Errorf("by type: %+v", got)
	}
}

// TestDescribed looks for every route in the API's description.
func TestDescribed(t *testing.T) {
	s := server.New(server.Config{Backend: &kept{dir: t.TempDir()}})
	t.Cleanup(s.Close)
	described := map[string]bool{}
	for _, d := range api() {
		described[d.route] = true
	}
	routes := 0
	for _, r := range New(s).Routes() {
		method, path, ok := strings.Cut(r.Pattern, " ")
		if !ok || path == "/v1/openapi.json" {
			continue // of many methods: those of a sandbox, which are all asked for by their description
		}
		routes++
		if !described[method+" "+path] {
			t.Errorf("%s is not described", r.Pattern)
		}
	}
	if routes < 30 {
		t.Errorf("there are %d routes", routes)
	}
}

// FuzzPlace reads cursors of anybody.
func FuzzPlace(f *testing.F) {
	f.Add(place{1700000000, "name"}.String())
	f.Add("MTI=")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePlace(s)
		if err != nil {
			if sandbox.KindOf(err) != sandbox.InvalidCursor {
				t.Errorf("%v", err)
			}
			return
		}
		if p.String() != s {
			t.Errorf("%q became %q", s, p.String())
		}
	})
}

// TestCutter writes a text in pieces of every length: no character is torn, nothing is lost, and bytes that are no text come as bytes.
func TestCutter(t *testing.T) {
	const all = "aé€😀z\xff€\xe2\x82 \xf0\x9f"
	for size := 1; size <= len(all); size++ {
		var c cutter
		var text string
		var data []byte
		say := func(_ string, v any) error {
			o := v.(cloudapi.CellOutput)
			if o.Data == nil {
				o.Data = []byte(o.Text)
			}
			if o.Stream != "stdout" || o.Text != strings.ToValidUTF8(string(o.Data), "\uFFFD") {
				t.Errorf("pieces of %d: %+v", size, o)
			}
			text += o.Text
			data = append(data, o.Data...)
			return nil
		}
		for at := 0; at < len(all); at += size {
			if err := c.say(say, "stdout", []byte(all[at:min(at+size, len(all))]), false); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.say(say, "stdout", nil, true); err != nil {
			t.Fatal(err)
		}
		if want := "aé€😀z\uFFFD€\uFFFD \uFFFD"; string(data) != all || text != want {
			t.Errorf("pieces of %d: %q %q, want %q %q", size, data, text, all, want)
		}
	}
}

// TestBundle has values as a notebook has them.
func TestBundle(t *testing.T) {
	b := &agentclient.Bundle{Forms: []agentclient.Form{{MIME: "text/html", Data: []byte("<b>\xff")}, {MIME: "image/png", Data: []byte("\x89PNG")}, {MIME: "image/svg+xml", Data: []byte("<svg/>")},
		{MIME: "application/json", Data: []byte(`{"a": 1}`)}, {MIME: "application/x+json", Data: []byte("{")}, {MIME: "application/pdf"}}}
	data, err := json.Marshal(bundle(b))
	want := `{"application/json":{"a":1},"application/pdf":"","application/x+json":"{","image/png":"iVBORw==","image/svg+xml":"\u003csvg/\u003e","text/html":"\u003cb\u003e\ufffd"}`
	if have := strings.ReplaceAll(string(data), "\uFFFD", `\ufffd`); err != nil || have != want {
		t.Errorf("%s, %v; want %s", have, err, want)
	}
}

// TestCallsOfOthers has one namespace take back as many requests as it may: the others' are taken back all the same, and have names of
// their own.
func TestCallsOfOthers(t *testing.T) {
	s := newSite(t)
	last := 0
	for i := range keptCalls + 1 {
		last, _ = s.ask("team", "DELETE", fmt.Sprintf("/v1/requests/%d", i), "")
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("one more than are kept: %d", last)
	}
	if code, answer := s.ask("other", "DELETE", "/v1/requests/0", ""); code != 200 {
		t.Errorf("of another namespace: %d %s", code, answer)
	}
	const body = `{"name":"a","image":{"type":"oci","reference":"host"}}`
	if code, answer := s.ask("other", "POST", "/v1/sandboxes?start=true", body, cloudapi.RequestHeader, "1"); code != 200 {
		t.Errorf("a request that another namespace took back: %d %s", code, answer)
	}
	if code, answer := s.ask("team", "POST", "/v1/sandboxes?start=true", body, cloudapi.RequestHeader, "1"); code != 400 {
		t.Errorf("a request that was taken back: %d %s", code, answer)
	}
}

// TestEventsOfOthers has one namespace cause more events than are kept: the others' stay, in a server that goes on with its log, too.
func TestEventsOfOthers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	s := newSiteOf(t, file)
	_, _ = s.ask("other", "POST", "/v1/volumes", `{"name":"v"}`)
	for range keptEvents + 1 {
		_, _ = s.ask("team", "POST", "/v1/volumes", `{"name":"w"}`)
	}
	for _, s := range []*site{s, newSiteOf(t, file)} {
		var p struct{ Data []event }
		if code, answer := s.ask("other", "GET", "/v1/events", ""); code != 200 || json.Unmarshal([]byte(answer), &p) != nil || len(p.Data) != 1 || p.Data[0].Type != "volume.create" {
			t.Errorf("of another namespace: %d %s", code, answer)
		}
	}
}

// TestEventsAreBounded has many namespaces: who has most of them gives way.
func TestEventsAreBounded(t *testing.T) {
	var e events
	add := func(ns string, n int) {
		for range n {
			e.add(server.Audit{Ref: sandbox.Ref{Namespace: ns}})
		}
	}
	add("few", 3)
	for i := range keptEvents/keptOfOne + 5 {
		add(fmt.Sprint("many", i), keptOfOne+1)
	}
	n := 0
	for _, all := range e.all {
		n += len(all)
	}
	if n != keptEvents || e.n != n || len(e.of("few")) != 3 {
		t.Errorf("%d events, %d counted; %d of who has few", n, e.n, len(e.of("few")))
	}
}

// TestManyValues sends bodies that are short and make much, and one that is long and does not.
func TestManyValues(t *testing.T) {
	s := newSite(t)
	const begin = `{"name":"a","image":{"type":"oci","reference":"host"},`
	for name, body := range map[string]string{"mounts": begin + `"mounts":[` + strings.Repeat("{},", 1<<16) + `{}]}`, "nulls": begin + `"mounts":[` + strings.Repeat("null,", 1<<16) + `null]}`,
		"deep": begin + `"x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + "}"} {
		if code, answer := s.ask("team", "POST", "/v1/sandboxes?start=true", body); code != 400 || !strings.Contains(answer, "the body") {
			t.Errorf("%s: %d %s", name, code, answer)
		}
	}
	file := begin + `"patches":[{"type":"file","path":"/x","content":[` + strings.Repeat("7,", 1<<20) + `7]}]}`
	if code, answer := s.ask("team", "POST", "/v1/sandboxes?start=true", file); code != 200 || len(s.kept.asked) != 1 || len(s.kept.asked[0].Spec.Patches[0].Content) != 1<<20+1 {
		t.Errorf("a file: %d %.200s", code, answer)
	}
}
