package sandbox

import "time"

// LogSource says where an entry of a sandbox's log comes from (contract msb-0.6 §5.5).
type LogSource string

// The sources. What a session with a terminal prints is output; others have stdout and stderr. system is what the sandbox's
// supervisor says; boot-error is why the last start failed, as JSON, and always comes first.
const (
	LogStdout    LogSource = "stdout"
	LogStderr    LogSource = "stderr"
	LogOutput    LogSource = "output"
	LogSystem    LogSource = "system"
	LogBootError LogSource = "boot-error"
)

// DefaultLogSources are what programs in the guest printed.
var DefaultLogSources = []LogSource{LogStdout, LogStderr, LogOutput}

// LogEntry is one piece of output, as it came: not always a line, nor a whole one.
type LogEntry struct {
	Time    time.Time // to the millisecond
	Source  LogSource
	Session *uint64 // the exec session that printed it; nil for system
	Data    []byte  // hostile: a guest chooses it, control characters included
	Cursor  string  // to go on behind this entry (LogOptions.Cursor)
}

// LogOptions say which entries to read. The zero value is all that the DefaultLogSources have, until now.
type LogOptions struct {
	Sources []LogSource // nil: DefaultLogSources
	Since   time.Time   // entries from then on; zero: all
	Until   time.Time   // entries before then; zero: all
	Cursor  string      // entries behind the one that had it; "": from the beginning
	Tail    int         // only the last so many of those that are there now; 0: all
	Follow  bool        // wait for more, until the sandbox has ended and is not started again at once
}
