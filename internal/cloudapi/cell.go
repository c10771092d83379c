package cloudapi

// CellBody is what runs code in a session of an interpreter; all but Code may be left out. Routes of interpreters are ours.
type CellBody struct {
	Code           *string `json:"code"`
	TimeoutMS      int64   `json:"timeout_ms,omitempty"`       // 0 is no limit
	Echo           string  `json:"echo,omitempty"`             // last (default) | all | none
	MaxOutputBytes int64   `json:"max_output_bytes,omitempty"` // 0 is 10 MiB
}

// CellStarted is the data of an SSE event "started": the code's turn has come.
type CellStarted struct {
	Cell  int  `json:"cell"`  // its number in the session, from 1
	Fresh bool `json:"fresh"` // nothing of earlier code is there
}

// CellOutput is the data of an SSE event "output": what was written to a stream, or a value that was shown.
type CellOutput struct {
	Stream string `json:"stream,omitempty"` // stdout | stderr
	Text   string `json:"text,omitempty"`
	Data   []byte `json:"data,omitempty"` // the bytes, where they are no UTF-8
	// Result is the value by MIME types, as in a notebook (nbformat 4): text/*, XML and scripts are strings, JSON is itself, and
	// everything else is base64.
	Result map[string]any `json:"result,omitempty"`
}

// CellDone is the data of an SSE event "done", the last one.
type CellDone struct {
	Status    string     `json:"status"` // ok | error | exit | timeout | interrupted | died
	ExitCode  int        `json:"exit_code"`
	Error     *CellError `json:"error"`         // what it threw
	StateLost bool       `json:"state_lost"`    // the next code begins with nothing
	Dropped   uint64     `json:"dropped_bytes"` // of output, beyond max_output_bytes
}

// CellError is what code threw. Its traceback is on stderr.
type CellError struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// CellResult is all that code did, in one answer.
type CellResult struct {
	CellStarted
	CellDone
	Outputs []CellOutput `json:"outputs"`
}

// Interpreter is one session of an interpreter.
type Interpreter struct {
	Language string `json:"language"`
	Session  string `json:"session"`
	PID      uint32 `json:"pid"` // in the guest; 0 when none runs
	Cells    uint32 `json:"cells"`
	Queued   uint32 `json:"queued"`
	Busy     bool   `json:"busy"`
}
