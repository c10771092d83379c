//go:build tools

package main

// runsc is built from the gVisor version that the product embeds, as the peer that it is compared with.
import _ "gvisor.dev/gvisor/runsc"
