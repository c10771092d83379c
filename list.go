package microsandbox

import (
	"context"
	"encoding/base64"
	"fmt"
	"strconv"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// SandboxPage is some of the sandboxes, newest first. NextCursor leads to those after them, and is nil when there are none.
type SandboxPage struct {
	Sandboxes  []*SandboxHandle
	NextCursor *string
}

// ListOption selects sandboxes.
type ListOption func(*listOptions)

type listOptions struct {
	cursor string
	limit  int
	labels map[string]string
}

// The bounds of [WithListLimit] (contract msb-0.6 §2.1).
const (
	listLimit    = 20
	maxListLimit = 100
)

// WithListCursor goes on behind a page.
func WithListCursor(cursor string) ListOption { return func(o *listOptions) { o.cursor = cursor } }

// WithListLimit bounds a page; the default is 20, the most 100.
func WithListLimit(limit uint32) ListOption {
	return func(o *listOptions) { o.limit = int(min(limit, maxListLimit)) }
}

// WithListLabels selects sandboxes with all of these labels.
func WithListLabels(labels map[string]string) ListOption {
	return func(o *listOptions) { merge(&o.labels, labels) }
}

// ListSandboxes returns the newest sandboxes, at most 20 (see [ListSandboxesWith]).
func ListSandboxes(ctx context.Context) (*SandboxPage, error) { return ListSandboxesWith(ctx) }

// ListSandboxesWith returns one page of the sandboxes that the options select. Kind: ErrInvalidArgument, for a cursor that is
// none.
func ListSandboxesWith(ctx context.Context, opts ...ListOption) (*SandboxPage, error) {
	o := listOptions{}
	for _, opt := range opts {
		opt(&o)
	}
	if o.limit == 0 {
		o.limit = listLimit
	}
	var after time.Time
	if o.cursor != "" {
		raw, err := base64.RawURLEncoding.DecodeString(o.cursor)
		at, nerr := strconv.ParseInt(string(raw), 10, 64)
		if err != nil || nerr != nil {
			return nil, wrap(&sandbox.Error{Op: "list", Kind: sandbox.InvalidCursor, Message: fmt.Sprintf("%.100q", o.cursor)})
		}
		after = time.Unix(0, at)
	}
	e, err := open()
	if err != nil {
		return nil, wrap(err)
	}
	infos, err := e.manage().List(ctx, sandbox.DefaultNamespace)
	if err != nil {
		return nil, wrap(err)
	}
	page := &SandboxPage{}
	for _, info := range infos {
		h := newHandle(e, info)
		if !after.IsZero() && !h.info.CreatedAt.Before(after) || !h.info.Spec.HasLabels(o.labels) {
			continue
		}
		if len(page.Sandboxes) == o.limit {
			last := page.Sandboxes[o.limit-1].info.CreatedAt
			cursor := base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(last.UnixNano(), 10)))
			page.NextCursor = &cursor
			break
		}
		page.Sandboxes = append(page.Sandboxes, h)
	}
	return page, nil
}
