package sandbox

import "time"

// MetricsState says how current [Metrics] are.
type MetricsState string

// The states: sampled as it should be, not for three intervals, no more.
const (
	MetricsRunning MetricsState = "running"
	MetricsStalled MetricsState = "stalled"
	MetricsExited  MetricsState = "exited"
)

// Metrics are one sample of what a sandbox uses (contract msb-0.6 §2.6). Counters run from the start of its last run; a nil
// field is not known here. Its JSON is that of msb metrics.
type Metrics struct {
	Ref       Ref          `json:"-"`
	Name      Name         `json:"name"`
	State     MetricsState `json:"state"`
	CPUs      int          `json:"cpus"` // that it may use
	Timestamp time.Time    `json:"timestamp"`

	CPUPercent float64 `json:"cpu_percent"`  // over the last interval; 100 is one CPU
	CPUTimeNS  uint64  `json:"vcpu_time_ns"` // of the guest and its kernel

	MemoryBytes             uint64  `json:"memory_bytes"` // that the guest holds, files in memory included
	MemoryAvailableBytes    *uint64 `json:"memory_available_bytes"`
	MemoryHostResidentBytes *uint64 `json:"memory_host_resident_bytes"` // with its kernel and helpers
	MemoryLimitBytes        uint64  `json:"memory_limit_bytes"`

	DiskReadBytes  uint64 `json:"disk_read_bytes"`
	DiskWriteBytes uint64 `json:"disk_write_bytes"`

	NetRxBytes uint64 `json:"net_rx_bytes"` // payload, as the guest sees it
	NetTxBytes uint64 `json:"net_tx_bytes"`

	// Of the writable layer that is kept on the host.
	UpperUsedBytes          *uint64 `json:"upper_used_bytes"`
	UpperFreeBytes          *uint64 `json:"upper_free_bytes"`
	UpperHostAllocatedBytes *uint64 `json:"upper_host_allocated_bytes"`

	UptimeSecs uint64 `json:"uptime_secs"`
}
