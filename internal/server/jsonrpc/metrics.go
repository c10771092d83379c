package jsonrpc

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/sandboxfile"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Metrics is what sandboxes use (contract server-v0.2 §1.7).
type Metrics struct {
	Sandboxes []Usage `json:"sandboxes"`
}

// Usage is what one sandbox uses; nil is not known, or it does not run. Members are in the order of their names.
type Usage struct {
	CPU       *float32 `json:"cpu_usage"`    // percent of one CPU
	Disk      *uint64  `json:"disk_usage"`   // bytes of its writable layer
	Memory    *uint64  `json:"memory_usage"` // MiB
	Name      string   `json:"name"`
	Namespace string   `json:"namespace"`
	Running   bool     `json:"running"`
}

func (v *Service) rpcMetrics(ctx context.Context, params json.RawMessage) (any, error) {
	namespace, name, err := ParseMetrics(params)
	if err != nil {
		return nil, server.Invalid("Invalid params for sandbox.metrics.get: %v", err)
	}
	return v.Metrics(ctx, namespace, name)
}

// ParseMetrics reads the parameters of sandbox.metrics.get; name "" is every sandbox.
func ParseMetrics(params json.RawMessage) (namespace string, name *string, err error) {
	var o object
	if err := json.Unmarshal(params, &o); err != nil || o == nil {
		return "", nil, errors.New("expected an object")
	}
	if namespace, err = o.namespace(); err == nil {
		err = o.take("sandbox", &name)
	}
	return namespace, name, err
}

// Metrics returns what the sandboxes of a namespace use, or of all ("*"), or one of them: those that run, those that are stopped,
// and those that are only written down.
func (v *Service) Metrics(ctx context.Context, namespace string, name *string) (Metrics, error) {
	if name != nil {
		if err := checkName("Sandbox name", *name, false); err != nil {
			return Metrics{}, err
		}
	}
	all := namespace == server.AllNamespaces
	if !all {
		if err := checkName("Namespace", namespace, false); err != nil {
			return Metrics{}, err
		}
	}
	if err := server.CallerOf(ctx).Check(namespace); err != nil {
		return Metrics{}, err
	}
	scope := namespace
	if all {
		scope = "" // of the backend: everybody's
	}
	infos, err := v.backend.List(ctx, scope)
	if err != nil {
		return Metrics{}, err
	}
	have := map[sandbox.Ref]sandbox.Info{}
	for _, i := range infos {
		have[i.Ref] = i
	}
	written, err := v.written(namespace, len(infos) > 0)
	if err != nil {
		return Metrics{}, err
	}
	for _, ref := range written {
		if _, ok := have[ref]; !ok {
			have[ref] = sandbox.Info{Ref: ref, Status: sandbox.Stopped}
		}
	}
	if name != nil {
		maps.DeleteFunc(have, func(ref sandbox.Ref, _ sandbox.Info) bool { return string(ref.Name) != *name })
		if len(have) == 0 && !all {
			return Metrics{}, &sandbox.Error{Op: "metrics", Kind: sandbox.NotFound, Message: *name}
		}
	}
	samples, err := v.samples(ctx, scope, have, name != nil)
	if err != nil {
		return Metrics{}, err
	}
	out := Metrics{Sandboxes: []Usage{}}
	refs := slices.SortedFunc(maps.Keys(have), func(a, b sandbox.Ref) int {
		return strings.Compare(a.Namespace+"/"+string(a.Name), b.Namespace+"/"+string(b.Name))
	})
	for _, ref := range refs {
		out.Sandboxes = append(out.Sandboxes, usageOf(have[ref], samples[ref]))
	}
	return out, nil
}

// samples are what the backend measured. For one sandbox it waits for the first.
func (v *Service) samples(ctx context.Context, scope string, have map[sandbox.Ref]sandbox.Info, wait bool) (map[sandbox.Ref]sandbox.Metrics, error) {
	m, ok := v.backend.(backend.Meterer)
	if !ok {
		return nil, nil
	}
	samples := map[sandbox.Ref]sandbox.Metrics{}
	if wait {
		for ref, info := range have {
			if sample, err := m.Metrics(ctx, ref); err == nil && !info.Status.Terminal() {
				samples[ref] = sample
			}
		}
		return samples, nil
	}
	all, err := m.AllMetrics(ctx, scope)
	for _, sample := range all {
		samples[sample.Ref] = sample
	}
	return samples, err
}

func usageOf(info sandbox.Info, m sandbox.Metrics) Usage {
	u := Usage{Namespace: info.Ref.Namespace, Name: string(info.Ref.Name), Running: info.Status == sandbox.Running || info.Status == sandbox.Draining}
	if !u.Running || m.State == "" || m.State == sandbox.MetricsExited {
		return u
	}
	cpu, memory := float32(m.CPUPercent), m.MemoryBytes
	if m.MemoryHostResidentBytes != nil {
		memory = *m.MemoryHostResidentBytes
	}
	memory >>= 20
	u.CPU, u.Memory, u.Disk = &cpu, &memory, m.UpperUsedBytes
	return u
}

// written are the sandboxes of the Sandboxfiles. known says that the namespace has others.
func (v *Service) written(namespace string, known bool) ([]sandbox.Ref, error) {
	namespaces := []string{namespace}
	if namespace == server.AllNamespaces {
		namespaces = nil
		entries, _ := os.ReadDir(v.server.Config().Namespaces) // where there is none nothing is written
		for _, e := range entries {
			if e.IsDir() && checkName("Namespace", e.Name(), false) == nil {
				namespaces = append(namespaces, e.Name())
			}
		}
	}
	var refs []sandbox.Ref
	for _, ns := range namespaces {
		f, err := sandboxfile.Load(sandboxfile.Path(v.dir(ns)))
		if err != nil {
			if _, serr := os.Stat(v.dir(ns)); namespace == ns && serr != nil && !known {
				return nil, server.Invalid("Namespace directory '%s' does not exist", ns)
			}
			continue // what cannot be read names none
		}
		for name := range f.Sandboxes {
			if checkName("Sandbox name", name, false) == nil {
				refs = append(refs, sandbox.Ref{Namespace: ns, Name: sandbox.Name(name)})
			}
		}
	}
	return refs, nil
}
