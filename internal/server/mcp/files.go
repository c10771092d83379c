package mcp

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// maxRead is the largest file that is read for a model, in bytes.
const maxRead = 1 << 20

func readFile(ctx context.Context, client *agentclient.Client, p *fileParams) (any, error) {
	var b bytes.Buffer
	if _, err := client.ReadFile(ctx, p.Path, &bounded{&b, maxRead}); err != nil {
		return nil, err
	}
	out := map[string]any{"path": p.Path, "size": b.Len(), "encoding": "text", "content": b.String()}
	if !utf8.Valid(b.Bytes()) {
		out["encoding"], out["content"] = "base64", base64.StdEncoding.EncodeToString(b.Bytes())
	}
	return out, nil
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

// writeParams say what a file is to have.
type writeParams struct {
	fileParams
	Content  string `json:"content"`
	Encoding string `json:"encoding"`
}

func (h *Handler) writeFile(ctx context.Context, ref sandbox.Ref, p *writeParams) (any, error) {
	data := []byte(p.Content)
	switch p.Encoding {
	case "", "text":
	case "base64":
		var err error
		if data, err = base64.StdEncoding.DecodeString(p.Content); err != nil {
			return nil, server.Invalid("Validation error: content: %v", err)
		}
	default:
		return nil, server.Invalid("Validation error: encoding: want text or base64")
	}
	err := h.write(ctx, ref, p.Path, data)
	h.cfg.Server.Audited(ctx, "write", ref, err)
	return map[string]any{"path": p.Path, "size": len(data)}, err
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

func listFiles(ctx context.Context, client *agentclient.Client, p *fileParams) (any, error) {
	all, err := client.List(ctx, p.Path)
	if err != nil {
		return nil, err
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
	return map[string]any{"path": p.Path, "files": files[:min(total, maxEntries)], "total": total}, nil
}
