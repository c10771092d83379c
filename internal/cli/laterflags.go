package cli

// declareLater declares the flags of contract msb-0.6 §1.2 that belong to parts which are not there yet: snapshots,
// named volumes, secrets, a guest kernel of its own. Each moves to sandboxflags.go with its part.
func declareLater(f *flags) {
	f.group("")
	for _, l := range [...]struct{ short, name, value, help string }{
		{"", "from-snapshot", "SNAPSHOT", "Start from a snapshot"},
		{"", "conf", "PATH", "Read the sandbox's configuration from a file"},
		{"", "net-conf", "PATH", "Read its network configuration from a file"},
		{"", "resource-conf", "PATH", "Read its resources and lifetime from a file"},
		{"", "runtime-conf", "PATH", "Read how commands run in it from a file"},
		{"", "fs-conf", "PATH", "Read its mounts and files from a file"},
		{"", "secret-conf", "PATH", "Read its secrets from a file"},
		{"", "script-conf", "PATH", "Read its scripts from a file"},
		{"", "trust-host-cas", "", "Trust the certificate authorities of this machine"},
		{"", "proxy", "URL", "Connect through a SOCKS proxy"},
		{"", "socks4-user-id", "ID", "User of a SOCKS4 proxy"},
		{"", "socks5-username", "NAME", "User of a SOCKS5 proxy"},
		{"", "socks5-password-env", "VARIABLE", "Where the password of a SOCKS5 proxy is"},
		{"", "tls-intercept", "", "Look into TLS connections"},
		{"", "tls-intercept-port", "PORT", "Port on which to do so"},
		{"", "tls-bypass", "DOMAIN", "Do not look into those to this domain"},
		{"", "no-block-quic", "", "Let QUIC through all the same"},
		{"", "tls-intercept-ca-cert", "PATH", "Certificate authority to do so with"},
		{"", "tls-intercept-ca-key", "PATH", "Its key"},
		{"", "tls-upstream-ca-cert", "PATH", "Certificate authority to trust in servers"},
		{"", "tls-upstream-ca-cert-for", "PATTERN=PATH", "The same, for some servers"},
		{"", "tls-no-verify-upstream-for", "PATTERN", "Trust these servers without proof"},
		{"", "secret", "ENV@HOST[,HOST...]", "Secret that only these hosts get to see"},
		{"", "on-secret-violation", "ACTION", "What happens when another host would"},
		{"", "from-snap", "SNAPSHOT", "Start from a snapshot; now --from-snapshot"},
	} {
		f.notYet(l.short, l.name, l.value, l.help)
	}
	f.hide("from-snap")
}

// needsVM is why some of contract msb-0.6 cannot be done by a kernel in user space.
const needsVM = "it needs a virtual machine, and the microvm driver is not there yet"

// declareVM declares the flags that ask for what only a guest with a kernel and devices of its own has.
func declareVM(f *flags) {
	f.group("")
	f.refuse("", "thp", "POLICY", "Huge pages of the guest's kernel", "not supported: gVisor's kernel has no huge pages of its own", "leave it out, or say madvise", "madvise")
	f.refuse("", "placement-profile", "NAME", "Placement by a profile of the host", "not supported: guests have no memory nodes of their own", "use --cpu-placement")
	f.refuse("", "mount-disk", "SOURCE:DEST[:OPTIONS]", "Mount a disk image", "not supported: "+needsVM, "mount a directory: -v ./DIR:DEST")
	f.refuse("", "vsock", "SOCKET:PORT[/KIND]", "Offer a host socket to the guest", "not supported: "+needsVM, "mount the directory of the socket's program, or reach it by TCP: --net host")
	const why, hint = "not supported yet: the agent is PID 1", "run it as the command instead"
	f.refuse("", "init", "PATH|auto", "Let another program be PID 1", why, hint)
	f.refuse("", "init-arg", "ARG", "Argument of that program", why, hint)
	f.refuse("", "init-env", "KEY=VALUE", "Environment of that program", why, hint)
}
