package sandbox

import (
	"net"
	"time"
)

// HostName is what a guest calls the machine that its sandbox is on.
const HostName = "host.microsandbox.internal"

// Events of a [Flow].
const (
	FlowOpen  = "open"  // it began
	FlowClose = "close" // it ended; Sent, Received and DurationMS are final
	FlowDeny  = "deny"  // it was refused
	FlowLive  = "live"  // it goes on, in an answer about now
)

// Flow is one connection or exchange of datagrams of a sandbox, or a try of one that was refused. Its JSON is a line of the
// flow log.
type Flow struct {
	Time       time.Time `json:"time"` // of the event; of a live one, when it began
	Event      string    `json:"event"`
	ID         uint64    `json:"id,omitempty"` // the same in all events of a flow; refusals have none
	Protocol   string    `json:"protocol"`     // tcp, udp, icmpv4, icmpv6; dns where a name was refused
	Direction  string    `json:"direction"`    // egress | ingress
	GuestPort  uint16    `json:"guest_port,omitempty"`
	Peer       string    `json:"peer,omitempty"` // address and port of the far end; of ICMP, the address
	Name       string    `json:"name,omitempty"` // what the guest calls it, where that is known
	Verdict    string    `json:"verdict"`        // allow | deny
	Rule       int       `json:"rule"`           // index of the policy's rule; -1 its default, -2 what no rule can change
	Reason     string    `json:"reason"`
	Sent       uint64    `json:"sent"`     // payload bytes from the guest
	Received   uint64    `json:"received"` // payload bytes to the guest
	DurationMS int64     `json:"duration_ms,omitempty"`
	Count      int       `json:"count,omitempty"`      // of a refusal: how often, so far
	Suppressed int       `json:"suppressed,omitempty"` // lines that were left out since the last one
}

// Denied is the words in which a refusal is told, e.g. "denied by policy: example.org".
func (f Flow) Denied() string {
	if f.Name == HostName { // which says less than the port: what listens there is all one machine's
		if _, port, err := net.SplitHostPort(f.Peer); err == nil {
			return "denied by policy: " + net.JoinHostPort(HostName, port)
		}
	}
	if f.Name != "" {
		return "denied by policy: " + f.Name
	}
	return "denied by policy: " + f.Peer
}

// NetworkState is what goes on in the network of a running sandbox.
type NetworkState struct {
	Policy   NetworkPolicy   `json:"policy"` // today's
	Ports    []Port          `json:"ports"`
	Flows    []Flow          `json:"flows"`  // that go on, the oldest first
	Denied   []Flow          `json:"denied"` // destinations that were refused lately, each with its count, the oldest first
	Counters NetworkCounters `json:"counters"`
}

// NetworkCounters count from the sandbox's start. Rx is what came to the guest, Tx what it sent.
type NetworkCounters struct {
	RxBytes     uint64 `json:"rx_bytes"`
	TxBytes     uint64 `json:"tx_bytes"`
	RxPackets   uint64 `json:"rx_packets"`
	TxPackets   uint64 `json:"tx_packets"`
	Connections uint64 `json:"connections"` // TCP, in both directions
	Flows       uint64 `json:"flows"`       // exchanges of datagrams
	Open        uint64 `json:"open"`        // TCP connections now
	Denied      uint64 `json:"denied"`      // by policy
	Refused     uint64 `json:"refused"`     // for want of room
}
