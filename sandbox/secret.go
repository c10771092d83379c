package sandbox

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// Bounds of secrets (contract msb-0.6 §2.7).
const (
	MaxSecrets     = 64
	MaxSecretHosts = 64
	MaxPlaceholder = 1024    // bytes
	MaxSecretValue = 1 << 16 // bytes
)

// Secrets are values that never enter the sandbox. The guest has placeholders for them, which the runner replaces in what
// goes to the hosts that may see the values, and nowhere else.
type Secrets struct {
	Secrets     []Secret        `json:"secrets"`
	OnViolation ViolationAction `json:"on_violation"`
}

// Secret is one value, the variable by which the guest knows its placeholder, and who may see it.
type Secret struct {
	EnvVar string `json:"env_var"`
	// Value is for those who make a Spec in a program. It is never written: its JSON is "". With Source it is empty.
	Value        SecretValue   `json:"value"`
	Source       *SecretSource `json:"source,omitempty"`
	Placeholder  string        `json:"placeholder"` // default $MSB_<EnvVar>
	AllowedHosts []HostPattern `json:"allowed_hosts"`
	Injection    Injection     `json:"injection"`
	// RequireTLSIdentity, nil or true, wants TLS that was looked into and whose certificate was verified.
	RequireTLSIdentity *bool            `json:"require_tls_identity,omitempty"`
	OnViolation        *ViolationAction `json:"on_violation,omitempty"` // default that of Secrets
}

// NeedsTLS reports whether the value may only go where TLS has shown who is there.
func (s Secret) NeedsTLS() bool { return s.RequireTLSIdentity == nil || *s.RequireTLSIdentity }

// SecretSource says where the backend finds a value when a sandbox starts.
type SecretSource struct {
	Kind      string `json:"kind"` // SecretFromEnv or SecretFromStore
	Var       string `json:"var,omitempty"`
	Reference string `json:"reference,omitempty"`
}

// Kinds of a SecretSource: a variable of the backend's environment, an entry of its store.
const (
	SecretFromEnv   = "env"
	SecretFromStore = "store"
)

// SecretValue is a text that no log, error or record shows.
type SecretValue string

const hidden = "[secret]"

// Reveal returns the text.
func (v SecretValue) Reveal() string { return string(v) }

func (v SecretValue) String() string { return hidden }

// GoString is for %#v.
func (v SecretValue) GoString() string { return hidden }

// LogValue is for slog.
func (v SecretValue) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalJSON writes an empty text, as records have it (contract msb-0.6 §2.12).
func (v SecretValue) MarshalJSON() ([]byte, error) { return []byte(`""`), nil }

// Injection says where in a request a placeholder is replaced; nil is the default in the comment.
type Injection struct {
	Headers     *bool `json:"headers,omitempty"`      // true
	BasicAuth   *bool `json:"basic_auth,omitempty"`   // true
	QueryParams *bool `json:"query_params,omitempty"` // false
	Body        *bool `json:"body,omitempty"`         // false
}

// HostPattern matches names of hosts, whatever their case. The zero value matches none.
type HostPattern struct {
	Exact    string // one name or address
	Wildcard string // "*.x": x and all below it
	Any      bool
}

type hostPatternJSON struct {
	Exact    string `json:"exact,omitempty"`
	Wildcard string `json:"wildcard,omitempty"`
}

// ParseHostPattern reads a name, an address, *.DOMAIN or *.
func ParseHostPattern(s string) (HostPattern, error) {
	h := strings.ToLower(strings.TrimSuffix(s, "."))
	p := HostPattern{Exact: h}
	if s == "*" {
		return HostPattern{Any: true}, nil
	}
	if rest, ok := strings.CutPrefix(h, "*."); ok {
		p, h = HostPattern{Wildcard: h}, rest
	}
	if err := p.validate(); err != nil {
		return HostPattern{}, unreadable("host", s, "a name such as api.example.com or *.example.com")
	}
	return p, nil
}

func (p HostPattern) validate() error {
	name := p.Exact
	if p.Wildcard != "" {
		if name != "" || p.Any || !strings.HasPrefix(p.Wildcard, "*.") {
			return invalid("", "host pattern %q is not of the form *.example.com", clip(p.Wildcard))
		}
		name = p.Wildcard[2:]
	}
	if p.Any && name == "" {
		return nil
	}
	if _, err := netip.ParseAddr(name); err == nil && p.Wildcard == "" {
		return nil
	}
	if name == "" || len(name) > 253 || p.Any || strings.HasPrefix(name, ".") || strings.Contains(name, "..") ||
		strings.IndexFunc(name, func(c rune) bool { return c > 'z' || !isAlnum(byte(c)) && !strings.ContainsRune(".-_", c) }) >= 0 {
		return invalid("name one host, without scheme, port or path", "host pattern %q is no host", clip(name))
	}
	return nil
}

