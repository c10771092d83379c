// Package secret keeps values out of a sandbox that the sandbox works with. The guest has placeholders; what it sends is
// searched for them on its way out. Where a value may go, the placeholder is replaced; where it may not, the placeholder is
// a violation.
//
// A [Set] is made once from a [sandbox.Secrets] and the values. For each far end it gives a [Plan], which is applied to
// requests and streams. Nothing here leads a value anywhere but into the output of [Plan.Request] for a host that passed
// all of [Set.For]'s conditions: searching for violations is an alarm, not what keeps the values.
package secret

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Set is the secrets of one sandbox. It does not change, and any number of goroutines may use it.
type Set struct {
	list    []*secret // longest placeholder first: one may be the beginning of another
	matcher *matcher  // of all their literals; nil where there are none
}

type secret struct {
	env         string
	placeholder string
	value       string
	hosts       []sandbox.HostPattern
	needsTLS    bool
	violation   sandbox.ViolationAction

	headers, basic, query, body bool

	literals [][]byte // the forms of the placeholder that can be found by looking for them
	shown    []string // the forms of the value that a text might show
}

// New makes a set. values are in the order of s.Secrets; that the spec is valid was seen to before.
func New(s *sandbox.Secrets, values []string) (*Set, error) {
	set := &Set{}
	if s == nil {
		return set, nil
	}
	if len(values) != len(s.Secrets) {
		return nil, fmt.Errorf("%d secrets have %d values", len(s.Secrets), len(values))
	}
	for i, x := range s.Secrets {
		own := sandbox.ViolationAction{}
		if x.OnViolation != nil {
			own = *x.OnViolation
		}
		set.list = append(set.list, &secret{
			env: x.EnvVar, placeholder: x.Placeholder, value: values[i], hosts: x.AllowedHosts, needsTLS: x.NeedsTLS(),
			violation: own.Or(s.OnViolation),
			headers:   said(x.Injection.Headers, true), basic: said(x.Injection.BasicAuth, true),
			query: said(x.Injection.QueryParams, false), body: said(x.Injection.Body, false),
			literals: literals(x.Placeholder), shown: shown(values[i]),
		})
	}
	slices.SortStableFunc(set.list, func(a, b *secret) int { return len(b.placeholder) - len(a.placeholder) })
	if len(set.list) > 0 {
		set.matcher = newMatcher(set.list)
	}
	return set, nil
}

func said(b *bool, dflt bool) bool {
	if b == nil {
		return dflt
	}
	return *b
}

// Empty reports whether there are none.
func (s *Set) Empty() bool { return s == nil || len(s.list) == 0 }

// Redact replaces every value in text, so that what came from elsewhere can be shown.
func (s *Set) Redact(text string) string {
	if s.Empty() {
		return text
	}
	for _, x := range s.list {
		for _, form := range x.shown {
			text = strings.ReplaceAll(text, form, sandbox.SecretValue(form).String())
		}
	}
	return text
}

// shown returns the forms of a value in which a text might show it: as it is, as in URLs, and those of [literals], for what was
// sent in basic authentication is shown as base64 of which the value is a part.
func shown(value string) (forms []string) {
	if len(value) < minRedacted {
		return nil
	}
	add := func(f string) {
		if !slices.Contains(forms, f) {
			forms = append(forms, f)
		}
	}
	add(value)
	for _, f := range []string{url.QueryEscape(value), url.PathEscape(value), (&url.URL{Path: value}).EscapedPath()} {
		add(f)
		add(lowerPercent(f))
	}
	add(base64.StdEncoding.EncodeToString([]byte(value)))
	for _, l := range literals(value) {
		add(string(l))
	}
	return forms
}

// lowerPercent writes the digits of percent-encoding in lower case.
func lowerPercent(text string) string {
	b := []byte(text)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:i+3], bytes.ToLower(b[i+1:i+3]))
		}
	}
	return string(b)
}

// minRedacted is the length below which a value is likely to be found where it does not come from.
const minRedacted = 4

