package runner

import (
	"log/slog"
	"sync"

	"github.com/microsandbox-go/microsandbox/internal/metering"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// samples holds the last sample for whoever asks the runner for it. The zero value has none.
type samples struct {
	mu   sync.Mutex
	last metering.Sample
}

func (s *samples) put(m metering.Sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = m
}

// get encodes the last sample. Kind: MetricsUnavailable.
func (s *samples) get() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last.At.IsZero() {
		return nil, &sandbox.Error{Kind: sandbox.MetricsUnavailable, Message: "there is no sample yet"}
	}
	return s.last.Encode(), nil
}

// metricsFile records samples on the disk, from where they can be read without asking anybody, and after the runner's end. A
// sample that comes while another one is being written is left out.
type metricsFile struct {
	queue chan metering.Sample
	done  chan struct{}
	last  *metering.Sample // to be written at the end; set before close
}

func newMetricsFile(dir string, log *slog.Logger) *metricsFile {
	f := &metricsFile{queue: make(chan metering.Sample, 1), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		if err := f.run(dir); err != nil {
			log.Warn("there are no metrics on the disk", "err", err)
			for range f.queue { // until it is closed
			}
		}
	}()
	return f
}

func (f *metricsFile) run(dir string) error {
	out, err := metering.Create(dir)
	if err != nil {
		return err
	}
	defer out.Close()
	for m := range f.queue {
		if err := out.Write(&m); err != nil {
			return err
		}
	}
	if f.last != nil {
		return out.Write(f.last)
	}
	return nil
}

// write never waits.
func (f *metricsFile) write(m metering.Sample) {
	select {
	case f.queue <- m:
	default:
	}
}

// close returns when all is written.
func (f *metricsFile) close() {
	close(f.queue)
	<-f.done
}
