package gvisor

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
)

// sayMost is how much of what the agent writes to its own standard output and error is logged, in bytes. It has nothing
// to say there but how it crashed.
const sayMost = 16 << 10

// stdioMu guards the process's standard files, which gVisor hands to its children as those of the guest's first process.
var stdioMu sync.Mutex

// withStdio runs f with standard files that are pipes: gVisor changes the owner of those that it is given, and ours may be
// /dev/null. What comes out is logged.
func withStdio(l *slog.Logger, f func()) error {
	inR, inW, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make the guest's standard input: %w", err)
	}
	defer inR.Close()
	inW.Close() // an empty input
	outR, outW, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make the guest's standard output: %w", err)
	}
	go func() {
		defer outR.Close()
		lines := bufio.NewScanner(io.LimitReader(outR, sayMost))
		for lines.Scan() {
			if l != nil {
				l.Warn("the agent says", "text", lines.Text())
			}
		}
		_, _ = io.Copy(io.Discard, outR)
	}()
	defer outW.Close()
	stdioMu.Lock()
	defer stdioMu.Unlock()
	stdin, stdout, stderr := os.Stdin, os.Stdout, os.Stderr
	os.Stdin, os.Stdout, os.Stderr = inR, outW, outW
	defer func() { os.Stdin, os.Stdout, os.Stderr = stdin, stdout, stderr }()
	f()
	return nil
}
