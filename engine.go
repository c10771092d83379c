package microsandbox

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/backend/local"
	"github.com/microsandbox-go/microsandbox/internal/backend/remote"
	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// engine is the backend of one MSB_HOME, or of one cloud. There is one for each that this process has used, because a backend
// knows which sandboxes end with the process.
type engine struct {
	set config.Settings
	at  config.Selection

	mu       sync.Mutex
	b        backend.Backend
	complete bool            // b has what it takes to start sandboxes
	before   backend.Backend // what was b before it had; nil if there was none
}

var engines struct {
	sync.Mutex
	byHome map[string]*engine
}

// open returns the engine that the environment selects (contract msb-0.6 §1.5).
func open() (*engine, error) {
	home, err := config.Home()
	if err != nil {
		return nil, err
	}
	key := home + "\x00" + os.Getenv(config.FileVar)
	engines.Lock()
	defer engines.Unlock()
	e := engines.byHome[key]
	if e == nil {
		set, err := config.Read()
		if err != nil {
			return nil, err
		}
		e = &engine{set: set, at: config.Selection{Kind: config.Local}}
		merge(&engines.byHome, map[string]*engine{key: e})
	}
	sel, err := e.set.File.Select()
	if err != nil || sel.Kind == config.Local {
		return e, err
	}
	key += "\x00" + sel.URL + "\x00" + string(sel.Key)
	if cloud := engines.byHome[key]; cloud != nil {
		return cloud, nil
	}
	e = &engine{set: e.set, at: sel, b: remote.New(remote.Config{URL: sel.URL, Key: string(sel.Key)}), complete: true}
	engines.byHome[key] = e
	return e, nil
}

// kind says where the engine's sandboxes live.
func (e *engine) kind() BackendKind { return BackendKind(e.at.Kind) }

// manage returns the backend for whatever starts no sandbox.
func (e *engine) manage() backend.Backend {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.b == nil && e.complement() != nil { // what is missing is missed when a sandbox is to be started
		e.b = local.New(local.Config{Home: e.set.Home, Settings: e.set.File})
	}
	return e.b
}

// starter returns the backend for starting sandboxes. Kind: LibraryNotLoaded.
func (e *engine) starter() (backend.Backend, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.complete {
		if err := e.complement(); err != nil {
			return nil, err
		}
	}
	return e.b, nil
}

// complement makes b one that can start sandboxes. A backend before it has started none; who uses it goes on with it.
func (e *engine) complement() error {
	runner, agent, err := e.binaries()
	if err != nil {
		return err
	}
	if e.b != nil {
		e.before = e.b
	}
	e.b, e.complete = local.New(local.Config{Home: e.set.Home, Settings: e.set.File, Runner: runner, Agent: agent}), true
	return nil
}

// binaries finds the programs that sandboxes need.
func (e *engine) binaries() (runner, agent string, err error) {
	if runner, err = config.FindBinary(config.Runner, e.set.Home); err == nil {
		agent, err = config.FindBinary(config.Agent, e.set.Home)
	}
	if err != nil {
		return "", "", missing(err)
	}
	return runner, agent, nil
}

// capable returns the backend as what only some can do. Kind: Unsupported.
func capable[T any](e *engine, what string) (T, error) {
	t, ok := e.manage().(T)
	if !ok {
		return t, unsupported(what, "use a local backend")
	}
	return t, nil
}

// get is what is recorded of a sandbox. With an id, it has to be the one that had it. Kinds: NotFound, Replaced.
func (e *engine) get(ctx context.Context, ref sandbox.Ref, id string) (sandbox.Info, error) {
	info, err := e.manage().Get(ctx, ref)
	if err == nil && id != "" && info.ID != id {
		return info, e.replaced(ref, id, info.ID)
	}
	return info, err
}

func (e *engine) replaced(ref sandbox.Ref, want, have string) error {
	return &sandbox.Error{Ref: ref, Kind: sandbox.Replaced, Message: fmt.Sprintf("'%s' is another sandbox by now (expected %s, found %s)", ref.Name, e.publicID(want), e.publicID(have)),
		Hint: "get it again with GetSandbox"}
}

// publicID is a sandbox's ID as the contract has it.
func (e *engine) publicID(id string) string { return string(e.kind()) + ":" + id }

// BackendKind says where sandboxes live.
type BackendKind string

// The kinds of backends.
const (
	BackendLocal   BackendKind = "local"
	BackendCloud   BackendKind = "cloud"
	BackendUnknown BackendKind = "unknown"
)

// BackendInfo describes the backend that the environment and config.json select. It never holds a key.
type BackendInfo struct {
	Kind    BackendKind `json:"kind"`
	APIURL  string      `json:"api_url,omitempty"`
	Source  string      `json:"source"` // what selected it: MSB_BACKEND, MSB_PROFILE, active_profile or default
	Profile string      `json:"profile,omitempty"`
}

// DefaultBackendInfo returns the backend that calls go to. Kind: ErrInvalidConfig.
func DefaultBackendInfo() (BackendInfo, error) {
	set, err := config.Read()
	if err != nil {
		return BackendInfo{}, wrap(err)
	}
	sel, err := set.File.Select()
	if err != nil {
		return BackendInfo{}, wrap(err)
	}
	return BackendInfo{Kind: BackendKind(sel.Kind), APIURL: sel.URL, Source: sel.Source, Profile: sel.Profile}, nil
}
