// Package local keeps sandboxes on this machine: a runner process each, found again by their run directories. There is no
// daemon; any process with the same MSB_HOME sees the same sandboxes.
//
// A sandbox that is ephemeral is its run directory and nothing else. One that is kept has a record besides (state.DB) and a
// directory with its disk and logs. This package is the only writer of both; what the record says of a run is true while the
// lock of the run directory is held, and brought up to date by who finds it free (see settle).
package local

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cgroup"
	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/state"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Config says where things are.
type Config struct {
	Home   string // MSB_HOME, absolute
	Runner string // the msb-runner binary
	Agent  string // the msb-agent binary
	// Find finds those two, by their names, when one is needed that is not set; nil finds nothing.
	Find func(name string) (string, error)

	Settings config.File // what config.json says
	// ValuesKey says what values of secrets that are given inline are kept under, 32 bytes, until KeepValues does; nil, and a nil key,
	// keeps none.
	ValuesKey func() []byte
	// Warn is told what the user should know and what hinders nothing; nil is silence.
	Warn func(message string, lines ...string)
}

// Backend is the local backend. It implements backend.Backend.
type Backend struct {
	cfg   Config
	store state.Store
	sweep sync.Once
	// images opens the image store at its first call.
	images func() *images

	dbMu sync.Mutex
	db   *state.DB // nil until it is needed

	mu   sync.Mutex
	mine map[sandbox.Ref]*child // the runners that this process started and that still run
	// ends are the last sandboxes that ended under this process's eyes, the oldest first: ephemeral ones leave no record.
	ends []sandbox.Info

	account atomic.Bool // runs of ephemeral sandboxes are recorded
	values  atomic.Pointer[[]byte]
}

// New returns the backend of cfg.Home. It touches nothing.
func New(cfg Config) *Backend {
	b := &Backend{cfg: cfg, store: state.Store{Home: cfg.Home}, mine: map[sandbox.Ref]*child{}}
	b.images = sync.OnceValue(b.openImages)
	return b
}

var (
	_ backend.Backend = (*Backend)(nil)
	_ backend.Finder  = (*Backend)(nil)
)

// Close gives back what the backend holds. Sandboxes are not touched by it.
func (b *Backend) Close() error {
	b.dbMu.Lock()
	defer b.dbMu.Unlock()
	if b.db == nil {
		return nil
	}
	err := b.db.Close()
	b.db = nil
	return err
}

// Get returns what is recorded of one sandbox.
func (b *Backend) Get(ctx context.Context, ref sandbox.Ref) (sandbox.Info, error) {
	row, err := b.row(ref)
	if sandbox.KindOf(err) != sandbox.NotFound {
		return row.Info, err
	}
	return b.getEphemeral(ctx, ref)
}

// Find returns what is recorded of the sandbox with an ID.
func (b *Backend) Find(ctx context.Context, id string) (sandbox.Info, error) {
	missing := &sandbox.Error{Kind: sandbox.NotFound, Message: "there is none with this id"}
	db, err := b.recordsIfAny()
	if err != nil {
		return sandbox.Info{}, err
	}
	if db != nil {
		row, err := db.GetID(id)
		if err == nil {
			row, err = b.truth(db, row)
		}
		if sandbox.KindOf(err) != sandbox.NotFound {
			return row.Info, err
		}
	}
	records, err := b.store.List("")
	if err != nil {
		return sandbox.Info{}, err
	}
	for _, r := range records {
		if r.ID == id && r.Spec.Lifecycle.Ephemeral {
			return b.getEphemeral(ctx, r.Ref)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, info := range b.ends {
		if info.ID == id {
			return info, nil
		}
	}
	return sandbox.Info{}, missing
}

func (b *Backend) getEphemeral(ctx context.Context, ref sandbox.Ref) (sandbox.Info, error) {
	r, err := b.store.Get(ref)
	if sandbox.KindOf(err) != sandbox.NotFound && (err != nil || r.Status != sandbox.Crashed) {
		return r.Info, err
	}
	// An ephemeral sandbox that ended has no record, but we may have heard how it ended, or are about to.
	b.mu.Lock()
	c := b.mine[ref]
	b.mu.Unlock()
	if c != nil {
		select {
		case <-c.done:
			return c.result(), nil
		case <-ctx.Done():
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, info := range slices.Backward(b.ends) {
		if info.Ref == ref && (err != nil || info.ID == r.ID) {
			return info, nil
		}
	}
	return r.Info, err
}

// keptEnds is how many ends are remembered.
const keptEnds = 256

// ended notes how one of our runners ended.
func (b *Backend) ended(c *child) {
	if c.recorded.Load() {
		_ = b.settle(c.info.Ref) // or the next reader does it
	}
	if c.info.Spec.Lifecycle.Ephemeral {
		b.noteUse(c)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mine[c.info.Ref] == c {
		delete(b.mine, c.info.Ref)
	}
	close(c.settled)
	if !c.info.Spec.Lifecycle.Ephemeral {
		return
	}
	if len(b.ends) == keptEnds {
		b.ends = slices.Delete(b.ends, 0, 1)
	}
	info := c.result()
	info.Spec = sandbox.Spec{Name: info.Spec.Name, Resources: info.Spec.Resources, Lifecycle: info.Spec.Lifecycle} // not its files and variables
	b.ends = append(b.ends, info)
}

// List returns the sandboxes of a namespace, newest first.
func (b *Backend) List(_ context.Context, namespace string) ([]sandbox.Info, error) {
	records, err := b.store.List(namespace)
	if err != nil {
		return nil, err
	}
	infos, err := b.keptInfos(namespace)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		if r.Spec.Lifecycle.Ephemeral {
			infos = append(infos, r.Info)
		}
	}
	slices.SortFunc(infos, func(x, y sandbox.Info) int {
		return cmp.Or(y.CreatedAt.Compare(x.CreatedAt), cmp.Compare(x.Ref.Name, y.Ref.Name))
	})
	return infos, nil
}

// RunDir is the run directory of ref.
func (b *Backend) RunDir(ref sandbox.Ref) string { return b.store.Path(ref) }

// Dial connects to the relay of a running sandbox.
func (b *Backend) Dial(ctx context.Context, ref sandbox.Ref) (net.Conn, error) {
	conn, err := dialRunDir(ctx, b.store.Path(ref))
	if err == nil {
		return conn, nil
	}
	info, gerr := b.Get(ctx, ref)
	if gerr != nil {
		return nil, gerr
	}
	if info.Status != sandbox.Running {
		return nil, notRunning(ref, info.Status)
	}
	return nil, &sandbox.Error{Op: "connect", Ref: ref, Kind: sandbox.Runtime, Message: "connect to the sandbox's relay", Err: err}
}

func notRunning(ref sandbox.Ref, s sandbox.Status) error {
	return sandbox.Info{Ref: ref, Status: s}.NotRunning("")
}

// Sweep removes what dead sandboxes left on this machine, and records how kept ones ended. It is done once per process;
// every command does it.
func (b *Backend) Sweep() {
	b.sweep.Do(func() {
		dead, _ := b.store.Sweep()
		_ = cgroup.Sweep(b.cfg.Home, b.store.Live)
		for _, ref := range dead {
			_ = b.settle(ref)
		}
	})
}

// newID returns a random UUID (RFC 9562, version 4).
func newID() string {
	var u [16]byte
	_, _ = rand.Read(u[:])
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
