//go:build !linux || !(amd64 || arm64)

package vfork

func forkExec(string, []string, *Attr) (pid int, err error, ok bool) { return 0, nil, false }
