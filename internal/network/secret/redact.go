package secret

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
)

// Redactor keeps the values of sets out of what is logged, also those of sets that have been replaced. The zero value knows none.
type Redactor struct {
	mu   sync.Mutex
	sets atomic.Pointer[[]*Set]
}

// Add keeps the values of s out of what is logged from now on.
func (r *Redactor) Add(s *Set) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*Set
	if have := r.sets.Load(); have != nil {
		all = slices.Clone(*have)
	}
	if !s.Empty() {
		all = append(all, s)
		r.sets.Store(&all)
	}
}

func (r *Redactor) redact(text string) string {
	if sets := r.sets.Load(); sets != nil {
		for _, s := range *sets {
			text = s.Redact(text)
		}
	}
	return text
}

// Handler returns a handler that writes to h what it gets with every value replaced. Nothing here logs values; errors and
// messages of libraries, and words of far ends, might.
func (r *Redactor) Handler(h slog.Handler) slog.Handler { return &redactor{h, r} }

type redactor struct {
	slog.Handler
	of *Redactor
}

func (r *redactor) Handle(ctx context.Context, rec slog.Record) error {
	if r.of.sets.Load() == nil {
		return r.Handler.Handle(ctx, rec)
	}
	clean := slog.NewRecord(rec.Time, rec.Level, r.of.redact(rec.Message), rec.PC)
	rec.Attrs(func(a slog.Attr) bool {
		clean.AddAttrs(r.attr(a))
		return true
	})
	return r.Handler.Handle(ctx, clean)
}

func (r *redactor) WithAttrs(attrs []slog.Attr) slog.Handler {
	clean := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		clean[i] = r.attr(a)
	}
	return &redactor{r.Handler.WithAttrs(clean), r.of}
}

func (r *redactor) WithGroup(name string) slog.Handler {
	return &redactor{r.Handler.WithGroup(name), r.of}
}

func (r *redactor) attr(a slog.Attr) slog.Attr {
	v := a.Value.Resolve()
	switch v.Kind() {
	case slog.KindGroup:
		var group []slog.Attr
		for _, b := range v.Group() {
			group = append(group, r.attr(b))
		}
		return slog.Attr{Key: a.Key, Value: slog.GroupValue(group...)}
	case slog.KindString, slog.KindAny:
		text := v.String()
		if v.Kind() == slog.KindAny {
			text = fmt.Sprint(v.Any())
		}
		if clean := r.of.redact(text); clean != text {
			return slog.String(a.Key, clean)
		}
	}
	return a
}
