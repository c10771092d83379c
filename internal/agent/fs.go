package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// fsSession is one core.fs.request until its core.fs.response. Only writes take messages.
type fsSession struct {
	a       *Agent
	id      uint32
	op      agentproto.FSOp
	input   *inbox // of a write
	window  window
	dropped atomic.Bool
}

// fs begins a request; a goroutine of its own does the work, because a file system may take its time.
func (a *Agent) fs(id uint32, payload []byte) error {
	var req agentproto.FSRequest
	if err := agentproto.Decode(payload, &req); err != nil {
		return err
	}
	s := &fsSession{a: a, id: id, op: req.Op}
	s.window.init(req.Window)
	if s.op.Op == agentproto.OpWrite {
		s.input = newInbox()
	}
	if err := a.open(id, s); err != nil {
		return err
	}
	go s.run()
	return nil
}

func (s *fsSession) run() {
	defer s.a.running.Done()
	result, err := s.do()
	if s.input != nil {
		s.input.close()
	}
	s.a.forget(s.id)
	if s.dropped.Load() {
		return
	}
	response := &agentproto.FSResponse{OK: err == nil, Data: result}
	if err != nil {
		response.Error, response.Data = err.Error(), nil
	}
	frame := agentproto.Append(nil, s.id, agentproto.TypeFSResponse, response)
	if len(frame) > agentproto.HeaderLen+agentproto.MaxBody {
		frame = agentproto.Append(nil, s.id, agentproto.TypeFSResponse, &agentproto.FSResponse{Error: errListTooLong.Error()})
	}
	s.a.out.count(agentproto.TypeFSResponse)
	_ = s.a.out.write(frame)
}

func (s *fsSession) message(t agentproto.Type, payload []byte, f *agentproto.Frame) error {
	switch {
	case t == agentproto.TypeFSData && s.input != nil:
		c, err := newChunk(payload, f)
		if err == nil && !s.input.push(c) {
			s.input.close()
		}
		return err
	case t == agentproto.TypeAck:
		defer f.Release()
		return s.window.ack(payload)
	}
	f.Release()
	return &agentproto.Error{Kind: agentproto.InvalidSession, Message: fmt.Sprintf("unknown write session: %d", s.id)}
}

func (s *fsSession) drop() {
	s.dropped.Store(true)
	s.terminate()
}

func (s *fsSession) terminate() {
	s.window.close()
	if s.input != nil {
		s.input.close()
	}
}

// do does the operation. Its errors begin with the operation's word (contract msb-0.6 §4.6).
func (s *fsSession) do() (*agentproto.FSResult, error) {
	op := &s.op
	slot := agentproto.SlotOf(s.id)
	switch op.Op {
	case agentproto.OpRealPath:
		p, err := realPath(op.Path)
		return &agentproto.FSResult{Path: &p}, say("realpath", err)
	case agentproto.OpStat:
		info, err := statPath(op.Path, op.FollowSymlink)
		return &agentproto.FSResult{Stat: &info}, say("stat", err)
	case agentproto.OpSetStat:
		return nil, say("setstat", setStat(op.Path, op.FollowSymlink, &op.Attrs))
	case agentproto.OpList:
		list, err := listDir(op.Path)
		return &agentproto.FSResult{List: list}, say("readdir", err)
	case agentproto.OpReadLink:
		target, err := os.Readlink(op.Path)
		return &agentproto.FSResult{Path: &target}, say("readlink", err)
	case agentproto.OpSymlink:
		return nil, say("symlink", os.Symlink(op.Target, op.LinkPath))
	case agentproto.OpMkdir:
		return nil, say("mkdir", mkdir(op.Path, op.Mode))
	case agentproto.OpRemove:
		return nil, say("remove", syscall.Unlink(op.Path))
	case agentproto.OpRemoveDir:
		return nil, say("remove_dir", removeDir(op.Path, op.Recursive))
	case agentproto.OpCopy:
		defer s.a.reaper.settle()
		return nil, say("copy", copyFile(op.Src, op.Dst))
	case agentproto.OpRename:
		return nil, say("rename", os.Rename(op.Src, op.Dst))
	case agentproto.OpOpenFile, agentproto.OpOpenDir:
		n, err := s.openHandle(slot)
		return &agentproto.FSResult{Handle: &n}, say("open", err)
	}

	if op.Op == agentproto.OpCloseHandle {
		defer s.a.reaper.settle()
		return nil, say("close", s.a.handles.close(op.Handle, slot))
	}
	h, err := s.a.handles.get(op.Handle, slot)
	if err != nil {
		return nil, err
	}
	switch op.Op {
	case agentproto.OpRead:
		return nil, say("read", s.read(h))
	case agentproto.OpWrite:
		return nil, say("write", s.write(h))
	case agentproto.OpReadDir:
		list, err := readDir(h, op.Limit)
		return &agentproto.FSResult{List: list}, say("readdir", err)
	case agentproto.OpFStat:
		info, err := statFile(h)
		return &agentproto.FSResult{Stat: &info}, say("stat", err)
	case agentproto.OpFSetStat:
		return nil, say("setstat", setStatFile(h.file, &op.Attrs))
	}
	return nil, fmt.Errorf("unknown file operation %q", op.Op)
}

