package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Failures that the contents of an image cause. They come wrapped, with the layer that they are in.
var (
	ErrDigest    = errors.New("the contents do not match the digest")
	ErrTruncated = errors.New("the contents end early")
	ErrDiffID    = errors.New("the unpacked layer does not match the configuration")
	ErrTooLarge  = errors.New("the image is larger than the limit")
	ErrUnsafe    = errors.New("the archive is not safe to unpack")
	ErrFormat    = errors.New("the archive is damaged")
)

var hints = []struct {
	err  error
	hint string
}{
	{ErrDigest, "the registry, or something on the way to it, changed the bytes: try again, or pull from another registry"},
	{ErrTruncated, "try again: finished layers are kept"},
	{ErrDiffID, "the image was built wrongly: build or push it again"},
	{ErrTooLarge, "if you trust the image, raise the limit in config.json"},
	{ErrUnsafe, "do not use this image: it looks made to do harm"},
	{erofs.ErrDevices, "do not use this image: it looks made to do harm"},
	{ErrFormat, "the image was built wrongly: build or push it again"},
}

// pullError tells the user what a failure to get ref from its registry means.
func (s *Store) pullError(ref Reference, err error) error {
	var e *sandbox.Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	out := &sandbox.Error{Op: "pull image", Kind: sandbox.ImagePullFailed, Message: ref.Short(), Err: oneLine{err}}
	var answer *transport.Error
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		out.Kind = sandbox.Cancelled
		return out
	case ofDisk(err):
		return storeError("pull "+ref.Short(), s.home, err)
	case strings.Contains(err.Error(), "x509:") || strings.Contains(err.Error(), "tls:"):
		out.Message = fmt.Sprintf("%s: %s is not trusted", ref.Short(), ref.Registry)
		out.Hint = "give its certificate authority with --ca-certs, or use --insecure on a network that you trust"
		return out
	case errors.As(err, &answer):
		s.answered(out, ref, answer)
		return out
	case errors.As(err, &dns), errors.As(err, &op) && op.Op == "dial":
		out.Message = fmt.Sprintf("%s: cannot reach %s", ref.Short(), ref.Registry)
		out.Hint = "check the network and the name; an image that was pulled before runs without either"
		return out
	}
	for _, h := range hints {
		if errors.Is(err, h.err) {
			out.Hint = h.hint
			break
		}
	}
	return out
}

// oneLine is an error that a registry may have had a say in, on one line of a length that can be read.
type oneLine struct{ error }

func (e oneLine) Unwrap() error { return e.error }

func (e oneLine) Error() string {
	s := strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, e.error.Error()))
	if len(s) > 400 {
		s = strings.ToValidUTF8(s[:400], "") + "…"
	}
	return s
}

// answered tells what an error that the registry answered with means.
func (s *Store) answered(out *sandbox.Error, ref Reference, answer *transport.Error) {
	out.Err = short(answer)
	switch code := answer.StatusCode; {
	case code == http.StatusNotFound:
		out.Kind = sandbox.ImageNotFound
		out.Message = fmt.Sprintf("%s: %s does not have it", ref.Short(), ref.Registry)
		out.Hint = "check the name and the tag"
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		out.Message = fmt.Sprintf("%s: %s wants other credentials", ref.Short(), ref.Registry)
		out.Hint = "msb registry login " + ref.Registry
		if ref.Registry == dockerHub {
			out.Hint = "check the name, for Docker Hub says the same of images that do not exist; or: " + out.Hint
		}
	case code == http.StatusTooManyRequests:
		out.Message = fmt.Sprintf("%s: %s has had too many requests", ref.Short(), ref.Registry)
		out.Hint = "wait, or log in for a higher limit: msb registry login " + ref.Registry
	}
}

// short is what a registry said, on one line.
func short(e *transport.Error) error {
	for _, d := range e.Errors {
		if d.Message != "" {
			return fmt.Errorf("%d %s: %.200q", e.StatusCode, d.Code, d.Message)
		}
		if d.Code != "" {
			return fmt.Errorf("%d %s", e.StatusCode, d.Code)
		}
	}
	return fmt.Errorf("%d %s", e.StatusCode, http.StatusText(e.StatusCode))
}

// ofDisk reports whether err is of this machine's files rather than of the network or the image.
func ofDisk(err error) bool {
	var p *fs.PathError
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EIO) ||
		errors.As(err, &p) && !errors.Is(err, io.ErrUnexpectedEOF) && !strings.HasPrefix(p.Op, "erofs ")
}

// temporary reports whether a request that failed so may work the next time.
func temporary(err error) bool {
	var answer *transport.Error
	if errors.As(err, &answer) {
		switch answer.StatusCode {
		case http.StatusRequestTimeout, http.StatusTooManyRequests:
			return true
		}
		return answer.StatusCode >= 500
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns.IsTemporary || dns.IsTimeout
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return false // who is offline wants to know it now
	}
	var timeout net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) || errors.Is(err, errStalled) ||
		errors.As(err, &timeout) && timeout.Timeout() ||
		strings.Contains(err.Error(), "stream error") || strings.Contains(err.Error(), "server closed idle connection") ||
		strings.Contains(err.Error(), "GOAWAY")
}
