package agent

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/vfork"
)

// The stages of a start, as core.exec.failed names them.
const (
	stageRequest = "request"
	stageUser    = "user"
	stageIO      = "stdio"
	stagePTY     = "pty"
	stageCwd     = "cwd"
	stageLimits  = "rlimits"
	stageExec    = "exec"
)

// command is what one exec starts.
type command struct {
	cmd    string
	argv   []string
	env    []string
	cwd    string
	id     identity
	limits []rlimit
	tty    bool
}

// failure makes core.exec.failed of an error.
func (c *command) failure(kind agentproto.FailureKind, stage string, err error) *agentproto.ExecFailed {
	n, name := errno(err)
	return &agentproto.ExecFailed{Kind: kind, Errno: n, ErrnoName: name, Message: fmt.Sprintf("spawn %q: %v", c.cmd, err), Stage: stage}
}

// defaultPath is the PATH of a guest whose image says none; scriptsDir comes before any (contract msb-0.6 §4.5).
const (
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	scriptsDir  = "/.msb/scripts"
)

// prepare turns a request into a command.
func (a *Agent) prepare(req *agentproto.ExecRequest) (*command, *agentproto.ExecFailed) {
	c := &command{cmd: req.Cmd, argv: append([]string{req.Cmd}, req.Args...), tty: req.TTY}
	if req.Cmd == "" {
		return nil, c.failure(agentproto.FailBadArgs, stageRequest, errors.New("the command is empty"))
	}
	for _, list := range [][]string{c.argv, req.Env, {req.Cwd}} {
		for _, s := range list {
			if strings.IndexByte(s, 0) >= 0 {
				return nil, c.failure(agentproto.FailBadArgs, stageRequest, errors.New("a NUL byte in the request"))
			}
		}
	}
	g := a.guest.Load()
	c.cwd = cmpOr(req.Cwd, g.cwd, "/")
	if !strings.HasPrefix(c.cwd, "/") {
		c.cwd = "/" + c.cwd
	}
	var err error
	if c.id, err = a.identity(req.User); err != nil {
		return nil, c.failure(agentproto.FailUserSetup, stageUser, err)
	}
	if c.limits, err = parseRlimits(g.rlimits, req.Rlimits); err != nil {
		return nil, c.failure(agentproto.FailResourceLimit, stageLimits, err)
	}
	c.env = mergeEnv(g.env, req.Env, func() string { return a.users.home(c.id.uid) })
	return c, nil
}

func (a *Agent) identity(user string) (identity, error) {
	if user == "" {
		user = a.guest.Load().user
	}
	return a.users.lookup(user)
}

func cmpOr(all ...string) string {
	for _, s := range all {
		if s != "" {
			return s
		}
	}
	return ""
}

// mergeEnv puts over over base, adds HOME if nobody has it, and puts the scripts first on PATH.
func mergeEnv(base, over []string, home func() string) []string {
	at := make(map[string]int, len(base)+len(over)+2)
	env := make([]string, 0, len(base)+len(over)+2)
	set := func(kv string, override bool) {
		key, _, ok := strings.Cut(kv, "=")
		if !ok || key == "" {
			return
		}
		if i, have := at[key]; !have {
			at[key] = len(env)
			env = append(env, kv)
		} else if override {
			env[i] = kv
		}
	}
	for _, kv := range base {
		set(kv, true)
	}
	for _, kv := range over {
		set(kv, true)
	}
	if _, have := at["HOME"]; !have {
		if dir := home(); dir != "" {
			set("HOME="+dir, true)
		}
	}
	set("PATH="+defaultPath, false)
	path := &env[at["PATH"]]
	if v := (*path)[len("PATH="):]; v != scriptsDir && !strings.HasPrefix(v, scriptsDir+":") {
		*path = "PATH=" + scriptsDir + ":" + v
	}
	return env
}

// candidates calls try with each path that the command may be at, until try says that it is done.
func (c *command) candidates(try func(path string) (done bool)) {
	if strings.IndexByte(c.cmd, '/') >= 0 {
		try(c.cmd) // a relative one is found from the command's own cwd
		return
	}
	path := ""
	for _, kv := range c.env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	for dir := range strings.SplitSeq(path, ":") {
		if !strings.HasPrefix(dir, "/") {
			dir = filepath.Join(c.cwd, dir)
		}
		p := dir + "/" + c.cmd
		var st syscall.Stat_t
		if syscall.Stat(p, &st) != nil || st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			continue
		}
		if try(p) {
			return
		}
	}
}

// spawn starts the command with the given files as its 0, 1, 2 and so on.
func (c *command) spawn(r *reaper, files []int) (*child, *agentproto.ExecFailed) {
	attr := &vfork.Attr{Dir: c.cwd, Env: c.env, Files: files, Setsid: true, Setctty: c.tty}
	if self := ownIdentity(); c.id.uid != self.uid || c.id.gid != self.gid || len(c.id.groups) > 0 {
		attr.Credential = &syscall.Credential{Uid: c.id.uid, Gid: c.id.gid, Groups: c.id.groups}
	}
	var started *child
	last := error(syscall.ENOENT)
	c.candidates(func(path string) bool {
		started, last = r.start(func() (int, error) {
			if len(c.limits) > 0 {
				return forkLimited(path, c.argv, attr, c.limits)
			}
			return vfork.ForkExec(path, c.argv, attr)
		})
		// As execvp does: what is not there, or may not be run, may be elsewhere on PATH.
		return last == nil || last != syscall.ENOENT && last != syscall.EACCES && last != syscall.ENOTDIR
	})
	if last == nil {
		return started, nil
	}
	return nil, c.explain(last)
}

// explain finds out what failed: the child says an errno, not at which of its steps.
func (c *command) explain(err error) *agentproto.ExecFailed {
	var limit limitError
	if errors.As(err, &limit) {
		return c.failure(agentproto.FailResourceLimit, stageLimits, limit.error)
	}
	var st syscall.Stat_t
	if e := syscall.Stat(c.cwd, &st); e != nil {
		return c.failure(agentproto.FailBadCwd, stageCwd, fmt.Errorf("chdir %q: %w", c.cwd, e))
	} else if st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		return c.failure(agentproto.FailBadCwd, stageCwd, fmt.Errorf("chdir %q: %w", c.cwd, syscall.ENOTDIR))
	}
	var e syscall.Errno
	if !errors.As(err, &e) {
		return c.failure(agentproto.FailOther, stageExec, err)
	}
	return c.failure(kindOf(e), stageExec, err)
}
