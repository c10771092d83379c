package cloudapi

import (
	"encoding/json"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// CreateBody asks for a sandbox, and says in answers what was asked for. What is left out has the default; unknown fields are nobody's
// concern (contract msb-0.6 §3.1, §3.4).
type CreateBody struct {
	Name            string            `json:"name"`
	Image           *Image            `json:"image,omitempty"`
	Resources       *Resources        `json:"resources,omitempty"`
	Runtime         *Runtime          `json:"runtime,omitempty"`
	Env             []sandbox.EnvVar  `json:"env"`
	Labels          map[string]string `json:"labels"`
	Rlimits         []sandbox.Rlimit  `json:"rlimits"`
	Mounts          []Mount           `json:"mounts"`
	Patches         []Patch           `json:"patches"`
	Network         *Network          `json:"network,omitempty"`
	Init            *Init             `json:"init,omitempty"`
	PullPolicy      string            `json:"pull_policy,omitempty"` // if_missing | always | never
	SecurityProfile string            `json:"security_profile,omitempty"`
	Lifecycle       *Lifecycle        `json:"lifecycle,omitempty"`
	Slug            *string           `json:"slug,omitempty"`
	Registry        *Registry         `json:"registry,omitempty"`
	Extension       *Extension        `json:"microsandbox,omitempty"`
}

// Image is where the root comes from.
type Image struct {
	Type      string `json:"type"` // oci | bind | disk_image
	Reference string `json:"reference,omitempty"`
	Path      string `json:"path,omitempty"`
}

// Resources are those of a sandbox.
type Resources struct {
	VCPUs       *int `json:"vcpus,omitempty"`
	MemoryMiB   *int `json:"memory_mib,omitempty"`
	DiskSizeMiB *int `json:"disk_size_mib,omitempty"`
}

// Runtime says how commands run.
type Runtime struct {
	Workdir    *string           `json:"workdir"`
	Shell      *string           `json:"shell"`
	Scripts    map[string]string `json:"scripts"`
	Entrypoint []string          `json:"entrypoint"`
	Cmd        []string          `json:"cmd"`
	User       *string           `json:"user"`
	LogLevel   *string           `json:"log_level"`
}

// Lifecycle bounds a life.
type Lifecycle struct {
	Ephemeral       bool `json:"ephemeral"`
	MaxDurationSecs *int `json:"max_duration_secs"`
	IdleTimeoutSecs *int `json:"idle_timeout_secs"`
}

// Mount is a file system below the root.
type Mount struct {
	Type               string               `json:"type"` // bind | named | tmpfs | disk_image
	Host               string               `json:"host,omitempty"`
	Name               string               `json:"name,omitempty"`
	Guest              string               `json:"guest"`
	SizeMiB            *int                 `json:"size_mib,omitempty"`
	Options            sandbox.MountOptions `json:"options"`
	StatVirtualization string               `json:"stat_virtualization,omitempty"`
	HostPermissions    string               `json:"host_permissions,omitempty"`
	QuotaMiB           *int                 `json:"quota_mib,omitempty"`
}

// Patch changes the root before the first boot.
type Patch struct {
	Type    string  `json:"type"`
	Path    string  `json:"path,omitempty"`
	Content content `json:"content,omitempty"`
	Mode    *uint32 `json:"mode,omitempty"`
	Replace bool    `json:"replace,omitempty"`
	Src     string  `json:"src,omitempty"`
	Dst     string  `json:"dst,omitempty"`
	Target  string  `json:"target,omitempty"`
	Link    string  `json:"link,omitempty"`
}

// MarshalJSON writes the content as the kind of patch has it.
func (p Patch) MarshalJSON() ([]byte, error) {
	type plain Patch
	o := struct {
		plain
		Content any `json:"content,omitempty"`
	}{plain: plain(p)}
	switch p.Type {
	case sandbox.PatchText, sandbox.PatchAppend:
		o.Content = string(p.Content)
	case sandbox.PatchFile:
		list := make([]uint16, len(p.Content))
		for i, b := range p.Content {
			list[i] = uint16(b)
		}
		o.Content = list
	}
	return json.Marshal(o)
}

// Network says what may be reached.
type Network struct {
	Enabled        *bool                  `json:"enabled,omitempty"`
	Policy         *sandbox.NetworkPolicy `json:"policy,omitempty"`
	Secrets        *Secrets               `json:"secrets,omitempty"`
	Strict         bool                   `json:"strict"`
	MaxConnections *int                   `json:"max_connections,omitempty"`
	// What clients of today refuse before they ask, and what is refused here by name, so that it is never dropped:
	Ports         json.RawMessage `json:"ports,omitempty"`
	DNS           json.RawMessage `json:"dns,omitempty"`
	TLS           json.RawMessage `json:"tls,omitempty"`
	Interface     json.RawMessage `json:"interface,omitempty"`
	RateLimiter   json.RawMessage `json:"rate_limiter,omitempty"`
	OutboundProxy json.RawMessage `json:"outbound_proxy,omitempty"`
	TrustHostCAs  bool            `json:"trust_host_cas,omitempty"`
}

// Secrets are values that never enter a sandbox.
type Secrets struct {
	Entries     []Secret   `json:"entries"`
	OnViolation *Violation `json:"on_violation,omitempty"`
}

// Secret is one of them. Answers have no Value.
type Secret struct {
	EnvVar             string            `json:"env_var"`
	Value              string            `json:"value"`
	Source             *Source           `json:"source,omitempty"`
	Placeholder        string            `json:"placeholder"`
	AllowedHosts       []HostPattern     `json:"allowed_hosts"`
	Injection          sandbox.Injection `json:"injection"`
	RequireTLSIdentity *bool             `json:"require_tls_identity,omitempty"`
	OnViolation        *Violation        `json:"on_violation,omitempty"`
}

// Source is where the server finds a value.
type Source struct {
	Type      string `json:"type"` // env | store
	Var       string `json:"var,omitempty"`
	Reference string `json:"reference,omitempty"`
}

// HostPattern is a name, or a pattern of names.
type HostPattern struct {
	Type  string `json:"type"` // exact | wildcard | any
	Value string `json:"value,omitempty"`
}

// Violation is what is done about a placeholder that goes where it may not.
type Violation struct {
	Type  string        `json:"type"` // block | block_and_log | block_and_terminate | passthrough
	Hosts []HostPattern `json:"hosts,omitempty"`
}

// Init is a program that is to be PID 1.
type Init struct {
	Cmd  string      `json:"cmd"`
	Args []string    `json:"args"`
	Env  [][2]string `json:"env"`
}

// Registry says who the registry is to know the puller as.
type Registry struct {
	Mode         string `json:"mode"` // auto | anonymous | inline | specific
	Username     string `json:"username,omitempty"`
	Password     string `json:"password,omitempty"`
	CredentialID string `json:"credential_id,omitempty"`
}
