package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The codes of failures (contract server-v0.2 §1.5).
const (
	CodeNoKey    = 1001
	CodeBadKey   = 1004
	CodeInvalid  = 2001
	CodeDenied   = 3001
	CodeNotFound = 4001
	CodeBusy     = 4291 // ours
	CodeInternal = 5002
)

// Failure is why a request is not answered. It is an error.
type Failure struct {
	Status  int // of HTTP
	Code    int // 0 is none
	Message string
	Hint    string
	Retry   time.Duration // after which it may go better; 0 says nothing
	Err     error         // the cause, for the log
}

func (f *Failure) Error() string { return f.Message }

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// Invalid is the failure of a request that makes no sense.
func Invalid(format string, args ...any) *Failure {
	return &Failure{Status: http.StatusBadRequest, Code: CodeInvalid, Message: fmt.Sprintf(format, args...)}
}

// FailureOf is what contract server-v0.2 §1.5 makes of an error, with the true message. Who has to be told something else than
// 500 for what is not there says so with a Failure.
func FailureOf(err error) *Failure {
	var f *Failure
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &big):
		return &Failure{Status: http.StatusRequestEntityTooLarge, Message: "Failed to buffer the request body: length limit exceeded", Err: err}
	}
	f = &Failure{Status: http.StatusInternalServerError, Code: CodeInternal, Message: err.Error(), Hint: sandbox.HintOf(err), Err: err}
	switch sandbox.KindOf(err) {
	case sandbox.InvalidConfig, sandbox.InvalidArgument, sandbox.Unsupported:
		f.Status, f.Code = http.StatusBadRequest, CodeInvalid
	}
	return f
}

// WriteFailure writes {"error": message, "code": code} (contract server-v0.2 §1.5).
func WriteFailure(w http.ResponseWriter, _ *http.Request, f *Failure) {
	f.Headers(w.Header())
	if f.Status == http.StatusRequestEntityTooLarge || f.Status == http.StatusUnsupportedMediaType { // the framework's own: §1.3
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(f.Status)
		_, _ = w.Write([]byte(f.Message))
		return
	}
	var code *int
	if f.Code != 0 {
		code = &f.Code
	}
	WriteJSON(w, f.Status, map[string]any{"error": f.Message, "code": code})
}

// Headers sets those that belong to the failure in any protocol.
func (f *Failure) Headers(h http.Header) {
	if f.Retry > 0 {
		h.Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(f.Retry.Seconds())))))
	}
	if f.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	if f.Status == http.StatusRequestEntityTooLarge {
		h.Set("Connection", "close")
	}
}

// WriteJSON writes v, whose keys are sorted where it is a map.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	out := &jsonAnswer{w: w, status: status}
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil && !out.begun {
		out.status = http.StatusInternalServerError
		_, _ = out.Write([]byte(`{"code":5002,"error":"Internal server error"}`))
	}
}

// jsonAnswer begins an answer with the first that is written of it. An encoder writes a value at once, and nothing of one that is none.
type jsonAnswer struct {
	w      http.ResponseWriter
	status int
	begun  bool
}

func (a *jsonAnswer) Write(p []byte) (int, error) {
	if !a.begun {
		a.begun = true
		a.w.Header().Set("Content-Type", "application/json")
		a.w.Header().Set("Cache-Control", "no-store")
		a.w.WriteHeader(a.status)
	}
	if _, err := a.w.Write(bytes.TrimSuffix(p, []byte("\n"))); err != nil {
		return 0, err
	}
	return len(p), nil
}
