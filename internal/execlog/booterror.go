package execlog

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// BootError is why a sandbox did not start (contract msb-0.6 §5.1).
type BootError struct {
	Time    time.Time `json:"t"`
	Stage   string    `json:"stage"` // mount, build_vm, config, network, image or other
	Errno   *int      `json:"errno"`
	Message string    `json:"message"`
}

// WriteBootError leaves e in a log directory, where it is read first until the sandbox starts.
func WriteBootError(dir string, e BootError) error {
	b, err := json.Marshal(e)
	if err == nil {
		err = atomicfile.Write(filepath.Join(dir, BootErrorFile), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("record why the sandbox did not start: %w", err)
	}
	return nil
}

// ClearBootError removes what WriteBootError left.
func ClearBootError(dir string) error {
	err := os.Remove(filepath.Join(dir, BootErrorFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// readBootError is the entry of what WriteBootError left, nil if there is none.
func readBootError(dir string) *sandbox.LogEntry {
	f, err := os.Open(filepath.Join(dir, BootErrorFile))
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLine))
	var e BootError
	if err != nil || json.Unmarshal(b, &e) != nil {
		return nil
	}
	return &sandbox.LogEntry{Time: e.Time, Source: sandbox.LogBootError, Data: b}
}
