package rest

import (
	"context"
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
	begun, err := r.stream(h.server.Draining(), func(ctx context.Context, send func([]byte) error) error {
		stream, err := reader.OpenLogs(ctx, info.Ref, opt)
		if err != nil {
			return err
		}
		defer stream.Close()
		return entries(stream, send)
	})
	switch {
	case err == io.EOF:
		_, _ = io.WriteString(r.w, "event: end\ndata: {}\n\n")
		return streamed, nil
	case err != nil && (begun || err == errDraining):
		// The client is not to take it for the end: another server goes on, behind the last event.
		panic(http.ErrAbortHandler)
	}
	return streamed, err
}

// entries sends the entries of a log, and returns why there are no more.
func entries(stream backend.LogStream, send func([]byte) error) error {
	if err := send(nil); err != nil {
		return err
	}
	for {
		e, err := stream.Next()
		if err != nil {
			return err
		}
		b, err := block(e)
		if err != nil {
			return err
		}
		if err := send(b); err != nil {
			return err
		}
	}
}

// block is one entry as an event.
func block(e sandbox.LogEntry) ([]byte, error) {
	ev := cloudapi.LogEvent{Source: string(e.Source), Time: e.Time.UTC().Format(cloudapi.LogTime), Text: strings.ToValidUTF8(string(e.Data), "\uFFFD"), Session: e.Session}
	if !utf8.Valid(e.Data) {
		ev.Data = e.Data
	}
	return sse(e.Cursor, "log", ev)
}
