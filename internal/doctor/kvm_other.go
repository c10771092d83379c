//go:build !amd64

package doctor

import "errors"

// tryKVM has no guest for this architecture.
func tryKVM() error { return errors.New("there is no way to try it on this architecture yet") }
