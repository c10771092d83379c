package transfer_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentclient/agenttest"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/transfer"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// liar is an agent that says what it likes.
type liar struct {
	stat func(path string) agentproto.FileInfo
	page func(path string, n int) []agentproto.FileInfo // the n-th page of a directory
	data func(send func([]byte) error) error            // of every file
	link string
	got  *agentproto.FSGot // of every small file; nil for an agent that knows none
}

// serve answers one client until the connection ends.
func (l *liar) serve(t *testing.T) *agentclient.Client {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	host, guest := agenttest.SocketPair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		frames := agentproto.NewReader(guest)
		handles, pages, opened := uint64(0), map[uint64]int{}, map[uint64]string{}
		for {
			f, err := frames.Next()
			if err != nil {
				return
			}
			m, err := agentproto.Open(f.Body())
			if err == nil && m.Type == agentproto.TypeFSGet && l.got != nil {
				b := agentproto.Append(nil, f.ID, agentproto.TypeFSGot, l.got)
				f.Release()
				if _, err := guest.Write(b); err != nil {
					return
				}
				continue
			}
			var req agentproto.FSRequest
			if err != nil || m.Type != agentproto.TypeFSRequest || agentproto.Decode(m.Payload, &req) != nil {
				f.Release()
				continue
			}
			id := f.ID
			f.Release()
			result, op := &agentproto.FSResult{}, req.Op
			switch op.Op {
			case agentproto.OpStat:
				info := l.stat(op.Path)
				result.Stat = &info
			case agentproto.OpOpenDir, agentproto.OpOpenFile:
				handles++
				n := handles
				opened[n] = op.Path
				result.Handle = &n
			case agentproto.OpFStat:
				info := l.stat(opened[op.Handle])
				result.Stat = &info
			case agentproto.OpReadDir:
				result.List = append([]agentproto.FileInfo{}, l.page(opened[op.Handle], pages[op.Handle])...)
				pages[op.Handle]++
			case agentproto.OpReadLink:
				result.Path = &l.link
			case agentproto.OpRead:
				result = nil
				_ = l.data(func(b []byte) error {
					_, err := guest.Write(agentproto.AppendData(nil, id, agentproto.TypeFSData, b))
					return err
				})
			default:
				result = nil
			}
			if _, err := guest.Write(agentproto.Append(nil, id, agentproto.TypeFSResponse, &agentproto.FSResponse{OK: true, Data: result})); err != nil {
				return
			}
		}
	}()
	says := &agentproto.Ready{AgentVersion: "liar"}
	if l.got != nil {
		says.Types = []agentproto.Type{agentproto.TypeFSPut, agentproto.TypeFSGet}
	}
	ready := agentproto.Append(nil, 0, agentproto.TypeReady, says)
	c := agenttest.Connect(t, host, ready)
	t.Cleanup(func() {
		_ = c.Close()
		<-done
		_ = guest.Close()
		goleak.VerifyNone(t, leaks)
	})
	return c
}

func file(path string, size uint64) agentproto.FileInfo {
	return agentproto.FileInfo{Path: path, Kind: agentproto.KindFile, Size: size, Mode: 0o104777}
}

func dir(path string) agentproto.FileInfo {
	return agentproto.FileInfo{Path: path, Kind: agentproto.KindDir, Mode: 0o40777}
}

// byName says that what has a name with a dot is a file and the rest are directories.
func byName(path string) agentproto.FileInfo {
	if strings.Contains(filepath.Base(path), ".") {
		return file(path, 3)
	}
	return dir(path)
}

func content(text string) func(func([]byte) error) error {
	return func(send func([]byte) error) error { return send([]byte(text)) }
}

// Whatever a guest calls its files, nothing is made outside of the destination.
func TestHostileNames(t *testing.T) {
	for _, path := range []string{
		"/src/../evil.txt", "/src/a/evil.txt", "/src/..", "/src/.", "/src/", "/src", "", "/", "evil.txt", "../evil.txt", "/evil.txt",
		"/srcevil.txt", "/src//evil.txt", "/src/a\x00.txt", "/src/" + strings.Repeat("x.", 200), "/src/../../../../../../tmp/evil.txt",
	} {
		t.Run(fmt.Sprintf("%.30q", path), func(t *testing.T) {
			l := &liar{stat: byName, data: content("abc"), page: func(_ string, n int) []agentproto.FileInfo {
				if n > 0 {
					return nil
				}
				return []agentproto.FileInfo{file("/src/good.txt", 3), file(path, 3)}
			}}
			base := t.TempDir()
			err := new(transfer.Copier).Copy(t.Context(), transfer.End{Guest: l.serve(t), Path: "/src"}, transfer.End{Path: filepath.Join(base, "dst")})
			if !errors.Is(err, sandbox.Protocol) {
				t.Errorf("%v", err)
			}
			only(t, base, "dst")
			only(t, filepath.Join(base, "dst"), "good.txt")
		})
	}
}

// only fails t when a directory has anything but want.
func only(t *testing.T, dir string, want ...string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range left {
		names = append(names, e.Name())
	}
	if strings.Join(names, " ") != strings.Join(want, " ") {
		t.Errorf("%s has %q, want %q", dir, names, want)
	}
}

