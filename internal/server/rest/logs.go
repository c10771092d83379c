package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// keepalive is how often a stream says that it is there.
const keepalive = 15 * time.Second

// logOptions reads what part of a log is wanted. Clients of ours may bound it.
func (r *request) logOptions() (opt sandbox.LogOptions, err error) {
	q := r.URL.Query()
	opt.Follow = q.Get("follow") != "false"
	opt.Cursor = r.Header.Get("Last-Event-ID")
	if c := q.Get("cursor"); c != "" && opt.Cursor == "" {
		opt.Cursor = c
	}
	if s := q.Get("sources"); s != "" {
		for word := range strings.SplitSeq(s, ",") {
			switch source := sandbox.LogSource(word); source {
			case sandbox.LogStdout, sandbox.LogStderr, sandbox.LogOutput, sandbox.LogSystem, sandbox.LogBootError:
				opt.Sources = append(opt.Sources, source)
			default:
				return opt, invalid("sources is not a list of stdout, stderr, output and system")
			}
		}
	}
	for name, to := range map[string]*time.Time{"since": &opt.Since, "until": &opt.Until} {
		if s := q.Get(name); s != "" {
			if *to, err = time.Parse(time.RFC3339Nano, s); err != nil {
				return opt, invalid(name + " is not a time")
			}
		}
	}
	if s := q.Get("tail"); s != "" {
		if opt.Tail, err = strconv.Atoi(s); err != nil || opt.Tail < 1 {
			return opt, invalid("tail is not a number from 1")
		}
	}
	return opt, nil
}

// logs is a stream of events (contract msb-0.6 §3.5).
func (h *Handler) logs(r *request, info sandbox.Info) (any, error) {
	reader, ok := h.backend.(backend.LogReader)
	if !ok {
		return nil, &sandbox.Error{Kind: sandbox.Unsupported, Message: "this server has no logs"}
	}
	opt, err := r.logOptions()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	stream, err := reader.OpenLogs(ctx, info.Ref, opt)
	if err != nil {
		return nil, err
	}
	blocks, failed := make(chan []byte), make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer stream.Close()
		failed <- entries(ctx, stream, blocks)
	}()
	defer func() { cancel(); <-done }()

	head := r.w.Header()
	head.Set("Content-Type", "text/event-stream")
	head.Set("Cache-Control", "no-store")
	head.Set("X-Accel-Buffering", "no")
	r.w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(r.w)
	_ = control.Flush()
	tick := time.NewTicker(keepalive)
	defer tick.Stop()
	for {
		var err error
		select {
		case b := <-blocks:
			_, err = r.w.Write(b)
		case <-tick.C:
			_, err = io.WriteString(r.w, ": keepalive\n\n")
		case err := <-failed:
			if err == io.EOF {
				_, _ = io.WriteString(r.w, "event: end\ndata: {}\n\n")
				return streamed, nil
			}
			panic(http.ErrAbortHandler) // the client is not to take it for the end
		case <-h.server.Draining(): // another server goes on, behind the last event
			panic(http.ErrAbortHandler)
		case <-ctx.Done():
			return streamed, nil
		}
		if err == nil {
			err = control.Flush()
		}
		if err != nil {
			return streamed, nil
		}
	}
}

// entries makes blocks of the entries of a log, and returns why there are no more.
func entries(ctx context.Context, stream backend.LogStream, blocks chan<- []byte) error {
	for {
		e, err := stream.Next()
		if err != nil {
			return err
		}
		b, err := block(e)
		if err != nil {
			return err
		}
		select {
		case blocks <- b:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// block is one entry as an event.
func block(e sandbox.LogEntry) ([]byte, error) {
	ev := cloudapi.LogEvent{Source: string(e.Source), Time: e.Time.UTC().Format(cloudapi.LogTime), Text: strings.ToValidUTF8(string(e.Data), "\uFFFD"), Session: e.Session}
	if !utf8.Valid(e.Data) {
		ev.Data = e.Data
	}
	var data bytes.Buffer
	enc := json.NewEncoder(&data)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(ev); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if e.Cursor != "" {
		fmt.Fprintf(&b, "id: %s\n", e.Cursor)
	}
	fmt.Fprintf(&b, "event: log\ndata: %s\n\n", bytes.TrimSpace(data.Bytes()))
	return b.Bytes(), nil
}
