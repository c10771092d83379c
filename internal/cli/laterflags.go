package cli

// declareLater declares the flags of contract msb-0.6 §1.2 that belong to parts which are not there yet: snapshots,
// named volumes, a guest kernel of its own. Each moves to sandboxflags.go with its part.
func declareLater(f *flags) {
	f.group("")
	for _, l := range [...]struct{ short, name, value, help string }{
		{"", "from-snapshot", "SNAPSHOT", "Start from a snapshot"},
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
	f.refuse("", "vsock", "SOCKET:PORT[/KIND]", "Offer a host socket to the guest", "not supported: "+needsVM, "reach it by TCP: --net host")
}
