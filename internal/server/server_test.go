package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The vectors of contract server-v0.2 §1.4.
const (
	vectorSecret = "0123456789abcdefghijklmnopqrstuv"
	vectorAll    = "msb_eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJleHAiOjQxMDI0NDQ4MDAsImlhdCI6MTcwMDAwMDAwMCwibmFtZXNwYWNlIjoiKiJ9.x1PghYhQ3G2YXTYvCFTQKF7CgYSn3N0n-bJ8V7izaOI"
	vectorTeam   = "msb_eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJleHAiOjQxMDI0NDQ4MDAsImlhdCI6MTcwMDAwMDAwMCwibmFtZXNwYWNlIjoidGVhbS1hIn0.rO_Rbhfm088UmxeSuHjgpFI6DiKLB2SnDRkXj3CBR2U"
)

func testKeys(t *testing.T) *Keys {
	t.Helper()
	home := t.TempDir()
	if err := SaveSecret(home, vectorSecret); err != nil {
		t.Fatal(err)
	}
	k, err := OpenKeys(home, "")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t *testing.T, method jwt.SigningMethod, key any, c jwt.MapClaims) string {
	t.Helper()
	s, err := jwt.NewWithClaims(method, c).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return TokenPrefix + s
}

func TestKeys(t *testing.T) {
	k := testKeys(t)
	for token, want := range map[string]string{vectorAll: "*", vectorTeam: "team-a"} {
		c, err := k.Verify(token)
		if err != nil || c.Namespace != want || len(c.KeyID) != 16 {
			t.Errorf("Verify(%s) = %+v, %v; want namespace %s", token, c, err, want)
		}
	}
	token, key, err := k.Make("team-b", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := k.Verify(token); err != nil || c.Namespace != "team-b" || c.KeyID != key.ID {
		t.Errorf("Verify(made) = %+v, %v", c, err)
	}
	if st, err := os.Stat(k.home + "/" + SecretFile); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the secret's mode is %v, %v", st.Mode(), err)
	}
	other, err := OpenKeys(k.home, "") // another process
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Revoke(key.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Verify(token); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("a revoked key: %v", err)
	}
	if again, _, err := k.Make("team-b", time.Hour); err != nil || again == token {
		t.Errorf("a key was made anew that is revoked: %v", err)
	}
	if err := SaveSecret(k.home, ""); err != nil {
		t.Fatal(err)
	}
	if other, err = OpenKeys(k.home, ""); err != nil {
		t.Fatal(err)
	}
	if _, _, err := other.Make("team-c", time.Hour); err != nil {
		t.Fatal(err)
	}
	all, err := other.All()
	states := map[string]int{}
	for _, key := range all {
		states[key.Namespace+" "+key.State(time.Now())]++
	}
	if want := map[string]int{"team-b revoked": 1, "team-b worthless": 1, "team-c active": 1}; err != nil || !maps.Equal(states, want) {
		t.Errorf("with another secret: %v, %v; want %v", states, err, want)
	}
}

