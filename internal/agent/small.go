package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// smallSession is one x.msb.fs.put or x.msb.fs.get until its answer. It takes no messages.
type smallSession struct {
	a       *Agent
	id      uint32
	dropped atomic.Bool
}

// small begins to put or get a file of one frame.
func (a *Agent) small(id uint32, t agentproto.Type, payload []byte) error {
	s := &smallSession{a: a, id: id}
	var work func() (agentproto.Type, agentproto.Payload)
	if t == agentproto.TypeFSPut {
		put := &agentproto.FSPut{}
		if err := agentproto.Decode(payload, put); err != nil {
			return err
		}
		if len(put.Data) > agentproto.MaxSmall || filepath.Dir(put.Temp) != filepath.Dir(put.Path) {
			return fmt.Errorf("want at most %d bytes, and both names in one directory", agentproto.MaxSmall)
		}
		work = func() (agentproto.Type, agentproto.Payload) {
			err := putFile(put)
			a.reaper.settle()
			return fsAnswer(say("put", err))
		}
	} else {
		get := &agentproto.FSGet{}
		if err := agentproto.Decode(payload, get); err != nil {
			return err
		}
		work = func() (agentproto.Type, agentproto.Payload) {
			got, err := a.getFile(get.Path, agentproto.SlotOf(id))
			if err != nil {
				return fsAnswer(say("get", err))
			}
			return agentproto.TypeFSGot, got
		}
	}
	if err := a.open(id, s); err != nil {
		return err
	}
	go func() {
		defer a.running.Done()
		t, answer := work()
		a.forget(id)
		if !s.dropped.Load() {
			_ = a.out.send(id, t, answer)
		} else if got, ok := answer.(*agentproto.FSGot); ok && got.Handle != nil {
			_ = a.handles.close(*got.Handle, agentproto.SlotOf(id))
		}
	}()
	return nil
}

func fsAnswer(err error) (agentproto.Type, agentproto.Payload) {
	response := &agentproto.FSResponse{OK: err == nil}
	if err != nil {
		response.Error = err.Error()
	}
	return agentproto.TypeFSResponse, response
}

func (s *smallSession) message(_ agentproto.Type, _ []byte, f *agentproto.Frame) error {
	f.Release()
	return &agentproto.Error{Kind: agentproto.InvalidSession, Message: fmt.Sprintf("unknown write session: %d", s.id)}
}

func (s *smallSession) drop()      { s.dropped.Store(true) }
func (s *smallSession) terminate() {}

// putFile makes a file. All of it is here already, so it gets its name at once where that is free: every rename leaves a whiteout
// of the other name on a disk that is kept, and takes as long as all the rest.
func putFile(p *agentproto.FSPut) error {
	err := makeFile(p.Path, p)
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	var st syscall.Stat_t
	if err := syscall.Lstat(p.Path, &st); err != nil {
		return err
	}
	if kind := st.Mode & syscall.S_IFMT; kind != syscall.S_IFREG && kind != syscall.S_IFLNK {
		return syscall.EEXIST
	}
	if err := makeFile(p.Temp, p); err != nil {
		return err
	}
	if err := os.Rename(p.Temp, p.Path); err != nil {
		_ = os.Remove(p.Temp)
		return err
	}
	return nil
}

// makeFile makes a file that was not there, or none.
func makeFile(path string, p *agentproto.FSPut) error {
	mode := fileMode(p.Mode)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(p.Data)
	if err == nil {
		var info os.FileInfo
		if info, err = f.Stat(); err == nil && info.Mode() != mode { // the umask's doing
			err = f.Chmod(mode)
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(path)
	}
	return err
}

// getFile reads a regular file, or opens one that is too large for a frame. One that says it has nothing may have something, as those
// of /proc have.
func (a *Agent) getFile(path string, slot int) (*agentproto.FSGot, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	h := &handle{file: f, path: path, slot: slot}
	got := &agentproto.FSGot{}
	if got.Stat, err = statFile(h); err == nil && got.Stat.Kind != agentproto.KindFile {
		err = errors.New("get: it is no regular file")
	}
	whole := got.Stat.Size <= agentproto.MaxSmall
	if err == nil && whole {
		got.Data = make([]byte, got.Stat.Size)
		if got.Stat.Size == 0 {
			got.Data = make([]byte, agentproto.MaxSmall)
		}
		n, rerr := io.ReadFull(f, got.Data)
		got.Data = got.Data[:n]
		switch {
		case rerr == nil && got.Stat.Size == 0: // and more
			whole, got.Data = false, nil
		case rerr != nil && rerr != io.EOF && rerr != io.ErrUnexpectedEOF:
			err = rerr
		}
	}
	if err == nil && !whole {
		var n uint64
		if n, err = a.handles.add(h); err == nil {
			got.Handle = &n
			return got, nil
		}
	}
	_ = f.Close()
	if err != nil {
		return nil, err
	}
	return got, nil
}
