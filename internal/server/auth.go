package server

import (
	"context"
	"net/http"
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// AllNamespaces is the namespace of keys that may do everything.
const AllNamespaces = "*"

// Caller is who asks. The zero value may do nothing.
type Caller struct {
	Namespace string // whose sandboxes it may use; AllNamespaces is everybody's
	KeyID     string // of its key; "" in development mode
}

// All reports whether the caller may use the sandboxes of everybody.
func (c Caller) All() bool { return c.Namespace == AllNamespaces }

// May reports whether the caller may use the sandboxes of a namespace. To ask for those of all needs a key for all.
func (c Caller) May(namespace string) bool {
	return c.All() || c.Namespace != "" && c.Namespace == namespace
}

// Check is May as an error (contract server-v0.2 §1.5).
func (c Caller) Check(namespace string) error {
	if c.May(namespace) {
		return nil
	}
	return &Failure{Status: http.StatusForbidden, Code: CodeDenied, Message: "Access denied"}
}

type callerKey struct{}

// CallerOf is who asks in a request's context.
func CallerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// WithCaller is a context in which the caller asks.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// authenticate finds out who asks (contract server-v0.2 §1.4).
func (s *Server) authenticate(r *http.Request) (Caller, *Failure) {
	if s.cfg.Keys == nil {
		return Caller{Namespace: AllNamespaces}, nil
	}
	token := credential(r.Header)
	if !strings.HasPrefix(token, TokenPrefix) {
		return Caller{}, &Failure{Status: http.StatusUnauthorized, Code: CodeNoKey, Message: "Invalid credentials"}
	}
	c, err := s.cfg.Keys.Verify(token)
	if err != nil {
		f := &Failure{Status: http.StatusUnauthorized, Code: CodeBadKey, Message: "Invalid or expired token", Err: err}
		if k := sandbox.KindOf(err); k == sandbox.IO { // nobody's fault who asks
			f = FailureOf(err)
		}
		return Caller{}, f
	}
	return c, nil
}

// credential is what a request has for a key. Proxy-Authorization comes first, and alone.
func credential(h http.Header) string {
	for _, name := range []string{"Proxy-Authorization", "Authorization"} {
		if v := h.Get(name); v != "" {
			return strings.TrimPrefix(v, "Bearer ")
		}
	}
	return ""
}