func TestBadKeys(t *testing.T) {
	k := testKeys(t)
	secret := []byte(vectorSecret)
	now := time.Now().Unix()
	good := func() jwt.MapClaims { return jwt.MapClaims{"exp": now + 600, "iat": now, "namespace": "*"} }
	with := func(name string, v any) jwt.MapClaims {
		c := good()
		c[name] = v
		if v == nil {
			delete(c, name)
		}
		return c
	}
	if _, err := k.Verify(sign(t, jwt.SigningMethodHS256, secret, good())); err != nil {
		t.Fatalf("a good key: %v", err)
	}
	if _, err := k.Verify(sign(t, jwt.SigningMethodHS256, secret, with("exp", now-50))); err != nil {
		t.Errorf("a key that has expired within the leeway: %v", err)
	}
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, good()).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	last := vectorAll[len(vectorAll)-1]
	const b64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for name, token := range map[string]string{
		"another secret":         sign(t, jwt.SigningMethodHS256, []byte("x"), good()),
		"alg none":               TokenPrefix + none,
		"HS512":                  sign(t, jwt.SigningMethodHS512, secret, good()),
		"expired":                sign(t, jwt.SigningMethodHS256, secret, with("exp", now-61)),
		"no exp":                 sign(t, jwt.SigningMethodHS256, secret, with("exp", nil)),
		"no iat":                 sign(t, jwt.SigningMethodHS256, secret, with("iat", nil)),
		"no namespace":           sign(t, jwt.SigningMethodHS256, secret, with("namespace", nil)),
		"empty namespace":        sign(t, jwt.SigningMethodHS256, secret, with("namespace", "")),
		"a number for namespace": sign(t, jwt.SigningMethodHS256, secret, with("namespace", 1)),
		"a negative exp":         sign(t, jwt.SigningMethodHS256, secret, with("exp", -1)),
		"an audience":            sign(t, jwt.SigningMethodHS256, secret, with("aud", "x")),
		"another spelling":       vectorAll[:len(vectorAll)-1] + string(b64[strings.IndexByte(b64, last)+1]),
		"a line break":           vectorAll + "\n",
		"nothing":                TokenPrefix,
		"two parts":              TokenPrefix + "a.b",
	} {
		if c, err := k.Verify(token); err == nil {
			t.Errorf("%s: is good for %+v", name, c)
		}
	}
}

// ask is one request to a server with one route of each sort.
func ask(t *testing.T, s *Server, method, path string, header map[string]string, body string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = "127.0.0.1:5555"
	for k, v := range header {
		if k == "Host" {
			r.Host = v
			continue
		}
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Result()
}

func testServer(t *testing.T, cfg Config) *Server {
	s := New(cfg)
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			WriteFailure(w, r, FailureOf(err))
			return
		}
		fmt.Fprintf(w, "%s %d", CallerOf(r.Context()).Namespace, len(b))
	})
	s.Mount(Route{Pattern: "POST /keyed", Handler: echo}, Route{Pattern: "GET /public", Handler: echo, Public: true})
	return s
}

