// Package remote keeps sandboxes at a server that speaks the control plane API (contract msb-0.6 §3): one of ours, or any other. What the
// API has no words for needs one of ours, which says so (cloudapi.Capabilities); elsewhere it is the typed error Unsupported.
package remote

import (
	"net/http"
	"sync"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
)

// Config says which server. The zero value of Client is one that takes proxies from the environment.
type Config struct {
	URL    string // http or https, without a slash at its end
	Key    string
	Client *http.Client // without a timeout: each call has its own
}

// Backend is the backend of one server. It implements backend.Backend.
type Backend struct {
	cfg Config

	mu    sync.Mutex
	known *cloudapi.Capabilities // nil until it was asked
}

var (
	_ backend.Backend        = (*Backend)(nil)
	_ backend.Finder         = (*Backend)(nil)
	_ backend.Volumes        = (*Backend)(nil)
	_ backend.LogReader      = (*Backend)(nil)
	_ backend.Meterer        = (*Backend)(nil)
	_ backend.Drainer        = (*Backend)(nil)
	_ backend.Modifier       = (*Backend)(nil)
	_ backend.Networker      = (*Backend)(nil)
	_ backend.Redefiner      = (*Backend)(nil)
	_ backend.Images         = (*Backend)(nil)
	_ backend.Renamer        = (*Backend)(nil)
	_ backend.VolumeEditor   = (*Backend)(nil)
	_ backend.VolumeFiles    = (*Backend)(nil)
	_ backend.DefaultVolumer = (*Backend)(nil)
)

// New returns the backend of a server. It asks it nothing yet.
func New(cfg Config) *Backend {
	if cfg.Client == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConnsPerHost = 16
		cfg.Client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return &Backend{cfg: cfg}
}

// Close gives back the connections that nobody uses.
func (b *Backend) Close() error {
	b.cfg.Client.CloseIdleConnections()
	return nil
}
