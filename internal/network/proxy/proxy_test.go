package proxy

import (
	"testing"
)

func TestIntercept(t *testing.T) {
	b := newBed(t, opts{tls: on})
	b.serve(goodIP+":443", helloHandler, good)
	c := b.client(nil)
	if status, body := get(c, request(t, "GET", "https://"+good+"/a", nil)); status != 200 || body != "GET "+good+" /a 0" {
		t.Errorf("%d %q", status, body)
	}
}
