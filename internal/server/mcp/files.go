package mcp

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// maxRead is the largest file that is read for a model, in bytes.
const maxRead = 1 << 20

func (h *Handler) readFile(ctx context.Context, _ *mcp.CallToolRequest, args json.RawMessage) (any, []mcp.Content, error) {
	var n names
	if err := parse(args, &n); err != nil {
		return nil, nil, err
	}
	ref, err := n.file(ctx)
	if err != nil {
		return nil, nil, err
	}
	client, release, err := h.cfg.Server.Agent(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	var b bytes.Buffer
	if _, err := client.ReadFile(ctx, n.Path, &bounded{&b, maxRead}); err != nil {
		return nil, nil, err
	}
	out := map[string]any{"path": n.Path, "size": b.Len(), "encoding": "text", "content": b.String()}
	if !utf8.Valid(b.Bytes()) {
		out["encoding"], out["content"] = "base64", base64.StdEncoding.EncodeToString(b.Bytes())
	}
	return out, nil, nil
}

// bounded refuses more than so many bytes.
type bounded struct {
	w    io.Writer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(p) > b.left {
		return 0, errTooLarge
	}
	b.left -= len(p)
	return b.w.Write(p)
}

func (h *Handler) writeFile(ctx context.Context, _ *mcp.CallToolRequest, args json.RawMessage) (any, []mcp.Content, error) {
	var p struct {
		names
		Content  string `json:"content"`
		Encoding string `json:"encoding"`
	}
	if err := parse(args, &p); err != nil {
		return nil, nil, err
	}
	ref, err := p.file(ctx)
	if err != nil {
		return nil, nil, err
	}
	data := []byte(p.Content)
	switch p.Encoding {
	case "", "text":
	case "base64":
		if data, err = base64.StdEncoding.DecodeString(p.Content); err != nil {
			return nil, nil, server.Invalid("Validation error: content: %v", err)
		}
	default:
		return nil, nil, server.Invalid("Validation error: encoding: want text or base64")
	}
	err = h.write(ctx, ref, p.Path, data)
	h.cfg.Server.Audited(ctx, "write", ref, err)
	return map[string]any{"path": p.Path, "size": len(data)}, nil, err
}

func (h *Handler) write(ctx context.Context, ref sandbox.Ref, to string, data []byte) error {
	client, release, err := h.cfg.Server.Agent(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	_, err = client.WriteFile(ctx, to, bytes.NewReader(data), nil)
	if sandbox.KindOf(err) != sandbox.PathNotFound {
		return err
	}
	if err := mkdirAll(ctx, client, path.Dir(to)); err != nil {
		return err
	}
	_, err = client.WriteFile(ctx, to, bytes.NewReader(data), nil)
	return err
}

// mkdirAll makes a directory and those above it that are missing.
func mkdirAll(ctx context.Context, client *agentclient.Client, dir string) error {
	if _, err := client.Stat(ctx, dir, true); err == nil || dir == "/" {
		return nil
	}
	if err := mkdirAll(ctx, client, path.Dir(dir)); err != nil {
		return err
	}
	return client.Mkdir(ctx, dir, nil)
}

// maxEntries is how many files of a directory are listed.
const maxEntries = 1000

func (h *Handler) listFiles(ctx context.Context, _ *mcp.CallToolRequest, args json.RawMessage) (any, []mcp.Content, error) {
	var n names
	if err := parse(args, &n); err != nil {
		return nil, nil, err
	}
	ref, err := n.file(ctx)
	if err != nil {
		return nil, nil, err
	}
	client, release, err := h.cfg.Server.Agent(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	all, err := client.List(ctx, n.Path)
	if err != nil {
		return nil, nil, err
	}
	type file struct {
		Name string `json:"name"`
		Kind string `json:"kind"`
		Size uint64 `json:"size"`
	}
	files := make([]file, 0, len(all))
	for _, f := range all {
		files = append(files, file{path.Base(f.Path), f.Kind, f.Size})
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.Name, b.Name) })
	total := len(files)
	return map[string]any{"path": n.Path, "files": files[:min(total, maxEntries)], "total": total}, nil, nil
}

func (h *Handler) logs(ctx context.Context, _ *mcp.CallToolRequest, args json.RawMessage) (any, []mcp.Content, error) {
	p := struct {
		names
		Tail int `json:"tail"`
	}{Tail: 100}
	if err := parse(args, &p); err != nil {
		return nil, nil, err
	}
	ref, err := p.ref(ctx)
	if err != nil {
		return nil, nil, err
	}
	b, ok := h.cfg.Server.Backend().(backend.LogReader)
	if !ok {
		return nil, nil, &sandbox.Error{Op: "logs", Ref: ref, Kind: sandbox.Unsupported, Message: "there are no logs here"}
	}
	if p.Tail < 1 || p.Tail > 10000 {
		return nil, nil, server.Invalid("Validation error: tail: want 1 to 10000")
	}
	stream, err := b.OpenLogs(ctx, ref, sandbox.LogOptions{Tail: p.Tail})
	if err != nil {
		return nil, nil, err
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
			return map[string]any{"entries": entries, "truncated": size > maxRead}, nil, nil
		}
		if err != nil {
			return nil, nil, err
		}
		size += len(e.Data)
		entries = append(entries, entry{e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), string(e.Source), strings.ToValidUTF8(string(e.Data), "\uFFFD")})
	}
}

func (h *Handler) list(ctx context.Context, _ *mcp.CallToolRequest, args json.RawMessage) (any, []mcp.Content, error) {
	var n names
	if err := parse(args, &n); err != nil {
		return nil, nil, err
	}
	ns := sandbox.DefaultNamespace
	if n.Namespace != nil {
		ns = *n.Namespace
	}
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

func (h *Handler) ports(ctx context.Context, _ *mcp.CallToolRequest, args json.RawMessage) (any, []mcp.Content, error) {
	var p struct {
		names
		Port uint16 `json:"port"`
	}
	if err := parse(args, &p); err != nil {
		return nil, nil, err
	}
	ref, err := p.ref(ctx)
	if err != nil {
		return nil, nil, err
	}
	info, err := h.cfg.Server.Backend().Get(ctx, ref)
	if err != nil {
		return nil, nil, err
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
			return nil, nil, err
		}
		out["url"] = url + signed
	}
	return out, nil, nil
}
