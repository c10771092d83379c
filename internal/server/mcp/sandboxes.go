package mcp

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// logParams say how much of a log is wanted.
type logParams struct {
	params
	Tail int `json:"tail"`
}

func (h *Handler) logs(ctx context.Context, ref sandbox.Ref, p *logParams) (any, error) {
	b, ok := h.cfg.Server.Backend().(backend.LogReader)
	if !ok {
		return nil, &sandbox.Error{Op: "logs", Ref: ref, Kind: sandbox.Unsupported, Message: "there are no logs here"}
	}
	tail := cmp.Or(p.Tail, 100)
	if tail < 1 || tail > 10000 {
		return nil, server.Invalid("Validation error: tail: want 1 to 10000")
	}
	stream, err := b.OpenLogs(ctx, ref, sandbox.LogOptions{Tail: tail})
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	type entry struct {
		Time   string `json:"time"`
		Stream string `json:"stream"`
		Text   string `json:"text"`
	}
	entries, size := []entry{}, 0
	for {
		e, err := stream.Next()
		if errors.Is(err, io.EOF) || size > maxRead {
			return map[string]any{"entries": entries, "truncated": size > maxRead}, nil
		}
		if err != nil {
			return nil, err
		}
		size += len(e.Data)
		entries = append(entries, entry{e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), string(e.Source), strings.ToValidUTF8(string(e.Data), "\uFFFD")})
	}
}

func (h *Handler) list(ctx context.Context, _ *mcp.CallToolRequest, args json.RawMessage) (any, []mcp.Content, error) {
	var p params
	if err := parse(args, &p); err != nil {
		return nil, nil, err
	}
	ns := p.namespace()
	if err := server.CallerOf(ctx).Check(ns); err != nil {
		return nil, nil, err
	}
	if ns == server.AllNamespaces {
		ns = ""
	}
	infos, err := h.cfg.Server.Backend().List(ctx, ns)
	if err != nil {
		return nil, nil, err
	}
	type one struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
		Image     string `json:"image"`
		Status    string `json:"status"`
	}
	all := make([]one, 0, len(infos))
	for _, i := range infos {
		all = append(all, one{string(i.Ref.Name), i.Ref.Namespace, i.Spec.Image.String(), string(i.Status)})
	}
	return map[string]any{"sandboxes": all}, nil, nil
}

// portParams say which port is to be reached, if one is.
type portParams struct {
	params
	Port uint16 `json:"port"`
}

func (h *Handler) ports(ctx context.Context, ref sandbox.Ref, p *portParams) (any, error) {
	info, err := h.cfg.Server.Backend().Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	type port struct {
		Guest    uint16 `json:"port"`
		Host     uint16 `json:"host_port"`
		Address  string `json:"host_address"`
		Protocol string `json:"protocol"`
	}
	published := []port{}
	for _, o := range info.Ports {
		published = append(published, port{o.GuestPort, o.HostPort, o.Bind(), o.Protocol})
	}
	out := map[string]any{"published": published}
	if url, _ := ctx.Value(urlKey{}).(string); p.Port != 0 && h.cfg.Preview != nil && url != "" {
		signed, err := h.cfg.Preview(ctx, ref.Namespace, string(ref.Name), p.Port)
		if err != nil {
			return nil, err
		}
		out["url"] = url + signed
	}
	return out, nil
}
