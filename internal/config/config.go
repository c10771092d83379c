// Package config says where things are (the state root and the binaries that msb needs beside itself) and what the user set
// (config.json). Commands that do not go by the file never read it; nothing else is opened, because every command waits for it.
package config

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Names of the binaries that msb starts or hands to the guest.
const (
	Runner = "msb-runner"
	Agent  = "msb-agent"
	Server = "msb-server" // msb with all that a server links
)

// Environment variables (contract msb-0.6 §1.5). RunnerVar, AgentVar and ServerVar are ours.
const (
	HomeVar   = "MSB_HOME"
	RunnerVar = "MSB_RUNNER"
	AgentVar  = "MSB_AGENT"
	ServerVar = "MSB_SERVER"
)

// defaultHome is the state root below the user's home directory.
const defaultHome = ".microsandbox"

// Home returns the state root, an absolute path: MSB_HOME, of which "" is unset, or ~/.microsandbox. It may not exist yet.
func Home() (string, error) {
	if home := os.Getenv(HomeVar); home != "" {
		abs, err := filepath.Abs(home)
		if err != nil {
			return "", &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "find " + HomeVar + " " + home, Err: err, Hint: "make it an absolute path"}
		}
		return abs, nil
	}
	user, err := os.UserHomeDir()
	if err != nil || !filepath.IsAbs(user) {
		return "", &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "there is no home directory to keep sandboxes in",
			Hint: "set HOME, or set " + HomeVar + " to a directory of yours"}
	}
	return filepath.Join(user, defaultHome), nil
}

// Embedded is set by programs that answer for Runner themselves (package runner); they are their own runner then.
var Embedded bool

// FindBinary returns the absolute path of Runner, Agent or Server. What the environment names wins, and has to be there; then
// come the running program itself if it is Embedded, its directory, home's bin and the absolute directories of PATH.
func FindBinary(name, home string) (string, error) {
	variable := map[string]string{Runner: RunnerVar, Agent: AgentVar, Server: ServerVar}[name]
	if p := os.Getenv(variable); p != "" {
		abs, err := filepath.Abs(p)
		if err == nil {
			err = executable(abs)
		}
		if err != nil {
			return "", &sandbox.Error{Kind: sandbox.LibraryNotLoaded, Message: fmt.Sprintf("%s names %s, which cannot be used", variable, p), Err: err,
				Hint: fmt.Sprintf("point %s at %s, or unset it", variable, name)}
		}
		return abs, nil
	}
	if name == Runner && Embedded {
		return os.Executable()
	}
	for _, dir := range binaryDirs(home) {
		if p := filepath.Join(dir, name); executable(p) == nil {
			return p, nil
		}
	}
	return "", &sandbox.Error{Kind: sandbox.LibraryNotLoaded, Message: name + " is not found beside this program, in " + filepath.Join(home, "bin") + ", on PATH or by " + variable,
		Hint: "build it with: make build, or get it with: CGO_ENABLED=0 go install github.com/microsandbox-go/microsandbox/cmd/" + name + "@latest"}
}

func binaryDirs(home string) []string {
	dirs := make([]string, 0, 16)
	if self, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		dirs = append(dirs, filepath.Dir(self))
	}
	dirs = append(dirs, filepath.Join(home, "bin"))
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if filepath.IsAbs(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// executable says why a file cannot be run, or nil.
func executable(p string) error {
	st, err := os.Stat(p)
	switch {
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s is not a file", p)
	case st.Mode()&0o111 == 0:
		return fmt.Errorf("%s is not executable", p)
	}
	return nil
}
