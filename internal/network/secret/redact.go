package secret

import (
	"context"
	"fmt"
	"log/slog"
)

// Handler returns a handler that writes to h what it gets with every value replaced. Nothing here logs values; errors and
// messages of libraries, and words of far ends, might.
func (s *Set) Handler(h slog.Handler) slog.Handler {
	if s.Empty() {
		return h
	}
	return &redactor{h, s}
}

type redactor struct {
	slog.Handler
	set *Set
}

func (r *redactor) Handle(ctx context.Context, rec slog.Record) error {
	clean := slog.NewRecord(rec.Time, rec.Level, r.set.Redact(rec.Message), rec.PC)
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
	return &redactor{r.Handler.WithAttrs(clean), r.set}
}

func (r *redactor) WithGroup(name string) slog.Handler {
	return &redactor{r.Handler.WithGroup(name), r.set}
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
		if clean := r.set.Redact(text); clean != text {
			return slog.String(a.Key, clean)
		}
	}
	return a
}
