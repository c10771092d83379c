package gvisor

import (
	"context"
	"fmt"

	"gvisor.dev/gvisor/pkg/state/statefile"
	"gvisor.dev/gvisor/runsc/sandbox"
)

// Checkpoint saves the sandbox's kernel and memory into dir, uncompressed, so that a restore can map the pages.
func (i *instance) Checkpoint(_ context.Context, dir string) error {
	err := i.c.Sandbox.Checkpoint(i.conf, i.id, dir, sandbox.CheckpointOpts{
		Compression: statefile.CompressionLevelNone, Resume: true, ExcludeCommittedZeroPages: true,
	})
	if err != nil {
		return fmt.Errorf("checkpoint the sandbox: %w", err)
	}
	return nil
}