func TestGuard(t *testing.T) {
	keys := testKeys(t)
	for _, c := range []struct {
		name         string
		cfg          Config
		method, path string
		header       map[string]string
		body         string
		status       int
		want         string
	}{
		{"public", Config{Keys: keys}, "GET", "/public", nil, "", 200, " 0"},
		{"no key", Config{Keys: keys}, "POST", "/keyed", nil, "", 401, `{"code":1001,"error":"Invalid credentials"}`},
		{"no prefix", Config{Keys: keys}, "POST", "/keyed", map[string]string{"Authorization": "Bearer " + vectorAll[4:]}, "", 401, `{"code":1001,"error":"Invalid credentials"}`},
		{"lower case bearer", Config{Keys: keys}, "POST", "/keyed", map[string]string{"Authorization": "bearer " + vectorAll}, "", 401, `{"code":1001,"error":"Invalid credentials"}`},
		{"bad signature", Config{Keys: keys}, "POST", "/keyed", map[string]string{"Authorization": "Bearer " + vectorAll + "a"}, "", 401, `{"code":1004,"error":"Invalid or expired token"}`},
		{"a key", Config{Keys: keys}, "POST", "/keyed", map[string]string{"Authorization": "Bearer " + vectorTeam}, "abc", 200, "team-a 3"},
		{"a bare key", Config{Keys: keys}, "POST", "/keyed", map[string]string{"Authorization": vectorTeam}, "", 200, "team-a 0"},
		{"a key for proxies", Config{Keys: keys}, "POST", "/keyed", map[string]string{"Proxy-Authorization": "Bearer " + vectorTeam, "Authorization": "Bearer " + vectorAll}, "", 200, "team-a 0"},
		{"a bad key for proxies hides a good one", Config{Keys: keys}, "POST", "/keyed", map[string]string{"Proxy-Authorization": "Basic x", "Authorization": "Bearer " + vectorAll}, "", 401, `{"code":1001,"error":"Invalid credentials"}`},
		{"development", Config{}, "POST", "/keyed", nil, "", 200, "* 0"},
		{"rebinding", Config{}, "POST", "/keyed", map[string]string{"Host": "evil.example:5555"}, "", 421, `{"code":3001,"error":"this server is not evil.example:5555"}`},
		{"rebinding of a public route", Config{}, "GET", "/public", map[string]string{"Host": "evil.example"}, "", 421, `{"code":3001,"error":"this server is not evil.example"}`},
		{"localhost", Config{}, "POST", "/keyed", map[string]string{"Host": "localhost:1"}, "", 200, "* 0"},
		{"IPv6", Config{}, "POST", "/keyed", map[string]string{"Host": "[::1]:5555"}, "", 200, "* 0"},
		{"a name of its own", Config{Hosts: []string{"msb.example"}}, "POST", "/keyed", map[string]string{"Host": "MSB.example:5555"}, "", 200, "* 0"},
		{"a page of another site", Config{}, "POST", "/keyed", map[string]string{"Origin": "https://evil.example"}, "", 403, `{"code":3001,"error":"a page of another site may not ask this"}`},
		{"a page without an origin", Config{}, "POST", "/keyed", map[string]string{"Origin": "null"}, "", 403, `{"code":3001,"error":"a page of another site may not ask this"}`},
		{"a browser that says so", Config{}, "POST", "/keyed", map[string]string{"Sec-Fetch-Site": "cross-site"}, "", 403, `{"code":3001,"error":"a page of another site may not ask this"}`},
		{"a page of its own", Config{}, "POST", "/keyed", map[string]string{"Origin": "http://127.0.0.1:5555"}, "", 200, "* 0"},
		{"a page that may", Config{Origins: []string{"https://app.example"}}, "POST", "/keyed", map[string]string{"Origin": "https://app.example"}, "", 200, "* 0"},
		{"preflight", Config{Keys: keys, Origins: []string{"https://app.example"}}, "OPTIONS", "/keyed", map[string]string{"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}, "", 204, ""},
		{"preflight of another", Config{Keys: keys}, "OPTIONS", "/keyed", map[string]string{"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}, "", 403, ""},
		{"too much", Config{}, "POST", "/keyed", nil, strings.Repeat("x", MaxBody+1), 413, "Failed to buffer the request body: length limit exceeded"},
		{"as much as may be", Config{}, "POST", "/keyed", nil, strings.Repeat("x", MaxBody), 200, "* 2097152"},
		{"not found", Config{}, "GET", "/nothing", nil, "", 404, ""},
		{"another method", Config{}, "GET", "/keyed", nil, "", 405, ""},
		{"a slash too many", Config{}, "POST", "/keyed/", nil, "", 404, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp := ask(t, testServer(t, c.cfg), c.method, c.path, c.header, c.body)
			got, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != c.status || string(got) != c.want {
				t.Errorf("status %d, body %q; want %d, %q", resp.StatusCode, clip(string(got)), c.status, c.want)
			}
			if c.status == 405 && resp.Header.Get("Allow") == "" {
				t.Error("no Allow")
			}
			if c.status == 204 && resp.Header.Get("Access-Control-Allow-Origin") != "https://app.example" {
				t.Error("no Access-Control-Allow-Origin")
			}
			if len(resp.Header.Get("X-Request-Id")) != 16 {
				t.Errorf("X-Request-Id is %q", resp.Header.Get("X-Request-Id"))
			}
		})
	}
}

// TestStreamedBody has a body whose length nobody says.
func TestStreamedBody(t *testing.T) {
	s := testServer(t, Config{})
	r := httptest.NewRequest("POST", "/keyed", io.MultiReader(strings.NewReader(strings.Repeat("x", MaxBody)), strings.NewReader("y")))
	r.ContentLength, r.Host = -1, "localhost"
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != 413 {
		t.Errorf("status %d", w.Code)
	}
}

func TestRequestLog(t *testing.T) {
	var log, audit bytes.Buffer
	s := New(Config{Keys: testKeys(t), Log: slog.New(slog.NewJSONHandler(&log, nil)), Audit: slog.New(slog.NewJSONHandler(&audit, nil))})
	s.Mount(Route{Pattern: "POST /x/{rest...}", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		Operation(r.Context(), "test")
		Note(r.Context(), slog.String("sandbox", "a"))
		s.Audited(r.Context(), "start", sandbox.Ref{Namespace: "n", Name: "a"}, errors.New("no"))
	})})
	resp := ask(t, s, "POST", "/x/80~secret/y?token=secret", map[string]string{"Authorization": vectorTeam}, "code")
	var line, event map[string]any
	if err := json.Unmarshal(log.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(audit.Bytes(), &event); err != nil {
		t.Fatal(err)
	}
	if id := resp.Header.Get("X-Request-Id"); line["id"] != id || event["request"] != id {
		t.Errorf("request %s is %v in the log, %v in the audit log", id, line["id"], event["request"])
	}
	if key := KeyID(vectorTeam); line["key"] != key || event["key"] != key || event["as"] != "team-a" || event["ok"] != false {
		t.Errorf("log %v, audit %v", line, event)
	}
	if line["operation"] != "test" || line["sandbox"] != "a" || line["status"] != 200.0 {
		t.Errorf("log %v", line)
	}
	for _, secret := range []string{"secret\"", "secret/", vectorTeam, "code"} {
		if strings.Contains(log.String()+audit.String(), secret) {
			t.Errorf("the logs have %q: %s%s", secret, log.String(), audit.String())
		}
	}
}

// TestLogsAreBounded has what a client says of itself in a line of the logs cut short.
func TestLogsAreBounded(t *testing.T) {
	var log, audit bytes.Buffer
	var seen Audit
	s := New(Config{Keys: testKeys(t), Log: slog.New(slog.NewJSONHandler(&log, nil)), Audit: slog.New(slog.NewJSONHandler(&audit, nil))})
	s.ObserveAudit(func(a Audit) { seen = a })
	long := strings.Repeat("X", 60000)
	s.Mount(Route{Pattern: "/x", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ref := sandbox.Ref{Namespace: long, Name: sandbox.Name(long)}
		s.Audited(r.Context(), "create", ref, ref.Validate())
	})})
	ask(t, s, long, "/x", map[string]string{"Authorization": vectorTeam}, "")
	for _, b := range []*bytes.Buffer{&log, &audit} {
		if b.Len() == 0 || b.Len() > 2000 {
			t.Errorf("%d bytes are logged", b.Len())
		}
	}
	if n := len(seen.Ref.Name) + len(seen.Ref.Namespace) + len(seen.Failure); n > 400 || seen.Kind != sandbox.InvalidConfig {
		t.Errorf("%d bytes of %q are kept", n, seen.Kind)
	}
}

func TestDevelopmentListensOnLoopbackOnly(t *testing.T) {
	if l, err := New(Config{}).Listen(context.Background(), "0.0.0.0:0"); sandbox.KindOf(err) != sandbox.InvalidConfig {
		t.Errorf("listens on %v, %v", l, err)
	}
	l, err := New(Config{}).Listen(context.Background(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// TestNewSecret has letters and digits only, and never twice the same.
func TestNewSecret(t *testing.T) {
	a, b := newSecret(), newSecret()
	if a == b || len(a) != secretLen || base64.RawURLEncoding.EncodeToString([]byte(a)) == "" || strings.Trim(a, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") != "" {
		t.Errorf("secrets %q and %q", a, b)
	}
}