// A directory that is in itself ends.
func TestHostileDepth(t *testing.T) {
	l := &liar{stat: byName, page: func(path string, n int) []agentproto.FileInfo {
		if n > 0 {
			return nil
		}
		return []agentproto.FileInfo{dir(path + "/d")}
	}}
	err := new(transfer.Copier).Copy(t.Context(), transfer.End{Guest: l.serve(t), Path: "/src"}, transfer.End{Path: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "nested more than 128 deep") {
		t.Errorf("%v", err)
	}
}

// A listing without an end ends; so does one that is longer than what was asked for.
func TestHostileFlood(t *testing.T) {
	page := func(n int) (all []agentproto.FileInfo) {
		for i := range n {
			all = append(all, agentproto.FileInfo{Path: fmt.Sprintf("/src/%d", i), Kind: agentproto.KindOther})
		}
		return all
	}
	whole := page(256)
	left := 0
	c := transfer.Copier{Warn: func(string) { left++ }}
	l := &liar{stat: byName, page: func(string, int) []agentproto.FileInfo { return whole }}
	err := c.Copy(t.Context(), transfer.End{Guest: l.serve(t), Path: "/src"}, transfer.End{Path: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "more than 1048576 files") || left != transfer.MaxEntries {
		t.Errorf("%d were left out: %v", left, err)
	}

	l = &liar{stat: byName, page: func(string, int) []agentproto.FileInfo { return page(257) }}
	err = new(transfer.Copier).Copy(t.Context(), transfer.End{Guest: l.serve(t), Path: "/src"}, transfer.End{Path: t.TempDir()})
	if !errors.Is(err, sandbox.Protocol) {
		t.Errorf("%v", err)
	}
}

// A file that has more than it said, or says nothing and has no end, ends.
func TestHostileSize(t *testing.T) {
	for _, size := range []uint64{0, 3, 1 << 20} {
		l := &liar{stat: func(p string) agentproto.FileInfo { return file(p, size) }, data: func(send func([]byte) error) error {
			chunk := make([]byte, 1<<20)
			for {
				if err := send(chunk); err != nil {
					return err
				}
			}
		}}
		base := t.TempDir()
		client := l.serve(t)
		err := new(transfer.Copier).Copy(t.Context(), transfer.End{Guest: client, Path: "/x.txt"}, transfer.End{Path: filepath.Join(base, "out")})
		if !errors.Is(err, sandbox.Protocol) {
			t.Errorf("size %d: %v", size, err)
		}
		_ = client.Close()
		only(t, base)
	}
}

// What a guest makes executable for all and set-user-ID does not become so here.
func TestHostileMode(t *testing.T) {
	l := &liar{stat: byName, data: content("abc")}
	out := filepath.Join(t.TempDir(), "out")
	must(t, new(transfer.Copier).Copy(t.Context(), transfer.End{Guest: l.serve(t), Path: "/x.txt"}, transfer.End{Path: out}))
	info, err := os.Stat(out)
	must(t, err)
	if info.Mode()&(os.ModeSetuid|os.ModeSetgid|os.ModeSticky) != 0 {
		t.Errorf("mode %v", info.Mode())
	}
}

// Links that would lead out of the copy are not made.
func TestHostileLinks(t *testing.T) {
	for target, made := range map[string]bool{
		"a.txt": true, "./a.txt": true, "sub/a": true, "/etc/passwd": false, "..": false, "../x": false, "sub/../../x": false,
		"sub/../a": false, "": false, "sub/..": false, "../../../../etc": false,
	} {
		l := &liar{link: target, stat: byName, page: func(path string, n int) []agentproto.FileInfo {
			if n > 0 {
				return nil
			}
			return []agentproto.FileInfo{{Path: path + "/link", Kind: agentproto.KindSymlink}}
		}}
		left := 0
		c := transfer.Copier{Warn: func(string) { left++ }}
		base := t.TempDir()
		must(t, c.Copy(t.Context(), transfer.End{Guest: l.serve(t), Path: "/src"}, transfer.End{Path: base}))
		_, err := os.Readlink(filepath.Join(base, "src", "link"))
		if (err == nil) != made || (left == 0) != made {
			t.Errorf("a link to %q: made %v, %d left out", target, err == nil, left)
		}
	}
}

// A guest that is lost in the middle is an error, and leaves no half file.
func TestLost(t *testing.T) {
	var client *agentclient.Client
	l := &liar{stat: func(p string) agentproto.FileInfo { return file(p, 1<<20) }, data: func(send func([]byte) error) error {
		err := send([]byte("a"))
		return errors.Join(err, client.Close())
	}}
	client = l.serve(t)
	base := t.TempDir()
	err := new(transfer.Copier).Copy(t.Context(), transfer.End{Guest: client, Path: "/x.txt"}, transfer.End{Path: base})
	if err == nil {
		t.Error("a file that did not arrive was copied")
	}
	only(t, base)
}

// A small file that has more than it says, or is none, is not taken.
func TestHostileSmall(t *testing.T) {
	for name, got := range map[string]*agentproto.FSGot{
		"more than it says":  {Stat: file("/f.x", 3), Data: []byte("four")},
		"a directory":        {Stat: dir("/f.x"), Data: []byte("x")},
		"more than may be":   {Stat: file("/f.x", 1), Data: make([]byte, 1<<20)},
		"a handle and a lie": {Stat: dir("/f.x"), Handle: new(uint64)},
	} {
		t.Run(name, func(t *testing.T) {
			l := &liar{stat: byName, got: got}
			out := filepath.Join(t.TempDir(), "out")
			err := new(transfer.Copier).Copy(t.Context(), transfer.End{Guest: l.serve(t), Path: "/f.x"}, transfer.End{Path: out})
			if k := sandbox.KindOf(err); k != sandbox.Protocol && k != sandbox.Filesystem {
				t.Errorf("%v", err)
			}
			if _, err := os.Lstat(out); err == nil {
				t.Error("something was made of it")
			}
		})
	}
}
