package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// keepalive is how often a stream says that it is there.
const keepalive = 15 * time.Second

var errDraining = errors.New("the server is stopping")

// stream answers with server-sent events: the blocks that produce sends. The first one, which may be empty, begins the answer; begun says
// whether that was so, for until then an error can be answered as one. It ends with produce, when the client goes, which is no error, or
// when stop is closed, which is errDraining.
func (r *request) stream(stop <-chan struct{}, produce func(ctx context.Context, send func(block []byte) error) error) (begun bool, err error) {
	ctx, cancel := context.WithCancel(r.Context())
	blocks, ended, done := make(chan []byte), make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		ended <- produce(ctx, func(b []byte) error {
			select {
			case blocks <- b:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	}()
	defer func() { cancel(); <-done }()
	control := http.NewResponseController(r.w)
	write := func(b []byte) error {
		if !begun {
			begun = true
			head := r.w.Header()
			head.Set("Content-Type", "text/event-stream")
			head.Set("Cache-Control", "no-store")
			head.Set("X-Accel-Buffering", "no")
			r.w.WriteHeader(http.StatusOK)
		}
		if len(b) > 0 {
			if _, err := r.w.Write(b); err != nil {
				return err
			}
		}
		return control.Flush()
	}
	tick := time.NewTicker(keepalive)
	defer tick.Stop()
	for {
		gone := error(nil)
		select {
		case b := <-blocks:
			gone = write(b)
		case <-tick.C:
			gone = write([]byte(": keepalive\n\n"))
		case err := <-ended:
			return begun, err
		case <-stop:
			return begun, errDraining
		case <-ctx.Done():
			return begun, nil
		}
		if gone != nil {
			return begun, nil
		}
	}
}

// sse is one event, which a client can go on behind if it has an id.
func sse(id, event string, v any) ([]byte, error) {
	var data, b bytes.Buffer
	enc := json.NewEncoder(&data)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	if id != "" {
		fmt.Fprintf(&b, "id: %s\n", id)
	}
	fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", event, bytes.TrimSpace(data.Bytes()))
	return b.Bytes(), nil
}
