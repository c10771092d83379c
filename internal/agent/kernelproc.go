package agent

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// interpreter is one process of a kernel. It has nothing on 0, pipes on 1 and 2, so that whatever it and its children write is
// a cell's output, cells to come on 3 and events to go on 4. On 5 it is told how many values have been passed on, as a number of
// four bytes each time: whoever shows one waits for that, so that what is written later comes later.
//
// An event is a length of four bytes, and so many bytes: a letter, the number of the cell in four bytes, and, of
//
//	R  the driver is ready         nothing
//	S  the cell can be interrupted nothing
//	M  a piece of a value          1 if more of it follows, the length of a MIME type, the type, the data
//	D  the cell has ended          a letter for how, the exit code in four bytes, the error's name, a NUL, its words
//
// The code of a cell can write to all of that as well as the driver. It deceives nobody but its own session's clients.
type interpreter struct {
	k        *kernel
	child    *child
	commands *os.File
	events   *os.File
	shown    *os.File
	values   uint32 // that were passed on
	outputs  [2]*output
	working  sync.WaitGroup // its goroutines but one, which closes over

	ready  chan struct{} // closed by R
	begun  chan uint32   // the number of S; has room for one
	ends   chan cellEnd  // has room for one
	ended  atomic.Uint32 // the number of the last cell that did
	asked  atomic.Bool   // a client had it killed
	over   chan struct{} // closed when the process and what it wrote are done with
	status syscall.WaitStatus
}

// lastWords is how long events are read after the process has ended, if somebody whom it has left behind keeps them open.
const lastWords = time.Second

// maxEvent is the length of the longest event.
const maxEvent = 128 << 10

// spawn starts the language's program.
func (k *kernel) spawn() (*interpreter, *agentproto.KernelFailed) {
	a := k.ks.a
	for _, program := range k.lang.programs {
		req := k.req
		req.Cmd, req.Args = program, k.lang.args
		cmd, failed := a.prepare(&req)
		if failed == nil {
			p := &interpreter{k: k, ready: make(chan struct{}), begun: make(chan uint32, 1), ends: make(chan cellEnd, 1), over: make(chan struct{})}
			var files []int
			var err error
			if files, err = p.open(cmd.id.uid); err != nil {
				return nil, &agentproto.KernelFailed{Kind: agentproto.KernelNoStart, Message: err.Error()}
			}
			p.child, failed = cmd.spawn(a.reaper, files)
			closeFDs(files)
			if failed == nil {
				p.serve()
				return p, nil
			}
			p.close()
		}
		if failed.Kind != agentproto.FailNotFound {
			return nil, &agentproto.KernelFailed{Kind: agentproto.KernelNoStart, Message: failed.Message}
		}
	}
	return nil, &agentproto.KernelFailed{Kind: agentproto.KernelNoInterpreter,
		Message: fmt.Sprintf("the image has no interpreter of %s: there is no %s on PATH", k.lang.name, strings.Join(k.lang.programs, ", nor "))}
}

// open makes the process's files. It returns the process's own side of them.
func (p *interpreter) open(uid uint32) (files []int, err error) {
	null, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/null", Err: err}
	}
	var pipes [5][2]int // of 1 to 5
	for i := range pipes {
		if err := syscall.Pipe2(pipes[i][:], syscall.O_CLOEXEC); err != nil {
			_ = syscall.Close(null)
			for _, made := range pipes[:i] {
				closeFDs(made[:])
			}
			return nil, os.NewSyscallError("pipe", err)
		}
	}
	files = []int{null, pipes[0][1], pipes[1][1], pipes[2][0], pipes[3][1], pipes[4][0]}
	if uid != ownIdentity().uid {
		for _, fd := range files[1:3] { // so that /dev/stdout can be opened
			_ = syscall.Fchown(fd, int(uid), -1)
		}
	}
	p.outputs[0] = newOutput(agentproto.TypeKernelStdout, pipes[0][0])
	p.outputs[1] = newOutput(agentproto.TypeKernelStderr, pipes[1][0])
	p.commands, p.events, p.shown = pollable(pipes[2][1], "commands"), pollable(pipes[3][0], "events"), pollable(pipes[4][1], "shown")
	return files, nil
}

