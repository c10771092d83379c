package metrics

import (
	"net/http"

	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/internal/version"
)

// openAPI describes the HTTP endpoints (OpenAPI 3.1). The methods of JSON-RPC are one endpoint to it, with a body for each.
func openAPI(w http.ResponseWriter, _ *http.Request) {
	type object = map[string]any
	text := object{"type": "string"}
	texts := object{"type": "array", "items": text}
	call := func(method string, required []string, params object) object {
		return object{"type": "object", "title": method, "required": []string{"jsonrpc", "method", "params"}, "properties": object{
			"jsonrpc": object{"const": "2.0"}, "method": object{"const": method}, "id": object{"description": "Given back as it is; a call without one is answered, too."},
			"params": object{"type": "object", "required": required, "properties": params},
		}}
	}
	names := func(more object) object {
		more["sandbox"], more["namespace"] = text, object{"type": "string", "default": "default"}
		return more
	}
	failure := object{"description": "Failure", "content": object{"application/json": object{"schema": object{"type": "object", "properties": object{
		"error": text, "code": object{"type": []string{"integer", "null"}}}}}}}
	answer := func(schema object) object {
		return object{"200": object{"description": "Success", "content": object{"application/json": object{"schema": schema}}}, "default": failure}
	}
	get := func(summary string, public bool) object {
		op := object{"summary": summary, "responses": answer(object{"type": "object"})}
		if public {
			op["security"] = []any{}
		}
		return object{"get": op}
	}
	server.WriteJSON(w, http.StatusOK, object{
		"openapi":  "3.1.0",
		"info":     object{"title": "microsandbox server", "version": version.Version},
		"security": []any{object{"key": []string{}}},
		"components": object{"securitySchemes": object{"key": object{"type": "http", "scheme": "bearer", "bearerFormat": "msb_JWT",
			"description": "An API key of msb server keygen. In development mode none is needed."}}},
		"paths": object{
			"/api/v1/health": get("Whether the server is there", true),
			"/healthz":       get("Whether the server is there", true),
			"/readyz":        get("Whether sandboxes can be had", true),
			"/version":       get("The server's version", true),
			"/metrics":       get("Metrics for Prometheus; needs a key for all namespaces", false),
			"/mcp": object{"post": object{"summary": "Model Context Protocol, streamable HTTP", "responses": answer(object{"type": "object"}),
				"requestBody": object{"content": object{"application/json": object{"schema": object{"type": "object"}}}}}},
			"/proxy/{namespace}/{sandbox}/{port}/{path}": object{"get": object{"summary": "A port of a sandbox; all methods and WebSockets", "responses": object{"default": object{"description": "What the sandbox answers"}},
				"parameters": []any{
					object{"name": "namespace", "in": "path", "required": true, "schema": text}, object{"name": "sandbox", "in": "path", "required": true, "schema": text},
					object{"name": "port", "in": "path", "required": true, "schema": text}, object{"name": "path", "in": "path", "required": true, "schema": text}}}},
			"/api/v1/rpc": object{"post": object{"summary": "JSON-RPC 2.0", "responses": answer(object{"type": "object", "properties": object{"jsonrpc": text, "id": object{}, "result": object{},
				"error": object{"type": "object", "properties": object{"code": object{"type": "integer"}, "message": text}}}}),
				"requestBody": object{"required": true, "content": object{"application/json": object{"schema": object{"oneOf": []any{
					call("sandbox.start", []string{"sandbox"}, names(object{"config": object{"type": []string{"object", "null"}, "properties": object{
						"image": text, "memory": object{"type": "integer", "description": "MiB"}, "cpus": object{"type": "integer"}, "volumes": texts, "ports": texts, "envs": texts, "depends_on": texts,
						"workdir": text, "shell": text, "scripts": object{"type": "object", "additionalProperties": text}, "exec": text}}})),
					call("sandbox.stop", []string{"sandbox"}, names(object{})),
					call("sandbox.metrics.get", []string{}, names(object{})),
					call("sandbox.repl.run", []string{"sandbox", "code", "language"}, names(object{"code": text, "language": object{"enum": []string{"python", "node", "nodejs", "javascript", "bash"}},
						"timeout": object{"type": "integer", "description": "Seconds"}})),
					call("sandbox.command.run", []string{"sandbox", "command"}, names(object{"command": text, "args": texts, "timeout": object{"type": "integer", "description": "Seconds"}})),
				}}}}}}},
		},
	})
}
