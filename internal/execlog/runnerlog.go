package execlog

import (
	"bytes"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// maxSystemLine is how much of a line of runner.log is shown.
const maxSystemLine = 16 << 10

// parseRunner makes an entry of a line of runner.log. Lines of log/slog begin with their time; others (a crash) have that of
// the line before.
func parseRunner(b []byte, last time.Time) sandbox.LogEntry {
	e := sandbox.LogEntry{Time: last, Source: sandbox.LogSystem}
	if rest, ok := bytes.CutPrefix(b, []byte("time=")); ok {
		word, _, _ := bytes.Cut(rest, []byte(" "))
		if at, err := time.Parse(time.RFC3339, string(word)); err == nil {
			e.Time = at.UTC().Truncate(time.Millisecond)
		}
	}
	e.Data = append(bytes.Clone(b[:min(len(b), maxSystemLine)]), '\n')
	return e
}