// Matches reports whether the pattern is about host.
func (p HostPattern) Matches(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	switch {
	case p.Any:
		return true
	case host == "":
		return false
	case p.Wildcard != "":
		apex := strings.ToLower(strings.TrimPrefix(p.Wildcard, "*."))
		return host == apex || strings.HasSuffix(host, "."+apex)
	}
	return host == strings.ToLower(strings.TrimSuffix(p.Exact, "."))
}

// String is the pattern as ParseHostPattern reads it.
func (p HostPattern) String() string {
	switch {
	case p.Any:
		return "*"
	case p.Wildcard != "":
		return p.Wildcard
	}
	return p.Exact
}

// MarshalJSON writes "any" or an object with one key.
func (p HostPattern) MarshalJSON() ([]byte, error) {
	if p.Any {
		return []byte(`"any"`), nil
	}
	return json.Marshal(hostPatternJSON{p.Exact, p.Wildcard})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (p *HostPattern) UnmarshalJSON(b []byte) error {
	*p = HostPattern{}
	if string(b) == `"any"` {
		p.Any = true
		return nil
	}
	var o hostPatternJSON
	if err := json.Unmarshal(b, &o); err != nil {
		return fmt.Errorf("host pattern: %w", err)
	}
	p.Exact, p.Wildcard = o.Exact, o.Wildcard
	return nil
}

// What is done about a placeholder that is sent where its value may not go.
const (
	ViolationBlock        = "block"
	ViolationBlockAndLog  = "block-and-log" // the default
	ViolationBlockAndStop = "block-and-terminate"
	ViolationPassthrough  = "passthrough" // the placeholder goes there as it is
)

// ViolationAction is one of these; Hosts are those that may see the placeholder (none: all). The zero value is the default.
type ViolationAction struct {
	Action string
	Hosts  []HostPattern
}

// Or returns a with what is not said taken from b.
func (a ViolationAction) Or(b ViolationAction) ViolationAction {
	if a.Action == "" {
		a = b
	}
	if a.Action == "" {
		a.Action = ViolationBlockAndLog
	}
	return a
}

type passthroughJSON struct {
	Passthrough struct {
		Hosts []HostPattern `json:"hosts"`
	} `json:"passthrough"`
}

// MarshalJSON writes the action's name, or an object with the hosts of a passthrough.
func (a ViolationAction) MarshalJSON() ([]byte, error) {
	a = a.Or(ViolationAction{})
	if len(a.Hosts) == 0 {
		return json.Marshal(a.Action)
	}
	var o passthroughJSON
	o.Passthrough.Hosts = a.Hosts
	return json.Marshal(o)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (a *ViolationAction) UnmarshalJSON(b []byte) error {
	*a = ViolationAction{}
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &a.Action)
	}
	var o passthroughJSON
	if err := json.Unmarshal(b, &o); err != nil {
		return fmt.Errorf("on_violation: %w", err)
	}
	a.Action, a.Hosts = ViolationPassthrough, o.Passthrough.Hosts
	return nil
}

func (a ViolationAction) validate() error {
	if a.Action == "" {
		return nil
	}
	if err := oneOf("on_violation", a.Action, ViolationBlock, ViolationBlockAndLog, ViolationBlockAndStop, ViolationPassthrough); err != nil {
		return err
	}
	if len(a.Hosts) > 0 && a.Action != ViolationPassthrough {
		return invalid("", "on_violation %s has hosts, which only %s may have", a.Action, ViolationPassthrough)
	}
	for _, h := range a.Hosts {
		if err := h.validate(); err != nil {
			return err
		}
	}
	return nil
}

// ParseSecret reads ENV@HOST[,HOST...]. The value is that of the variable ENV where the backend runs. Its errors do not
// repeat what they read: it may hold a value.
func ParseSecret(s string) (Secret, error) {
	bad := func(message, hint string) (Secret, error) {
		return Secret{}, &Error{Kind: InvalidArgument, Message: message, Hint: hint}
	}
	env, hosts, found := strings.Cut(s, "@")
	switch {
	case strings.Contains(env, "="):
		return bad("a secret's value does not belong on the command line", "put it into an environment variable, and name that: --secret ENV@HOST")
	case !found || env == "" || hosts == "":
		return bad("the secret is not of the form ENV@HOST[,HOST...]", "for example: --secret API_KEY@api.example.com")
	}
	sec := Secret{EnvVar: env, Source: &SecretSource{Kind: SecretFromEnv, Var: env}}
	for h := range strings.SplitSeq(hosts, ",") {
		p, err := ParseHostPattern(h)
		if err != nil {
			return bad("a host of the secret "+clip(env)+" is not a name such as api.example.com or *.example.com", "")
		}
		sec.AllowedHosts = append(sec.AllowedHosts, p)
	}
	return sec, nil
}