func (p *interpreter) close() {
	_ = p.commands.Close()
	_ = p.events.Close()
	_ = p.shown.Close()
	for _, o := range p.outputs {
		_ = o.file.Close()
	}
}

// serve starts the goroutines that wait for the process.
func (p *interpreter) serve() {
	for _, o := range p.outputs {
		p.working.Go(o.pump)
	}
	if p.k.lang.driver != "" {
		p.working.Go(func() {
			p.send(append(binary.BigEndian.AppendUint32(nil, uint32(len(p.k.lang.driver))), p.k.lang.driver...))
		})
	}
	deaf := make(chan struct{})
	go func() {
		defer close(deaf)
		_ = p.listen()
		p.kill() // it cannot say any more when a cell is over
	}()
	go func() {
		p.status = <-p.child.exit
		p.kill() // who is left of its process group
		_ = p.events.SetReadDeadline(time.Now().Add(lastWords))
		<-deaf
		p.drain()
		p.close()
		p.working.Wait()
		close(p.over)
	}()
}

func (p *interpreter) isOver() bool {
	select {
	case <-p.over:
		return true
	default:
		return false
	}
}

func (p *interpreter) signal(sig syscall.Signal) { _ = p.k.ks.a.reaper.signal(p.child, sig) }

func (p *interpreter) kill() { p.signal(syscall.SIGKILL) }

// send writes to the process. It fails when the process ends, which is seen elsewhere.
func (p *interpreter) send(b []byte) { _, _ = p.commands.Write(b) }

// begin makes output that comes from now on a cell's; nil is nobody's, and so is what is there already.
func (p *interpreter) begin(c *cell) {
	for _, o := range p.outputs {
		o.begin(c)
	}
}

// drain delivers what the process has written so far.
func (p *interpreter) drain() {
	for _, o := range p.outputs {
		o.drain()
	}
}

// words are the last that it wrote to stderr before it was ready.
func (p *interpreter) words() string {
	o := p.outputs[1]
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.ToValidUTF8(strings.TrimSpace(string(o.tail)), "\uFFFD")
}

var errEvent = errors.New("malformed event")

// listen reads events until there are no more, or until one is not an event.
func (p *interpreter) listen() error {
	in := bufio.NewReaderSize(p.events, 16<<10)
	var buf []byte
	isReady := false
	for {
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > maxEvent {
			return errEvent
		}
		if int(n) > cap(buf) {
			buf = make([]byte, n)
		}
		buf = buf[:n]
		if _, err := io.ReadFull(in, buf); err != nil {
			return err
		}
		e, err := parseEvent(buf)
		switch {
		case err != nil:
			return err
		case e.kind == 'R' && !isReady:
			isReady = true
			p.outputs[1].forget()
			close(p.ready)
		case e.kind == 'S':
			select {
			case p.begun <- e.number:
			default:
			}
		case e.kind == 'M':
			if c := p.k.current(); c != nil && c.number == e.number {
				p.drain()
				c.result(&e.result)
			}
			if !e.result.More {
				p.tell()
			}
		case e.kind == 'D':
			p.ended.Store(e.number)
			p.drain()
			select {
			case p.ends <- e.end:
			default: // nobody has asked for so many
			}
		}
	}
}

// tell says that one more value has been passed on. Who does not listen is not waited for.
func (p *interpreter) tell() {
	p.values++
	_ = p.shown.SetWriteDeadline(time.Now().Add(lastWords))
	_, _ = p.shown.Write(binary.BigEndian.AppendUint32(nil, p.values))
}

// event is one message of a driver.
type event struct {
	kind   byte
	number uint32
	result agentproto.KernelResult // of M
	end    cellEnd                 // of D
}

// cellEnd is what a driver says of the end of a cell.
type cellEnd struct {
	number      uint32
	how         byte
	code        int32
	name, words string
}

// Bounds of what a driver says of an error, in bytes.
const (
	maxErrorName  = 1 << 10
	maxErrorWords = 16 << 10
	maxMIME       = 127
)

