package sshserver

import (
	"io"
	"net"
	"os"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/console"
)

// Stdio is a connection made of two files, which stay open. Deadlines do nothing.
func Stdio(in, out *os.File) net.Conn {
	c := &stdio{out: out}
	c.in, c.err = console.NewInput(in)
	return c
}

type stdio struct {
	in  *console.Input
	out *os.File
	err error
}

func (c *stdio) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.in.Read(p)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

func (c *stdio) Write(p []byte) (int, error) { return c.out.Write(p) }

func (c *stdio) Close() error {
	if c.in == nil {
		return nil
	}
	return c.in.Close()
}

func (c *stdio) LocalAddr() net.Addr              { return stdioAddr{} }
func (c *stdio) RemoteAddr() net.Addr             { return stdioAddr{} }
func (c *stdio) SetDeadline(time.Time) error      { return nil }
func (c *stdio) SetReadDeadline(time.Time) error  { return nil }
func (c *stdio) SetWriteDeadline(time.Time) error { return nil }

type stdioAddr struct{}

func (stdioAddr) Network() string { return "stdio" }
func (stdioAddr) String() string  { return "stdio" }