// say puts an operation's word before the system's reason. What is not the system's already says enough.
func say(word string, err error) error {
	var e syscall.Errno
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return fmt.Errorf("%s: %w", word, e)
	case errors.Is(err, os.ErrClosed):
		return fmt.Errorf("%s: the handle was closed", word)
	}
	return err
}

func (s *fsSession) openHandle(slot int) (uint64, error) {
	o := &s.op.Options
	flags := syscall.O_NONBLOCK // a FIFO does not hold up the agent
	switch {
	case s.op.Op == agentproto.OpOpenDir:
		flags |= syscall.O_DIRECTORY
	case o.Read && (o.Write || o.Append):
		flags |= os.O_RDWR
	case o.Write || o.Append:
		flags |= os.O_WRONLY
	}
	for _, f := range []struct {
		on   bool
		flag int
	}{{o.Append, os.O_APPEND}, {o.Create, os.O_CREATE}, {o.Truncate, os.O_TRUNC}, {o.CreateNew, os.O_CREATE | os.O_EXCL}} {
		if f.on {
			flags |= f.flag
		}
	}
	mode := uint32(0o666)
	if o.Mode != nil {
		mode = *o.Mode
	}
	f, err := os.OpenFile(s.op.Path, flags, fileMode(mode))
	if err != nil {
		return 0, err
	}
	n, err := s.a.handles.add(&handle{file: f, path: s.op.Path, slot: slot, append: o.Append})
	if err != nil {
		_ = f.Close()
		return 0, fmt.Errorf("open: %w", err)
	}
	return n, nil
}

// read sends a file's content. What has no positions (a FIFO, a terminal) is read from where it is.
func (s *fsSession) read(h *handle) error {
	pool := &readBuffers
	buf := pool.Get().(*agentproto.DataBuffer)
	defer func() { pool.Put(buf) }()
	offset, left := s.op.Offset, uint64(1<<63-1)
	if s.op.Len != nil {
		left = *s.op.Len
	}
	if offset > 1<<63-1 {
		return syscall.EINVAL
	}
	for left > 0 && !s.dropped.Load() {
		s.window.wait()
		space := buf.Space()
		space = space[:min(uint64(len(space)), left)]
		n, err := h.file.ReadAt(space, int64(offset))
		if errors.Is(err, syscall.ESPIPE) {
			n, err = h.file.Read(space)
		}
		if n > 0 {
			s.window.sent(n)
			s.a.out.count(agentproto.TypeFSData)
			if werr := s.a.out.write(buf.Frame(s.id, agentproto.TypeFSData, n)); werr != nil {
				return werr
			}
			offset += uint64(n)
			left -= uint64(n)
		}
		if n == readSize && left > 0 && pool == &readBuffers { // there is more than a little
			pool.Put(buf)
			pool = &floodBuffers
			buf = pool.Get().(*agentproto.DataBuffer)
		}
		if err == io.EOF || err == nil && n == 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// write writes the data that comes until the client ends it.
func (s *fsSession) write(h *handle) error {
	offset, wrote := s.op.Offset, uint64(0)
	for {
		c, ok := s.input.pop()
		if !ok {
			return errors.New("the write was broken off")
		}
		n, err := h.writeAt(c.data, int64(offset))
		c.frame.Release()
		s.input.done(len(c.data))
		offset += uint64(n)
		wrote += uint64(n)
		switch {
		case err != nil:
			return err
		case c.end && s.op.Len != nil && *s.op.Len != wrote:
			return fmt.Errorf("write length mismatch: expected %d, wrote %d", *s.op.Len, wrote)
		case c.end:
			return nil
		}
		if ack := s.window.received(n); ack > 0 && !s.dropped.Load() {
			_ = s.a.out.send(s.id, agentproto.TypeAck, &agentproto.Ack{Bytes: ack})
		}
	}
}

func (h *handle) writeAt(p []byte, offset int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if h.append {
		return h.file.Write(p)
	}
	if offset < 0 {
		return 0, syscall.EINVAL
	}
	n, err := h.file.WriteAt(p, offset)
	if errors.Is(err, syscall.ESPIPE) {
		return h.file.Write(p)
	}
	return n, err
}