// parseEvent reads an event. Its data aliases b.
func parseEvent(b []byte) (e event, err error) {
	if len(b) < 5 {
		return e, errEvent
	}
	e.kind, e.number = b[0], binary.BigEndian.Uint32(b[1:])
	b = b[5:]
	switch e.kind {
	case 'R', 'S':
	case 'M':
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return e, errEvent
		}
		mime := b[2 : 2+b[1]]
		for _, c := range mime {
			if c <= ' ' || c > '~' {
				return e, errEvent
			}
		}
		if len(mime) == 0 || len(mime) > maxMIME {
			return e, errEvent
		}
		e.result = agentproto.KernelResult{MIME: string(mime), Data: b[2+len(mime):], More: b[0] != 0}
	case 'D':
		if len(b) < 5 {
			return e, errEvent
		}
		name, words, _ := bytes.Cut(b[5:], []byte{0})
		e.end = cellEnd{number: e.number, how: b[0], code: int32(binary.BigEndian.Uint32(b[1:])),
			name: said(name, maxErrorName), words: said(words, maxErrorWords)}
	default:
		return e, errEvent
	}
	return e, nil
}

func said(b []byte, most int) string {
	return strings.ToValidUTF8(string(b[:min(len(b), most)]), "\uFFFD")
}

// done is what the client is told. stopped says why the cell was interrupted, if it was.
func (e *cellEnd) done(stopped agentproto.KernelStatus) *agentproto.KernelDone {
	d := &agentproto.KernelDone{Code: e.code, ErrorName: e.name, ErrorValue: e.words}
	switch e.how {
	case 'o':
		d.Status = agentproto.KernelOK
	case 'x':
		d.Status = agentproto.KernelExit
	case 'i':
		d.Status = agentproto.KernelInterrupted
	default:
		d.Status = agentproto.KernelError
	}
	if stopped != "" { // even if the code made the best of it
		d.Status = stopped
	}
	return d
}

// output is what a process writes to 1 or 2.
type output struct {
	t    agentproto.Type
	file *os.File

	mu   sync.Mutex // held from a read until what was read is delivered
	buf  *agentproto.DataBuffer
	cur  *cell
	tail []byte // the last of what was nobody's; nil: is not kept
}

// maxTail is how much of an interpreter's last words is kept, in bytes.
const maxTail = 2 << 10

func newOutput(t agentproto.Type, fd int) *output {
	return &output{t: t, file: pollable(fd, string(t)), buf: agentproto.NewDataBuffer(readSize), tail: make([]byte, 0, maxTail)}
}

// pump delivers what is written, until nobody can write it any more.
func (o *output) pump() {
	conn, err := o.file.SyscallConn()
	if err != nil {
		return
	}
	for {
		err := conn.Read(func(fd uintptr) bool {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(p, 0)
			return n > 0 || err != nil && err != unix.EINTR
		})
		if err != nil || !o.deliver(1) {
			return
		}
	}
}

// maxDrain bounds a drain: a pipe holds no more, and what is written meanwhile is no concern of it.
const maxDrain = 1 << 20

func (o *output) drain() { o.deliver(maxDrain) }

// deliver reads until least bytes are read or there are none. It reports false when there will be none.
func (o *output) deliver(least int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.readLocked(least)
}

func (o *output) readLocked(least int) bool {
	for least > 0 {
		n, err := o.readOnce()
		if err == syscall.EAGAIN {
			return true
		}
		if err != nil || n == 0 {
			return false
		}
		least -= n
		switch {
		case o.cur != nil:
			o.cur.output(o.t, o.buf, n)
		case o.tail != nil:
			o.tail = append(o.tail, o.buf.Space()[:n]...)
			o.tail = append(o.tail[:0], o.tail[max(0, len(o.tail)-maxTail):]...)
		}
	}
	return true
}

// readOnce reads what is there, into buf.
func (o *output) readOnce() (n int, err error) {
	conn, err := o.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	failed := conn.Control(func(fd uintptr) {
		for n, err = -1, syscall.EINTR; err == syscall.EINTR; {
			n, err = syscall.Read(int(fd), o.buf.Space())
		}
	})
	if failed != nil {
		return 0, failed
	}
	return n, err
}

func (o *output) begin(c *cell) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c != nil {
		o.readLocked(maxDrain)
	}
	o.cur = c
}

// forget ends the keeping of the tail.
func (o *output) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tail = nil
}
