// Package cloudapi is the control plane API as data: what a server and its clients write to each other (contract msb-0.6 §3.2 to §3.5),
// and how that becomes a [sandbox.Spec], an [Error] a [sandbox.Error], and back.
//
// What the API has no words for (ports, a hostname, TLS, …) travels in an [Extension], which only servers that announce it understand
// (see [Capabilities]); all else is what every client and server of that API knows.
package cloudapi

import (
	"encoding/json"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Headers of ours and of the API.
const (
	// NamespaceHeader says whose sandboxes are meant, where the key is for those of all; the default is sandbox.DefaultNamespace.
	NamespaceHeader = "X-Msb-Namespace"
	// FilePathHeader is a path in a volume, base64url without padding; RecursiveHeader whether what is below is removed, too.
	FilePathHeader  = "X-Msb-File-Path"
	RecursiveHeader = "X-Msb-File-Recursive"
	// RequestHeader names a request, at most 64 bytes that nobody else thinks of, so that it can be taken back.
	RequestHeader = "X-Msb-Request"
)

// The states of a sandbox (contract msb-0.6 §3.4).
const (
	StatusCreated  = "created"
	StatusStarting = "starting"
	StatusRunning  = "running"
	StatusStopping = "stopping"
	StatusStopped  = "stopped"
	StatusFailed   = "failed"
)

// StatusOf is a state in the words of the API.
func StatusOf(s sandbox.Status) string {
	switch s {
	case sandbox.Draining:
		return StatusStopping
	case sandbox.Paused:
		return StatusRunning
	case sandbox.Crashed:
		return StatusFailed
	}
	return string(s)
}

// Status is the reverse of StatusOf (contract msb-0.6 §2.3).
func Status(s string) sandbox.Status {
	switch s {
	case StatusStopping:
		return sandbox.Draining
	case StatusFailed:
		return sandbox.Crashed
	}
	return sandbox.Status(s)
}

// Sandbox is one in an answer.
type Sandbox struct {
	ID          string      `json:"id"`
	OrgID       string      `json:"org_id"`
	Name        string      `json:"name"`
	Slug        string      `json:"slug"`
	Status      string      `json:"status"`
	Spec        *CreateBody `json:"spec"`
	Ephemeral   bool        `json:"ephemeral"`
	CreatedAt   time.Time   `json:"created_at"`
	StartedAt   *time.Time  `json:"started_at"`
	StoppedAt   *time.Time  `json:"stopped_at"`
	LastFailure *string     `json:"last_failure_message"`
	// Info is all that is recorded. Servers of ours say it.
	Info *sandbox.Info `json:"microsandbox,omitempty"`
}

// Page is a part of a list.
type Page[T any] struct {
	Data       []T     `json:"data"`
	NextCursor *string `json:"next_cursor"`
	HasMore    bool    `json:"has_more"`
}

// Message is the answer to a removal.
type Message struct {
	Message string `json:"message"`
}

// Volume is one in an answer.
type Volume struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Kind      string            `json:"kind"`    // host | managed
	Status    string            `json:"status"`  // active | deleting
	Storage   string            `json:"storage"` // block
	Used      *int64            `json:"used_bytes"`
	Capacity  *int64            `json:"capacity_bytes"`
	Labels    map[string]string `json:"labels"`
	CreatedAt time.Time         `json:"created_at"`
	UpdatedAt time.Time         `json:"updated_at"`
	Users     []sandbox.Ref     `json:"users,omitempty"` // ours
}

// The kinds of volumes: the one of the organisation, and all others.
const (
	VolumeHost    = "host"
	VolumeManaged = "managed"
)

// CreateVolume is the body that makes a volume.
type CreateVolume struct {
	Name        string            `json:"name"`
	Labels      map[string]string `json:"labels"`
	CapacityGiB *int              `json:"capacity_gib,omitempty"`
	CapacityMiB *int              `json:"capacity_mib,omitempty"` // ours
}

// UpdateVolume is the body that changes a volume. What is left out stays.
type UpdateVolume struct {
	CapacityGiB json.RawMessage   `json:"capacity_gib,omitempty"` // null is no limit
	CapacityMiB *int              `json:"capacity_mib,omitempty"` // ours; 0 is no limit
	Labels      map[string]string `json:"labels"`                 // in place of all there are; null leaves them
}

