// Package rootfs decides what one sandbox's root holds beyond what the guest sees of its image: the image's devices, the files
// that name the machine and its network, the user's scripts and patches. They travel as one tar on the control connection, made as it is sent, and are
// unpacked by the agent before it says that it is ready.
package rootfs

import (
	"archive/tar"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// scriptsDir is where scripts are found by the guest's PATH (contract msb-0.6 §1.2).
const scriptsDir = ".msb/scripts/"

// trustFile is where the guest finds what it is to trust.
const trustFile = ".msb/tls/ca.pem"

// Network is what the guest is told of its network. The zero value is none.
type Network struct {
	IPv4, IPv6 netip.Addr // of the guest
	DNS        []netip.Addr
	Gateway    netip.Addr // host.microsandbox.internal
	Trust      []byte     // certificates, in PEM, that it is to trust beside its own
}

// Write writes the tar for spec and the devices of its image. A patch that cannot be made is a PatchFailed error.
func Write(w io.Writer, devices []*erofs.Entry, spec sandbox.Spec, n Network) error {
	t := &writer{tar: tar.NewWriter(&bounded{w: w, left: agentproto.MaxFiles})}
	if err := t.devices(devices); err != nil {
		return err
	}
	host := spec.Runtime.Hostname
	for _, f := range [][2]string{{"etc/hostname", host + "\n"}, {"etc/hosts", hosts(host, n)}, {"etc/resolv.conf", resolvConf(n)}} {
		if spec.OnHost("/" + f[0]) {
			continue // a mount of the user's: what is there is this machine's, and not ours to write
		}
		if err := t.file(f[0], 0o644, f[1], ""); err != nil {
			return err
		}
	}
	for _, p := range spec.Patches {
		if err := t.patch(p); err != nil {
			return err
		}
	}
	if len(n.Trust) > 0 {
		if err := t.file(trustFile, 0o644, string(n.Trust), agentproto.FilesTrust); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Runtime.Scripts)) {
		if err := t.file(scriptsDir+name, 0o755, spec.Runtime.Scripts[name], ""); err != nil {
			return err
		}
	}
	if err := t.tar.Close(); err != nil {
		return fmt.Errorf("pack the sandbox's files: %w", err)
	}
	return nil
}

// bounded refuses more bytes than the agent takes.
type bounded struct {
	w    io.Writer
	left int64
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, &sandbox.Error{Kind: sandbox.PatchFailed, Message: fmt.Sprintf("scripts and patches take more than %d MiB", agentproto.MaxFiles>>20),
			Hint: "mount large directories with -v in place of copying them"}
	}
	return b.w.Write(p)
}

// writer writes entries that carry, where they are not simply to be there, what the agent is to do with them.
type writer struct{ tar *tar.Writer }

func (t *writer) header(h *tar.Header, op agentproto.FilesOp) error {
	h.Name = strings.TrimPrefix(h.Name, "/")
	h.Format = tar.FormatPAX
	if op != "" {
		h.PAXRecords = map[string]string{agentproto.FilesOpRecord: string(op)}
	}
	if err := t.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("pack %s: %w", h.Name, err)
	}
	return nil
}

func (t *writer) file(name string, mode int64, body string, op agentproto.FilesOp) error {
	if err := t.header(&tar.Header{Name: name, Mode: mode, Size: int64(len(body)), Typeflag: tar.TypeReg}, op); err != nil {
		return err
	}
	if _, err := io.WriteString(t.tar, body); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	return nil
}

func hosts(name string, n Network) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	own := "127.0.1.1"
	if n.IPv4.IsValid() {
		own = n.IPv4.String()
	}
	fmt.Fprintf(&b, "%s\t%s\n", own, name)
	if n.Gateway.IsValid() {
		fmt.Fprintf(&b, "%s\thost.microsandbox.internal\n", n.Gateway)
	}
	return b.String()
}

func resolvConf(n Network) string {
	var b strings.Builder
	for _, a := range n.DNS {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	return b.String()
}
