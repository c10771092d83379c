package runner

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestOwnMemory(t *testing.T) {
	debug.FreeOSMemory()
	most := ownMemory() + 64<<20
	if takesMore(most) {
		t.Fatal("too much before there is anything")
	}
	b := make([]byte, 128<<20)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	if !takesMore(most) {
		t.Error("128 MiB are not seen")
	}
	runtime.KeepAlive(b)
	b = nil
	if takesMore(most) {
		t.Error("garbage counts")
	}
}
