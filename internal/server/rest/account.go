package rest

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/internal/server"
)

// uuidOf is a UUID (version 8, RFC 9562) that belongs to a text.
func uuidOf(s string) string {
	u := sha256.Sum256([]byte(s))
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// orgID is the organisation that a namespace is.
func orgID(namespace string) string { return uuidOf("namespace/" + namespace) }

func (h *Handler) org(r *request) (any, error) {
	role := "member"
	if server.CallerOf(r.Context()).All() {
		role = "owner"
	}
	return map[string]any{"id": orgID(r.namespace), "name": r.namespace, "slug": r.namespace, "mfa_required": false, "role": role,
		"created_at": time.Unix(0, 0).UTC(), "updated_at": time.Unix(0, 0).UTC()}, nil
}

// members are the keys of the namespace.
func (h *Handler) members(r *request) (any, error) {
	c := server.CallerOf(r.Context())
	all := []any{}
	if c.KeyID != "" {
		role := "member"
		if c.All() {
			role = "owner"
		}
		all = append(all, map[string]any{"id": uuidOf("key/" + c.KeyID), "user_id": uuidOf("key/" + c.KeyID), "email": "", "display_name": c.KeyID, "role": role,
			"joined_at": time.Unix(0, 0).UTC()})
	}
	return cloudapi.Page[any]{Data: all}, nil
}
