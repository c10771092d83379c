package agent

import (
	"os"
	"strconv"
	"sync"
	"syscall"
	"unsafe"
)

// stdio is the agent's side of a command's standard files, and the command's side of them until it has started.
type stdio struct {
	child [3]int // the command's; for a PTY all the same

	out, err *os.File // what to read; err is nil for a PTY

	mu    sync.Mutex
	in    *os.File // what to write, once something is to be written
	inFD  int      // before that; -1 when closed
	isTTY bool
}

// spare keeps the pipes of the command after this one: to make them is a fifth of what a small command takes, and nobody waits for it
// when one has ended.
type spare struct {
	mu    sync.Mutex
	pipes *stdio
}

// take returns pipes that belong to the user who runs, so that /dev/stdout can be opened.
func (s *spare) take(uid uint32) (*stdio, error) {
	s.mu.Lock()
	std := s.pipes
	s.pipes = nil
	s.mu.Unlock()
	if std == nil {
		var err error
		if std, err = openPipes(); err != nil {
			return nil, err
		}
	}
	if uid != ownIdentity().uid {
		for _, fd := range std.child {
			_ = syscall.Fchown(fd, int(uid), -1)
		}
	}
	return std, nil
}

// fill makes the pipes for the next. Without them it makes its own, and says why it cannot.
func (s *spare) fill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pipes == nil {
		s.pipes, _ = openPipes()
	}
}

// close closes them.
func (s *spare) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pipes != nil {
		s.pipes.closeChild()
		s.pipes.close()
		s.pipes = nil
	}
}

// openPipes makes three pipes.
func openPipes() (*stdio, error) {
	var p [3][2]int
	for i := range p {
		if err := syscall.Pipe2(p[i][:], syscall.O_CLOEXEC); err != nil {
			for _, made := range p[:i] {
				closeFDs(made[:])
			}
			return nil, os.NewSyscallError("pipe", err)
		}
	}
	s := &stdio{child: [3]int{p[0][0], p[1][1], p[2][1]}, inFD: p[0][1]}
	s.out, s.err = pollable(p[1][0], "stdout"), pollable(p[2][0], "stderr")
	return s, nil
}

// openPTY makes a pseudo-terminal of the given size.
func openPTY(uid uint32, rows, cols uint16) (*stdio, error) {
	master, err := syscall.Open("/dev/ptmx", syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	var unlock, number int32
	err = ioctl(master, syscall.TIOCSPTLCK, unsafe.Pointer(&unlock))
	if err == nil {
		err = ioctl(master, syscall.TIOCGPTN, unsafe.Pointer(&number))
	}
	if err != nil {
		_ = syscall.Close(master)
		return nil, os.NewSyscallError("ioctl", err)
	}
	name := "/dev/pts/" + strconv.Itoa(int(number))
	slave, err := syscall.Open(name, syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		_ = syscall.Close(master)
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	_ = setWinsize(master, rows, cols)
	if uid != ownIdentity().uid {
		_ = syscall.Fchown(slave, int(uid), -1)
	}
	s := &stdio{child: [3]int{slave, slave, slave}, inFD: -1, isTTY: true}
	s.out = pollable(master, "pty")
	s.in = s.out
	return s, nil
}

// pollable makes a file that waits in the poller and not in a thread.
func pollable(fd int, name string) *os.File {
	_, _, _ = syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_SETFL, syscall.O_NONBLOCK)
	return os.NewFile(uintptr(fd), name)
}

// closeChild closes the command's side, which it has inherited by now, or never will.
func (s *stdio) closeChild() {
	if s.isTTY {
		closeNow(s.child[0])
		return
	}
	closeFDs(s.child[:])
}

// stdin returns the file to write to. It is nil when the input is closed.
func (s *stdio) stdin() *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in == nil && s.inFD >= 0 {
		s.in, s.inFD = pollable(s.inFD, "stdin"), -1
	}
	return s.in
}

// closeStdin gives the command its end of file. A PTY has none.
func (s *stdio) closeStdin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isTTY {
		return
	}
	if s.in != nil {
		_ = s.in.Close()
		s.in = nil
	}
	if s.inFD >= 0 {
		closeNow(s.inFD)
		s.inFD = -1
	}
}

// close closes the agent's side.
func (s *stdio) close() {
	s.closeStdin()
	_ = s.out.Close()
	if s.err != nil {
		_ = s.err.Close()
	}
}

// resize sets the size of a PTY.
func (s *stdio) resize(rows, cols uint16) {
	if !s.isTTY {
		return
	}
	if c, err := s.out.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { _ = setWinsize(int(fd), rows, cols) })
	}
}

func setWinsize(fd int, rows, cols uint16) error {
	size := [4]uint16{rows, cols}
	return ioctl(fd, syscall.TIOCSWINSZ, unsafe.Pointer(&size))
}

func ioctl(fd int, request uint, arg unsafe.Pointer) error {
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg)); e != 0 {
		return e
	}
	return nil
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		closeNow(fd)
	}
}
