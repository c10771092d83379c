package proxy

import (
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"sync"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/network/secret"
)

// handlerWriter is a ResponseWriter that must not be used when its handler is over, as that of an HTTP server is.
type handlerWriter struct {
	http.ResponseWriter
	t    *testing.T
	mu   sync.Mutex
	over bool
}

func (w *handlerWriter) use() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		w.t.Error("the answer was used after its handler")
	}
}

func (w *handlerWriter) Header() http.Header  { w.use(); return w.ResponseWriter.Header() }
func (w *handlerWriter) WriteHeader(code int) { w.use(); w.ResponseWriter.WriteHeader(code) }

// TestNothingIsToldAfterTheHandler has a server that goes on sending informative answers when the request is over: the
// transport tells of them in a goroutine of its own, where a panic would end the runner.
func TestNothingIsToldAfterTheHandler(t *testing.T) {
	set, err := secret.New(nil, nil)
	must(t, err)
	w := &handlerWriter{ResponseWriter: httptest.NewRecorder(), t: t}
	trace, answered := informer(w, set.For(secret.Target{}))
	told, stop := make(chan struct{}), make(chan struct{})
	var server sync.WaitGroup
	server.Go(func() {
		for n := 0; ; n++ {
			must(t, trace.Got1xxResponse(http.StatusEarlyHints, textproto.MIMEHeader{"Link": {"</a>"}}))
			if n == 0 {
				close(told)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	<-told
	answered()
	w.mu.Lock()
	w.over = true
	w.mu.Unlock()
	must(t, trace.Got1xxResponse(http.StatusEarlyHints, textproto.MIMEHeader{"Link": {"</a>"}}))
	close(stop)
	server.Wait()
}