// SecretConf is a secret of a configuration file (contract msb-0.6 §1.6).
type SecretConf struct {
	Value              SecretValue `json:"value"` // default: the value of the variable of that name where the backend runs
	Allow              []string    `json:"allow"`
	Inject             []string    `json:"inject"` // headers, basic_auth, query_params, body; default the first two
	RequireTLSIdentity *bool       `json:"require_tls_identity"`
}

// Secret is the secret that a file has under a name.
func (c SecretConf) Secret(name string) (Secret, error) {
	s := Secret{EnvVar: name, Value: c.Value, RequireTLSIdentity: c.RequireTLSIdentity}
	if c.Value == "" {
		s.Source = &SecretSource{Kind: SecretFromEnv, Var: name}
	}
	for _, h := range c.Allow {
		p, err := ParseHostPattern(h)
		if err != nil {
			return Secret{}, err
		}
		s.AllowedHosts = append(s.AllowedHosts, p)
	}
	if c.Inject == nil {
		return s, nil
	}
	off := false
	s.Injection = Injection{Headers: &off, BasicAuth: &off}
	for _, where := range c.Inject {
		on := true
		switch where {
		case "headers":
			s.Injection.Headers = &on
		case "basic_auth":
			s.Injection.BasicAuth = &on
		case "query_params":
			s.Injection.QueryParams = &on
		case "body":
			s.Injection.Body = &on
		default:
			return Secret{}, unreadable("place of a secret", where, "headers, basic_auth, query_params or body")
		}
	}
	return s, nil
}

// withDefaults fills in the placeholders. s is not changed.
func (s *Secrets) withDefaults() *Secrets {
	if s == nil || len(s.Secrets) == 0 {
		return s
	}
	c := &Secrets{Secrets: append([]Secret{}, s.Secrets...), OnViolation: s.OnViolation.Or(ViolationAction{})}
	for i := range c.Secrets {
		if x := &c.Secrets[i]; x.Placeholder == "" {
			x.Placeholder = "$MSB_" + x.EnvVar
		}
	}
	return c
}

func (s *Secrets) validate() error {
	if s == nil {
		return nil
	}
	if len(s.Secrets) > MaxSecrets {
		return invalid("", "%d secrets are more than %d", len(s.Secrets), MaxSecrets)
	}
	if err := s.OnViolation.validate(); err != nil {
		return err
	}
	vars, placeholders := map[string]bool{}, map[string]bool{}
	for _, x := range s.Secrets {
		if err := x.validate(); err != nil {
			return err
		}
		if vars[x.EnvVar] || placeholders[x.Placeholder] {
			return invalid("name all its hosts in one: --secret ENV@HOST,HOST", "the secret %s or its placeholder is given twice", clip(x.EnvVar))
		}
		vars[x.EnvVar], placeholders[x.Placeholder] = true, true
	}
	return nil
}

func (s Secret) validate() error {
	if err := ValidateEnv(EnvVar{Key: s.EnvVar}); err != nil {
		return err
	}
	name := clip(s.EnvVar)
	switch {
	case strings.IndexFunc(s.EnvVar, func(c rune) bool { return c > 'z' || c != '_' && !isAlnum(byte(c)) }) >= 0:
		return invalid("use letters, digits and '_'", "the secret %q has no name that a program would look for", name)
	case s.Placeholder == "" || len(s.Placeholder) > MaxPlaceholder || strings.ContainsAny(s.Placeholder, "\x00\r\n") || !utf8.ValidString(s.Placeholder):
		return invalid("", "the placeholder of the secret %s is empty, longer than %d bytes, not UTF-8 or has NUL, CR or LF", name, MaxPlaceholder)
	case len(s.AllowedHosts) == 0:
		return invalid("for example: --secret "+name+"@api.example.com", "the secret %s has no host that may see it", name)
	case len(s.AllowedHosts) > MaxSecretHosts:
		return invalid("use a pattern such as *.example.com", "the secret %s has more than %d hosts", name, MaxSecretHosts)
	case len(s.Value) > MaxSecretValue:
		return invalid("", "the secret %s is larger than %d KiB", name, MaxSecretValue>>10)
	case s.Source != nil && s.Value != "":
		return invalid("", "the secret %s has a value and a source of it", name)
	}
	if src := s.Source; src != nil {
		if err := oneOf("the kind of source of a secret", src.Kind, SecretFromEnv, SecretFromStore); err != nil {
			return err
		}
		if src.Kind == SecretFromEnv && ValidateEnv(EnvVar{Key: src.Var}) != nil || src.Kind == SecretFromStore && src.Reference == "" {
			return invalid("", "the source of the secret %s names nothing", name)
		}
	}
	for _, h := range s.AllowedHosts {
		if err := h.validate(); err != nil {
			return err
		}
	}
	if s.OnViolation != nil {
		return s.OnViolation.validate()
	}
	return nil
}
