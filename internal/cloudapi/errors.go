package cloudapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The codes of contract msb-0.6 §3.2.
const (
	CodeNotFound       = "sandbox_not_found"
	CodeVolumeNotFound = "volume_not_found"
	CodeFileNotFound   = "volume_file_not_found"
	CodeExists         = "name_already_exists"
	CodeInvalid        = "invalid_request"
	CodeInvalidConfig  = "invalid_sandbox_config"
	CodeInvalidPath    = "invalid_volume_path"
	CodeState          = "invalid_state_transition"
	CodeUnreachable    = "orchestrator_unreachable"
	CodeFailed         = "nomad_job_failed"
	CodeKey            = "invalid_api_key"
	CodeDenied         = "access_denied"
	CodeBusy           = "rate_limited"
	CodeTooLarge       = "payload_too_large"
	CodeInUse          = "volume_in_use"
	CodeImageInUse     = "image_in_use"
	CodeUnsupported    = "unsupported"
	CodeInternal       = "internal_error"
)

// rows turn kinds into statuses and codes. The kind itself travels in the details, so that a client of ours has it back; the codes
// are for clients that know no details.
var rows = map[sandbox.Kind]struct {
	status int
	code   string
}{
	sandbox.NotFound:           {http.StatusNotFound, CodeNotFound},
	sandbox.VolumeNotFound:     {http.StatusNotFound, CodeVolumeNotFound},
	sandbox.PathNotFound:       {http.StatusNotFound, CodeFileNotFound},
	sandbox.AlreadyExists:      {http.StatusConflict, CodeExists},
	sandbox.VolumeExists:       {http.StatusConflict, CodeExists},
	sandbox.VolumeInUse:        {http.StatusConflict, CodeInUse},
	sandbox.ImageInUse:         {http.StatusConflict, CodeImageInUse},
	sandbox.StillRunning:       {http.StatusConflict, CodeState},
	sandbox.NotRunning:         {http.StatusConflict, CodeState},
	sandbox.Replaced:           {http.StatusConflict, CodeState},
	sandbox.InvalidConfig:      {http.StatusBadRequest, CodeInvalidConfig},
	sandbox.InvalidArgument:    {http.StatusBadRequest, CodeInvalid},
	sandbox.InvalidCursor:      {http.StatusBadRequest, CodeInvalid},
	sandbox.Unsupported:        {http.StatusBadRequest, CodeInvalidConfig},
	sandbox.PatchFailed:        {http.StatusBadRequest, CodeInvalidConfig},
	sandbox.ImageNotFound:      {http.StatusBadRequest, CodeInvalidConfig},
	sandbox.ImagePullFailed:    {http.StatusBadGateway, CodeFailed},
	sandbox.BootFailed:         {http.StatusBadGateway, CodeFailed},
	sandbox.Runtime:            {http.StatusBadGateway, CodeFailed},
	sandbox.LibraryNotLoaded:   {http.StatusBadGateway, CodeUnreachable},
	sandbox.Protocol:           {http.StatusBadGateway, CodeUnreachable},
	sandbox.Filesystem:         {http.StatusBadRequest, CodeInvalidPath},
	sandbox.MetricsDisabled:    {http.StatusConflict, CodeState},
	sandbox.MetricsUnavailable: {http.StatusConflict, CodeState},
	sandbox.Cancelled:          {http.StatusServiceUnavailable, CodeUnreachable},
}

// StatusCode is the HTTP status and the code of a kind.
func StatusCode(k sandbox.Kind) (int, string) {
	if r, ok := rows[k]; ok {
		return r.status, r.code
	}
	return http.StatusInternalServerError, CodeInternal
}

// Envelope is the body of an answer that is an error.
type Envelope struct {
	Error ErrorBody `json:"error"`
}

// ErrorBody says what went wrong.
type ErrorBody struct {
	Code    string   `json:"code"`
	Message string   `json:"message"`
	Details *Details `json:"details"`
}

// Details are for clients of ours.
type Details struct {
	Kind sandbox.Kind `json:"kind,omitempty"`
	Hint string       `json:"hint,omitempty"`
	// Detail is the message without the words of the kind.
	Detail string `json:"detail,omitempty"`
}

// Body is the body for an error, and its status.
func Body(err error) (int, Envelope) {
	kind := sandbox.KindOf(err)
	status, code := StatusCode(kind)
	e := Envelope{ErrorBody{Code: code, Message: err.Error()}}
	d := Details{Kind: kind, Hint: sandbox.HintOf(err)}
	var s *sandbox.Error
	if errors.As(err, &s) && s.Error() == err.Error() {
		d.Detail = s.Detail()
		if _, known := rows[kind]; known && d.Detail != "" { // clients say the words of the kind themselves
			e.Error.Message = d.Detail
		}
	}
	e.Error.Details = &d
	return status, e
}

// maxMessage is how much of a server's message is shown, in bytes.
const maxMessage = 4 << 10

// ErrorOf is the error that an answer with this status and body is, in the order of contract msb-0.6 §3.2. Volume says that it is the
// answer to a request for a volume; create, that it is one to make something.
func ErrorOf(op string, ref sandbox.Ref, status int, body []byte, volume, create bool) error {
	var nested Envelope
	var flat struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	code, message := "", ""
	if json.Unmarshal(body, &nested) == nil && nested.Error.Code+nested.Error.Message != "" {
		code, message = nested.Error.Code, nested.Error.Message
	} else if json.Unmarshal(body, &flat) == nil {
		code, message = flat.Code, flat.Message
	}
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + "…"
	}
	e := &sandbox.Error{Op: op, Ref: ref, Kind: kindOf(code, status, volume, create), Message: message}
	if d := nested.Error.Details; d != nil {
		if _, known := rows[d.Kind]; known {
			e.Kind = d.Kind
			if d.Detail != "" {
				e.Message = d.Detail
			}
		}
		e.Hint = d.Hint
	}
	if e.Kind == "" {
		e.Kind = sandbox.Runtime
		if status == http.StatusUnauthorized || status == http.StatusForbidden {
			e.Kind, e.Hint = sandbox.InvalidConfig, "look at the key: MSB_API_KEY, or the profile's"
		}
		e.Message = fmt.Sprintf("cloud HTTP %d: %s", status, message)
	}
	return e
}

func kindOf(code string, status int, volume, create bool) sandbox.Kind {
	switch code {
	case CodeNotFound:
		return sandbox.NotFound
	case CodeVolumeNotFound:
		return sandbox.VolumeNotFound
	case CodeFileNotFound:
		return sandbox.PathNotFound
	case CodeExists:
		if volume {
			return sandbox.VolumeExists
		}
		return sandbox.AlreadyExists
	case CodeInvalid, CodeInvalidConfig, CodeInvalidPath:
		return sandbox.InvalidConfig
	case CodeUnreachable, CodeFailed:
		return sandbox.Runtime
	case CodeInUse:
		return sandbox.VolumeInUse
	}
	switch {
	case status == http.StatusBadRequest || status == http.StatusUnprocessableEntity:
		return sandbox.InvalidConfig
	case status == http.StatusNotFound && volume:
		return sandbox.VolumeNotFound
	case status == http.StatusNotFound:
		return sandbox.NotFound
	case status == http.StatusConflict && create && volume:
		return sandbox.VolumeExists
	case status == http.StatusConflict && create:
		return sandbox.AlreadyExists
	case status == http.StatusBadGateway:
		return sandbox.Runtime
	}
	return ""
}
