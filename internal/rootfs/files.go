// Package rootfs decides what one sandbox's root holds beyond its image: the files that name the machine and its
// network, and the user's scripts. They travel as one tar on the control connection and are unpacked by the agent before
// it says that it is ready.
package rootfs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// MaxFiles is the most that the tar may hold, in bytes.
const MaxFiles = 64 << 20

// scriptsDir is where scripts are found by the guest's PATH (contract msb-0.6 §1.2).
const scriptsDir = ".msb/scripts/"

// Network is what the guest is told of its network. The zero value is none.
type Network struct {
	IPv4, IPv6 netip.Addr // of the guest
	DNS        []netip.Addr
	Gateway    netip.Addr // host.microsandbox.internal
}

// Files returns the tar for spec, and whether there are scripts in it.
func Files(spec sandbox.Spec, n Network) (files []byte, scripts bool, err error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(name string, mode int64, body string) {
		if err == nil {
			err = w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(body)), Typeflag: tar.TypeReg, Format: tar.FormatPAX})
		}
		if err == nil {
			_, err = w.Write([]byte(body))
		}
	}
	host := spec.Runtime.Hostname
	add("etc/hostname", 0o644, host+"\n")
	add("etc/hosts", 0o644, hosts(host, n))
	add("etc/resolv.conf", 0o644, resolvConf(n))
	for _, name := range slices.Sorted(maps.Keys(spec.Runtime.Scripts)) {
		add(scriptsDir+name, 0o755, spec.Runtime.Scripts[name])
		scripts = true
	}
	if err == nil {
		err = w.Close()
	}
	switch {
	case err != nil:
		return nil, false, fmt.Errorf("pack the sandbox's files: %w", err)
	case b.Len() > MaxFiles:
		return nil, false, &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("the scripts take %d MiB", b.Len()>>20),
			Hint: fmt.Sprintf("keep them under %d MiB together", MaxFiles>>20)}
	}
	return b.Bytes(), scripts, nil
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