// Capacity is the limit that is asked for; nil is none, and 0 that there is to be no limit. Kind: InvalidConfig.
func (u UpdateVolume) Capacity() (*int, error) {
	var gib *int
	switch text := string(u.CapacityGiB); {
	case text == "":
		return nil, nil
	case text == "null":
		return new(int), nil
	}
	if err := json.Unmarshal(u.CapacityGiB, &gib); err != nil || *gib < 1 || *gib > sandbox.MaxQuotaMiB/1024 {
		return nil, &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "capacity_gib is out of bounds"}
	}
	return gib, nil
}

// FileInfo is what a volume's file API says of a file.
type FileInfo struct {
	Path       string     `json:"path"`
	Kind       string     `json:"kind"` // file | directory; a link is a file whose Mode says so
	Size       int64      `json:"size"`
	Mode       uint32     `json:"mode"`
	UID        uint32     `json:"uid"`
	GID        uint32     `json:"gid"`
	ReadOnly   bool       `json:"readonly"`
	AccessedAt *time.Time `json:"accessed_at"`
	ModifiedAt *time.Time `json:"modified_at"`
	CreatedAt  *time.Time `json:"created_at"`
}

// LogEvent is the data of an SSE event "log" (contract msb-0.6 §3.5).
type LogEvent struct {
	Source string `json:"source"`
	Time   string `json:"ts"`
	Text   string `json:"text"`
	// Ours: the bytes where they are no UTF-8, and the session.
	Data    []byte  `json:"data,omitempty"`
	Session *uint64 `json:"session,omitempty"`
}

// LogTime is how times of a log are written.
const LogTime = "2006-01-02T15:04:05.000Z07:00"

// Capabilities is what a server of ours says of itself.
type Capabilities struct {
	Server  string `json:"server"`
	Version string `json:"version"`
	// Extension is the version of what Extension, Sandbox.Info and the additional routes are; 0 is none.
	Extension int `json:"extension"`
}

// ExtensionVersion is the one of this package.
const ExtensionVersion = 1

// Extension is what a create body has for servers of ours.
type Extension struct {
	// Spec is the whole of what is asked for, in place of the fields of the API.
	Spec *sandbox.Spec `json:"spec,omitempty"`
	// Values are those of secrets, by their variables: a Spec does not write them.
	Values    map[string]string `json:"values,omitempty"`
	Startup   bool              `json:"startup,omitempty"`
	Replace   bool              `json:"replace,omitempty"`
	GraceMS   int64             `json:"grace_ms,omitempty"`
	Generated bool              `json:"generated,omitempty"`
}

// StartBody is the body of a start; its fields are ours.
type StartBody struct {
	Sole  bool `json:"sole,omitempty"`
	Quiet bool `json:"quiet,omitempty"`
}

// ModifyBody is the body of a modification; it is ours.
type ModifyBody struct {
	sandbox.Modification
	Policy sandbox.ModifyPolicy
	DryRun bool
	// Values are those of secrets, by their variables: a Secret does not write its own.
	Values map[string]string `json:"values,omitempty"`
}

// PullBody is the body of a pull; it is ours.
type PullBody struct {
	Reference string    `json:"reference"`
	Refresh   bool      `json:"refresh,omitempty"`  // ask the registry also where the image is there
	Insecure  bool      `json:"insecure,omitempty"` // plain HTTP, or a certificate of anybody
	Platform  string    `json:"platform,omitempty"`
	CACerts   []string  `json:"ca_certs,omitempty"` // more certificate authorities, PEM
	Auth      *PullAuth `json:"auth,omitempty"`     // instead of what the server knows
}

// PullAuth is what a registry knows a user by.
type PullAuth struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// StopBody is the body of a stop; its fields are ours. With Wait the answer comes when the sandbox has ended.
type StopBody struct {
	Force     bool  `json:"force,omitempty"`
	TimeoutMS int64 `json:"timeout_ms,omitempty"`
	Wait      bool  `json:"wait,omitempty"`
}

// content is the content of a patch: a text, or a list of bytes.
type content []byte

func (c *content) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		var list []uint8number
		if err := json.Unmarshal(b, &list); err != nil {
			return err
		}
		*c = make([]byte, len(list))
		for i, n := range list {
			(*c)[i] = byte(n)
		}
		return nil
	}
	var s string
	err := json.Unmarshal(b, &s)
	*c = content(s)
	return err
}

// uint8number is a byte that is written as a number: a []byte would be base64.
type uint8number uint8
