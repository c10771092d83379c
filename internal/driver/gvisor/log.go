package gvisor

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/log"
)

// redirectLog sends what gVisor's library logs in this process to l, once: its default is stderr.
var redirectLog = func() func(*slog.Logger) {
	var once sync.Once
	return func(l *slog.Logger) {
		once.Do(func() {
			log.SetLevel(log.Warning)
			log.SetTarget(emitter{l})
		})
	}
}()

type emitter struct{ l *slog.Logger }

// Emit implements log.Emitter.
func (e emitter) Emit(_ int, level log.Level, _ time.Time, format string, v ...any) {
	if e.l == nil {
		return
	}
	lv := slog.LevelDebug // gVisor's warnings are mostly advice on how it is installed
	e.l.Log(context.Background(), lv, "gvisor", "level", level.String(), "text", fmt.Sprintf(format, v...))
}
