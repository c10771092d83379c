package agent

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// kernels are the sessions of interpreters (see agentproto.KernelRun). They belong to the guest and not to a connection's
// client: who leaves loses its cells, not what they left behind.
type kernels struct {
	a *Agent

	mu      sync.Mutex
	all     map[kernelKey]*kernel
	live    map[*kernel]struct{} // those whose goroutine has not ended: all, and some that are closed
	waiting int                  // bytes of code that wait
	closed  bool
	running sync.WaitGroup // kernels
}

type kernelKey struct{ language, session string }

// Bounds of what clients may have the guest keep.
const (
	maxKernels = 32       // sessions
	maxQueue   = 64       // cells that wait for one
	maxWaiting = 16 << 20 // bytes of code that wait for all
	maxOutput  = 1 << 40  // bytes of output of a cell
)

// runCell puts a cell into the queue of its session, which begins with it if there is none.
func (a *Agent) runCell(id uint32, payload []byte) error {
	c := &cell{a: a, id: id, stop: make(chan stopReason, 1)}
	if err := agentproto.Decode(payload, &c.req); err != nil {
		return err
	}
	if c.req.Session == "" {
		c.req.Session = agentproto.DefaultSession
	}
	c.left = c.req.MaxOutput
	if c.left == 0 {
		c.left = agentproto.DefaultOutput
	}
	c.window.init(c.req.Window)
	if err := a.open(id, c); err != nil {
		return err
	}
	if failed := a.kernels.add(c); failed != nil {
		a.forget(id)
		a.running.Done()
		a.out.reply(id, agentproto.TypeKernelFailed, failed)
	}
	return nil
}

func badRequest(format string, args ...any) *agentproto.KernelFailed {
	return &agentproto.KernelFailed{Kind: agentproto.KernelBadRequest, Message: fmt.Sprintf(format, args...)}
}

// checkSession says what is wrong with the names in a request.
func checkSession(lang, session string) *agentproto.KernelFailed {
	if languageOf(lang) == nil {
		return badRequest("unsupported language %q: there are bash, node and python", clip(lang))
	}
	ok := len(session) <= agentproto.MaxSession
	for _, r := range session {
		ok = ok && (r == '.' || r == '_' || r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
	}
	if !ok {
		return badRequest("a session's name has up to %d letters, digits, dots, dashes and underscores", agentproto.MaxSession)
	}
	return nil
}

func clip(s string) string {
	const most = 40
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

func checkCell(r *agentproto.KernelRun) *agentproto.KernelFailed {
	switch {
	case len(r.Code) > agentproto.MaxCell:
		return badRequest("a cell has at most %d bytes of code, this one %d", agentproto.MaxCell, len(r.Code))
	case r.Language == "bash" && strings.IndexByte(r.Code, 0) >= 0:
		return badRequest("a NUL byte in the code")
	case r.MaxOutput > maxOutput:
		return badRequest("the bound of output is over %d bytes", uint64(maxOutput))
	case r.Echo != "" && r.Echo != agentproto.EchoLast && r.Echo != agentproto.EchoAll && r.Echo != agentproto.EchoNone:
		return badRequest("echo is one of last, all and none")
	}
	return checkSession(r.Language, r.Session)
}

// add queues a cell.
func (ks *kernels) add(c *cell) *agentproto.KernelFailed {
	if failed := checkCell(&c.req); failed != nil {
		return failed
	}
	ks.mu.Lock()
	defer ks.mu.Unlock()
	key := kernelKey{c.req.Language, c.req.Session}
	k := ks.all[key]
	switch {
	case ks.closed:
		return &agentproto.KernelFailed{Kind: agentproto.KernelGone, Message: "the guest is shutting down"}
	case k == nil && len(ks.live) >= maxKernels:
		return &agentproto.KernelFailed{Kind: agentproto.KernelTooMany, Message: fmt.Sprintf("there are %d sessions of interpreters: close one", maxKernels)}
	case k != nil && len(k.queue) >= maxQueue:
		return &agentproto.KernelFailed{Kind: agentproto.KernelTooMany, Message: fmt.Sprintf("%d cells wait for session %q of %s", maxQueue, key.session, key.language)}
	case ks.waiting+len(c.req.Code) > maxWaiting:
		return &agentproto.KernelFailed{Kind: agentproto.KernelTooMany, Message: fmt.Sprintf("more than %d bytes of code wait", maxWaiting)}
	}
	if k == nil {
		k = newKernel(ks, key, &c.req)
		if ks.all == nil {
			ks.all, ks.live = make(map[kernelKey]*kernel), make(map[*kernel]struct{})
		}
		ks.all[key], ks.live[k] = k, struct{}{}
		ks.running.Go(k.run)
	}
	c.kernel = k
	k.queue = append(k.queue, c)
	ks.waiting += len(c.req.Code)
	wake(k.more)
	return nil
}

// request acts on a session, or lists them.
func (ks *kernels) request(id uint32, payload []byte) error {
	var r agentproto.KernelRequest
	if err := agentproto.Decode(payload, &r); err != nil {
		return err
	}
	reply := func(failed *agentproto.KernelFailed) {
		if failed != nil {
			ks.a.out.reply(id, agentproto.TypeKernelFailed, failed)
			return
		}
		ks.a.out.reply(id, agentproto.TypeKernelResponse, &agentproto.KernelResponse{})
	}
	if r.Op == agentproto.KernelList {
		ks.a.out.reply(id, agentproto.TypeKernelResponse, ks.list())
		return nil
	}
	if r.Session == "" {
		r.Session = agentproto.DefaultSession
	}
	if failed := checkSession(r.Language, r.Session); failed != nil {
		reply(failed)
		return nil
	}
	ks.mu.Lock()
	k := ks.all[kernelKey{r.Language, r.Session}]
	ks.mu.Unlock()
	if k == nil {
		reply(&agentproto.KernelFailed{Kind: agentproto.KernelNoSession, Message: fmt.Sprintf("there is no session %q of %s", r.Session, r.Language)})
		return nil
	}
	switch r.Op {
	case agentproto.KernelInterrupt:
		if c := k.current(); c != nil {
			c.interrupt(stopAsked)
		}
		reply(nil)
	case agentproto.KernelRestart, agentproto.KernelClose:
		go func() { // who waits may have to be told so, and not read
			<-k.kill(r.Op == agentproto.KernelClose, false)
			reply(nil)
		}()
	default:
		reply(badRequest("unknown operation %q", clip(string(r.Op))))
	}
	return nil
}

func (ks *kernels) list() *agentproto.KernelResponse {
	all := &agentproto.KernelResponse{}
	ks.mu.Lock()
	for _, k := range ks.all {
		all.Kernels = append(all.Kernels, k.infoLocked())
	}
	ks.mu.Unlock()
	slices.SortFunc(all.Kernels, func(a, b agentproto.KernelInfo) int {
		return cmp.Or(strings.Compare(a.Language, b.Language), strings.Compare(a.Session, b.Session))
	})
	return all
}

// stop lets nothing begin any more. Sessions end when the cell that runs does. It does not wait.
func (ks *kernels) stop() {
	for _, k := range ks.stopAll() {
		go k.kill(true, k.current() != nil)
	}
}

// close ends every session and waits for their interpreters.
func (ks *kernels) close() {
	for _, k := range ks.stopAll() {
		k.kill(true, false)
	}
	ks.running.Wait()
}

func (ks *kernels) stopAll() []*kernel {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	ks.closed = true
	return slices.Collect(maps.Keys(ks.live))
}
