package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// agentFormat changes whenever AgentImage puts something else into its images.
const agentFormat = "agent 2"

// keepAgents is how many agent images stay: enough for a few versions of msb that share one home.
const keepAgents = 4

// AgentImage returns the EROFS file that is mounted at /.msb in every sandbox, made of the binary if need be:
//
//	/agent     the binary, 0755
//	/scripts/  empty, 0755
//	/run/      empty, 0755
//	/tls/      empty, 0755
//
// The binary is told from others by what stat says of it, so a call costs two stats when the file is there.
func AgentImage(home, agentBinary string) (string, error) {
	info, err := os.Stat(agentBinary)
	if err != nil {
		return "", agentMissing(agentBinary, err)
	}
	dir := filepath.Join(home, "bin")
	path := agentPath(dir, info)
	if cached(path) {
		return path, nil
	}
	bin, err := os.Open(agentBinary)
	if err != nil {
		return "", agentMissing(agentBinary, err)
	}
	defer bin.Close()
	if info, err = bin.Stat(); err != nil {
		return "", agentMissing(agentBinary, err)
	}
	if !info.Mode().IsRegular() {
		return "", agentMissing(agentBinary, errors.New("not a regular file"))
	}
	path = agentPath(dir, info)
	if err := makeCacheDir(home, dir); err != nil {
		return "", storeError("make the agent's image", home, err)
	}
	err = erofs.Publish(path, func(w *erofs.Writer) error {
		a := erofs.Attr{Mode: 0o755, ModTime: info.ModTime()}
		return errors.Join(
			w.Dir(".", a),
			w.File("agent", a, info.Size(), bin),
			w.Dir("scripts", a),
			w.Dir("run", a),
			w.Dir("tls", a),
		)
	})
	if err != nil {
		return "", storeError("make the agent's image", home, err)
	}
	sweepAgents(dir, path)
	return path, nil
}

func agentPath(dir string, info fs.FileInfo) string {
	st := info.Sys().(*syscall.Stat_t)
	id := newKey(agentFormat)
	id.add(st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
	return filepath.Join(dir, "agent-"+id.sum()+".erofs")
}

func agentMissing(path string, err error) error {
	return &sandbox.Error{Op: "find the agent", Kind: sandbox.LibraryNotLoaded,
		Message: fmt.Sprintf("cannot read the guest agent %s", path),
		Hint:    "reinstall msb, or set MSB_AGENT to the msb-agent binary", Err: err}
}

// sweepAgents removes all agent images but the given one and the most recently used others, and what killed processes left.
// What cannot be removed now waits for the next time.
func sweepAgents(dir, keep string) {
	_ = atomicfile.Sweep(dir, grace)
	images, _ := filepath.Glob(filepath.Join(dir, "agent-*.erofs"))
	images = slices.DeleteFunc(images, func(p string) bool { return p == keep })
	used := map[string]time.Time{}
	for _, p := range images {
		if info, err := os.Stat(p); err == nil {
			used[p] = info.ModTime()
		}
	}
	slices.SortFunc(images, func(a, b string) int { return used[b].Compare(used[a]) }) // the last used first
	for i, p := range images {
		if i >= keepAgents-1 {
			_ = os.Remove(p)
		}
	}
}