// Target is the far end of a connection, as far as is known of it.
type Target struct {
	Host string // whom the guest says it speaks to, lower case, no final dot; "" if it does not say
	// Pinned: this sandbox saw the name resolved to the address that it is connected to.
	Pinned bool
	// Verified: the far end has shown a certificate for Host that was verified.
	Verified bool
}

// Plan is what is to be done with what is sent to one target.
type Plan struct {
	host     string
	replace  []*secret          // those whose values may go there
	watch    []*secret          // those whose placeholders may not
	unproven map[*secret]string // of watch, those that name the host, and what is missing
	matcher  *matcher           // of all
}

// For returns the plan for a target. A value may go there if its host patterns match the name, the name was resolved to that
// address by this sandbox, and TLS has proved it, unless the secret does not ask for that.
func (s *Set) For(t Target) *Plan {
	p := &Plan{host: t.Host}
	if s.Empty() {
		return p
	}
	p.matcher = s.matcher
	for _, x := range s.list {
		match := func(h sandbox.HostPattern) bool { return h.Matches(t.Host) }
		switch {
		case t.Host != "" && t.Pinned && (t.Verified || !x.needsTLS) && slices.ContainsFunc(x.hosts, match):
			p.replace = append(p.replace, x)
		case x.violation.Action == sandbox.ViolationPassthrough && (len(x.violation.Hosts) == 0 || slices.ContainsFunc(x.violation.Hosts, match)):
		default:
			p.watch = append(p.watch, x)
			if t.Host != "" && slices.ContainsFunc(x.hosts, match) {
				p.lacks(x, t)
			}
		}
	}
	return p
}

// lacks notes why a value may not go to a host that its secret names.
func (p *Plan) lacks(x *secret, t Target) {
	if p.unproven == nil {
		p.unproven = map[*secret]string{}
	}
	p.unproven[x] = "the name was not resolved to this address here"
	if t.Pinned {
		p.unproven[x] = "TLS has not proved who it is"
	}
}

// Idle reports whether there is nothing to be done.
func (p *Plan) Idle() bool { return len(p.replace)+len(p.watch) == 0 }

// Watches reports whether there is a placeholder that must not be sent.
func (p *Plan) Watches() bool { return len(p.watch) > 0 }

// Violation is a placeholder that was sent where its value may not go. It is an error.
type Violation struct {
	Env    string // the secret's variable
	Host   string // where to; "" if the guest did not say
	Where  string // "a header", "the body", ...
	Lacks  string // what a host that may see the value has not shown; "" of other hosts
	Action string // one of sandbox.ViolationBlock and so on
}

// Error says it for people. There is no value in it.
func (v *Violation) Error() string {
	to := v.Host
	if to == "" {
		to = "an unnamed host"
	}
	if v.Env == "" {
		return fmt.Sprintf("what is sent to %s (%s) cannot be searched for secrets", to, v.Where)
	}
	text := fmt.Sprintf("secret %s may not go to %s (%s)", v.Env, to, v.Where)
	if v.Lacks != "" {
		text += ": " + v.Lacks
	}
	return text
}

func (p *Plan) violation(x *secret, where string) *Violation {
	action := x.violation.Action
	if action == sandbox.ViolationPassthrough { // to others than its hosts
		action = sandbox.ViolationBlockAndLog
	}
	return &Violation{Env: x.env, Host: p.host, Where: where, Lacks: p.unproven[x], Action: action}
}

// opaque is the violation of sending what cannot be searched. It never ends the sandbox: nothing was found.
func (p *Plan) opaque(where string) *Violation {
	return &Violation{Host: p.host, Where: where, Action: sandbox.ViolationBlockAndLog}
}

// replacer replaces placeholders of p's, as far as may allows it.
func (p *Plan) replacer(may func(*secret) bool) *strings.Replacer {
	var pairs []string
	for _, x := range p.replace {
		if may(x) {
			pairs = append(pairs, x.placeholder, x.value)
		}
	}
	if len(pairs) == 0 {
		return nil
	}
	return strings.NewReplacer(pairs...)
}
