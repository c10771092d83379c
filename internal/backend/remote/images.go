package remote

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// imagesTimeout bounds what a server does with its images, besides pulls.
const imagesTimeout = 10 * time.Minute

// images asks for something about the server's images.
func (b *Backend) images(ctx context.Context, op, method, path string, query url.Values, into any) error {
	if err := b.needs(ctx, op); err != nil {
		return err
	}
	return b.do(ctx, call{op: op, method: method, path: path, query: query, timeout: imagesTimeout}, into)
}

// ListImages returns the images of the server, newest first.
func (b *Backend) ListImages(ctx context.Context) (all []backend.Image, err error) {
	return all, b.images(ctx, "Image::list", http.MethodGet, "/images", nil, &all)
}

// InspectImage returns all that is known of an image of the server.
func (b *Backend) InspectImage(ctx context.Context, ref string) (d backend.ImageDetail, err error) {
	return d, b.images(ctx, "Image::inspect", http.MethodGet, "/images/inspect", url.Values{"reference": {ref}}, &d)
}

// RemoveImage removes a reference from the server, and with the last one of an image the image.
func (b *Backend) RemoveImage(ctx context.Context, ref string, force bool) error {
	return b.images(ctx, "Image::remove", http.MethodDelete, "/images", url.Values{"reference": {ref}, "force": {fmt.Sprint(force)}}, nil)
}

// PruneImages removes every image of the server that no sandbox uses.
func (b *Backend) PruneImages(ctx context.Context) (p backend.ImagePrune, err error) {
	return p, b.images(ctx, "Image::prune", http.MethodPost, "/images/prune", nil, &p)
}

// maxLine bounds a line of what a server says of a pull, bytes.
const maxLine = 1 << 20

// PullImage has the server get an image from its registry.
func (b *Backend) PullImage(ctx context.Context, ref string, opt backend.PullOptions) (backend.Image, error) {
	const op = "Image::pull"
	if err := b.needs(ctx, op); err != nil {
		return backend.Image{}, err
	}
	body := cloudapi.PullBody{Reference: ref, Refresh: opt.Refresh, Insecure: opt.Insecure, Platform: opt.Platform}
	if a := opt.Auth; a != nil {
		body.Auth = &cloudapi.PullAuth{Username: a.Username, Password: string(a.Password)}
	}
	for _, path := range opt.CACerts { // they are this machine's
		pem, err := os.ReadFile(path)
		if err != nil {
			return backend.Image{}, &sandbox.Error{Op: op, Kind: sandbox.InvalidConfig, Message: "read the certificate authorities", Err: err}
		}
		body.CACerts = append(body.CACerts, string(pem))
	}
	c := call{op: op, method: http.MethodPost, path: "/images/pull", body: body}
	resp, err := b.send(ctx, c)
	if err != nil {
		return backend.Image{}, err
	}
	defer resp.Body.Close()
	broken := func(err error) error {
		if ctx.Err() != nil {
			return c.failed(ctx, err)
		}
		return &sandbox.Error{Op: op, Kind: sandbox.Protocol, Message: "the cloud's answer", Err: err}
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var line struct {
			Progress *backend.PullEvent
			Image    *backend.Image
			Error    json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return backend.Image{}, broken(err)
		}
		switch {
		case line.Error != nil:
			return backend.Image{}, cloudapi.ErrorOf(op, sandbox.Ref{}, http.StatusBadGateway, lines.Bytes(), false, false)
		case line.Image != nil:
			return *line.Image, nil
		case line.Progress != nil && opt.Progress != nil:
			opt.Progress(*line.Progress)
		}
	}
	err = lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return backend.Image{}, broken(err)
}
