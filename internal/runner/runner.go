// Package runner is the supervisor of one sandbox: the process that starts it, holds it to its limits, connects clients to
// its agent, and tells how it ended. [Main] reads its launch config from a file descriptor, starts driver and network,
// says that it is ready, and waits for the end: of the sandbox, of its owner, or on request. Everything that belongs to
// the sandbox ends with this process, even by SIGKILL; what is then left on disk the next reader's sweep removes.
package runner

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/quietgc"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Main runs one sandbox with d and returns the process's exit code: 0 if the sandbox ran, however it ended.
func Main(d driver.Driver) int {
	for _, fd := range []int{launch.ConfigFD, launch.LockFD, launch.ReadyFD, launch.WatchFD, launch.ImageFD, launch.TableFD} {
		syscall.CloseOnExec(fd)
	}
	words := json.NewEncoder(os.NewFile(launch.ReadyFD, "ready"))
	cfg, err := readConfig()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error: msb-runner is started by msb:", err)
		return 2
	}
	if err := settle(); err != nil {
		_ = words.Encode(launch.Word{Failure: launch.FailureOf(err)})
		return 1
	}
	s := &supervisor{cfg: cfg, driver: d, words: words, log: logger(cfg), ending: make(chan sandbox.End, 8), gone: make(chan struct{})}
	return s.run()
}

func readConfig() (launch.Config, error) {
	var cfg launch.Config
	f := os.NewFile(launch.ConfigFD, "config")
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return cfg, fmt.Errorf("read the launch config: %w", err)
	}
	err = json.Unmarshal(b, &cfg)
	clear(b) // secrets are in it
	if err != nil {
		return cfg, fmt.Errorf("decode the launch config: %w", err)
	}
	return cfg, nil
}

// startTime is how long a runner collects no garbage, gcPercent its GOGC then: it is to stay small.
const (
	startTime = time.Second
	gcPercent = 50

	startMemory = 64 << 20 // bytes
)

// settle makes this process a quiet host for a sandbox.
func settle() error {
	// The mount namespace is our own; nothing mounted in it may show in the one it was copied from.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return &sandbox.Error{Kind: sandbox.Runtime, Message: "make the runner's mounts private", Err: err}
	}
	// A dump would hold the guest's environment and secrets. With a limit of 0 bytes it still goes to a program that the
	// kernel's core_pattern names; with 1 not even that (fs/coredump.c). Who has less already may not ask for more.
	if unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}) != nil {
		_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	}
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) == nil && lim.Cur < lim.Max {
		lim.Cur = lim.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &lim) // fewer is a smaller sandbox, not a broken one
	}
	runtime.GOMAXPROCS(processors())
	quietgc.Policy{Boot: startTime, BootBytes: startMemory, Percent: gcPercent}.Start()
	return nil
}

// processors is how many threads work here at a time: half as many as there are CPUs, since the guest, its kernel and this process work at
// the same things. More than that makes each goroutine that wakes another wake a thread as well, which takes longer than what is to be
// done: on two CPUs, one thread moves a quarter more bytes through the gateway than two, in either direction.
func processors() int { return min(max(runtime.NumCPU()/2, 1), 8) }

func logger(cfg launch.Config) *slog.Logger {
	levels := map[string]slog.Level{"error": slog.LevelError, "warn": slog.LevelWarn, "info": slog.LevelInfo, "debug": slog.LevelDebug, "trace": slog.LevelDebug - 4}
	level, ok := levels[cfg.Info.Spec.Runtime.LogLevel]
	if !ok {
		level = slog.LevelWarn
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// end makes an End of now.
func end(reason sandbox.Reason, message string) sandbox.End {
	return sandbox.End{Reason: reason, Message: message, At: time.Now().UTC()}
}
