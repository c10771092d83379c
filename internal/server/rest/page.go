package rest

import (
	"cmp"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The bounds of a list (contract msb-0.6 §2.1).
const (
	defaultPage = 20
	maxPage     = 1000
)

// limit reads how many entries are wanted.
func (r *request) limit() (int, error) {
	s := r.URL.Query().Get("limit")
	if s == "" {
		return defaultPage, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, invalid("limit is not a number from 1")
	}
	return min(n, maxPage), nil
}

// place is where a page ends: cursors are it, base64url.
type place struct {
	at   int64 // nanoseconds
	name string
}

func (p place) String() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(p.at, 10) + "/" + p.name))
}

func parsePlace(s string) (place, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	at, name, ok := strings.Cut(string(b), "/")
	n, nerr := strconv.ParseInt(at, 10, 64)
	if err != nil || !ok || nerr != nil || len(s) > 512 || strconv.FormatInt(n, 10) != at {
		return place{}, &sandbox.Error{Kind: sandbox.InvalidCursor, Message: "it is not one of this list"}
	}
	return place{n, name}, nil
}

// behind compares as a list does: newest first, then by name.
func (p place) behind(o place) bool {
	return cmp.Or(cmp.Compare(o.at, p.at), cmp.Compare(p.name, o.name)) > 0
}

// paged is the part of a list that a request asks for.
func paged[T any](r *request, all []T, where func(T) place) (page cloudapi.Page[T], err error) {
	limit, err := r.limit()
	if err != nil {
		return page, err
	}
	if c := r.URL.Query().Get("cursor"); c != "" {
		from, err := parsePlace(c)
		if err != nil {
			return page, err
		}
		i := slices.IndexFunc(all, func(v T) bool { return where(v).behind(from) })
		if i < 0 {
			i = len(all)
		}
		all = all[i:]
	}
	page.HasMore = len(all) > limit
	page.Data = append([]T{}, all[:min(limit, len(all))]...)
	if page.HasMore {
		next := where(page.Data[limit-1]).String()
		page.NextCursor = &next
	}
	return page, nil
}
