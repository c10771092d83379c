package proxy

import (
	"io"
	"net"
	"sync"

	"github.com/microsandbox-go/microsandbox/internal/network/secret"
)

// pieces are what is copied through.
var pieces = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// pipe copies both ways until both directions have ended, and looks for secrets in what the guest sends. early was read
// from the host.
func (s *session) pipe(guest, host net.Conn, early []byte, plan *secret.Plan) {
	broken := func(err error) {
		if err == nil {
			return
		}
		s.violated(err)
		s.conn.Abort()
		_ = s.conn.Host.Close()
	}
	var up sync.WaitGroup
	up.Go(func() {
		err := copyAll(host, plan.Watch(guest, "its stream"), nil)
		if err == nil {
			err = closeWrite(host)
		}
		broken(err)
	})
	_, err := guest.Write(early)
	if err == nil {
		err = copyAll(guest, host, nil)
	}
	if err == nil {
		err = closeWrite(guest)
	}
	broken(err)
	up.Wait()
}

// copyAll copies until the end of from, which is no error. after, if any, is called after each piece.
func copyAll(to io.Writer, from io.Reader, after func() error) error {
	buf := pieces.Get().(*[32 << 10]byte)
	defer pieces.Put(buf)
	for {
		n, err := from.Read(buf[:])
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return werr
			}
			if after != nil {
				if aerr := after(); aerr != nil {
					return aerr
				}
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
