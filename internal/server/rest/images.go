package rest

import (
	"encoding/json"
	"net/http"
	"os"
	"strconv"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/internal/server"
)

// images are the server's, which all namespaces share: who sees or removes them has a key for all.
func (h *Handler) images(r *request) (backend.Images, error) {
	if !server.CallerOf(r.Context()).All() {
		return nil, &server.Failure{Status: http.StatusForbidden, Message: "images are the server's, and not for keys of one namespace"}
	}
	return h.imageKeeper()
}

func (h *Handler) imageKeeper() (backend.Images, error) {
	images, ok := h.backend.(backend.Images)
	if !ok {
		return nil, unsupported("images")
	}
	return images, nil
}

// reference reads which image is meant.
func (r *request) reference() (string, error) {
	ref := r.URL.Query().Get("reference")
	if ref == "" {
		return "", invalid("reference: which image is meant is not said")
	}
	return ref, nil
}

func (h *Handler) listImages(r *request) (any, error) {
	images, err := h.images(r)
	if err != nil {
		return nil, err
	}
	all, err := images.ListImages(r.Context())
	if all == nil {
		all = []backend.Image{}
	}
	return all, err
}

func (h *Handler) inspectImage(r *request) (any, error) {
	images, err := h.images(r)
	if err != nil {
		return nil, err
	}
	ref, err := r.reference()
	if err != nil {
		return nil, err
	}
	return images.InspectImage(r.Context(), ref)
}

func (h *Handler) removeImage(r *request) (any, error) {
	images, err := h.images(r)
	if err != nil {
		return nil, err
	}
	ref, err := r.reference()
	force := false
	if f := r.URL.Query().Get("force"); err == nil && f != "" {
		if force, err = strconv.ParseBool(f); err != nil {
			err = invalid("force is not true or false")
		}
	}
	if err != nil {
		return nil, err
	}
	err = images.RemoveImage(r.Context(), ref, force)
	h.audited(r, "image.remove", ref, err)
	if err != nil {
		return nil, err
	}
	return cloudapi.Message{Message: "Image removed"}, nil
}

func (h *Handler) pruneImages(r *request) (any, error) {
	images, err := h.images(r)
	if err != nil {
		return nil, err
	}
	pruned, err := images.PruneImages(r.Context())
	h.audited(r, "image.prune", "", err)
	return pruned, err
}

// pullImage gets an image, and says how far it is as lines of JSON: progress, as often as there is some, and at the end the image or an
// error. An error before all progress is an answer like any other.
func (h *Handler) pullImage(r *request) (any, error) {
	var b cloudapi.PullBody
	if err := r.body(&b); err != nil {
		return nil, err
	}
	if (b.Insecure || len(b.CACerts) > 0) && !server.CallerOf(r.Context()).All() {
		return nil, &server.Failure{Status: http.StatusForbidden, Message: "insecure, ca_certs: whom the server trusts is not for keys of one namespace"}
	}
	images, err := h.imageKeeper()
	if err != nil {
		return nil, err
	}
	if b.Reference == "" {
		return nil, invalid("reference: which image is meant is not said")
	}
	opt := backend.PullOptions{Proven: h.server.Confined(r.Context()), Refresh: b.Refresh, Insecure: b.Insecure, Platform: b.Platform}
	if b.Auth != nil {
		opt.Auth = &backend.RegistryAuth{Username: b.Auth.Username, Password: backend.Secret(b.Auth.Password)}
	}
	for _, pem := range b.CACerts {
		f, err := os.CreateTemp("", "microsandbox-ca-*.pem")
		if err != nil {
			return nil, err
		}
		defer os.Remove(f.Name())
		_, err = f.WriteString(pem)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return nil, err
		}
		opt.CACerts = append(opt.CACerts, f.Name())
	}
	done, err := h.server.PullTurn(r.Context(), r.namespace)
	if err != nil {
		return nil, err
	}
	defer done()
	lines := json.NewEncoder(r.w)
	control := http.NewResponseController(r.w)
	began := false
	say := func(v any) {
		if !began {
			began = true
			r.w.Header().Set("Content-Type", "application/x-ndjson")
			r.w.Header().Set("Cache-Control", "no-store")
			r.w.WriteHeader(http.StatusOK)
		}
		if lines.Encode(v) == nil { // else the client has gone, which ends the context
			_ = control.Flush()
		}
	}
	opt.Progress = func(e backend.PullEvent) {
		h.server.Pulled(e)
		say(map[string]any{"progress": e})
	}
	image, err := images.PullImage(r.Context(), b.Reference, opt)
	h.audited(r, "image.pull", b.Reference, err)
	switch {
	case err != nil && !began:
		return nil, err
	case err != nil:
		_, body := cloudapi.Body(err)
		say(body)
	default:
		say(map[string]any{"image": image})
	}
	return streamed, nil
}
