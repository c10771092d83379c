package rest

import (
	"net/http"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/internal/version"
)

type object = map[string]any

// described is a route as the API's description has it.
type described struct {
	route   string // method and path
	summary string
	query   string // names, separated by spaces
	header  string
	body    any // schema; nil is none
	answer  any // schema; nil is none that is JSON
	ours    bool
	events  bool // it answers with server-sent events, too or only
}

func ref(name string) object { return object{"$ref": "#/components/schemas/" + name} }

// schema is an object of required properties and others, whose names end in a question mark.
func schema(properties object) object {
	all, required := object{}, []string{}
	for name, s := range properties {
		bare, optional := strings.CutSuffix(name, "?")
		all[bare] = s
		if !optional {
			required = append(required, bare)
		}
	}
	return object{"type": "object", "properties": all, "required": required}
}

func list(of any) object       { return object{"type": "array", "items": of} }
func or(s object) object       { return object{"anyOf": []any{s, object{"type": "null"}}} }
func word(words ...string) any { return object{"type": "string", "enum": words} }
func of(kind string) object    { return object{"type": kind} }
func page(of any) object {
	return schema(object{"data": list(of), "next_cursor": or(text), "has_more": boolean})
}

var (
	text, number, integer, boolean, anything = of("string"), of("number"), of("integer"), of("boolean"), of("object")
	texts                                    = object{"type": "object", "additionalProperties": text}
	stamp                                    = object{"type": "string", "format": "date-time"}
	uuid                                     = object{"type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"}
)

// schemas are the parts of bodies and answers.
func schemas() object {
	return object{
		"Error": schema(object{"error": schema(object{"code": text, "message": text,
			"details": or(schema(object{"kind?": text, "hint?": text, "detail?": text}))})}),
		"Message": schema(object{"message": text}),
		"Sandbox": schema(object{"id": uuid, "org_id": uuid, "name": text, "slug": text, "status": word("created", "starting", "running", "stopping", "stopped", "failed"),
			"spec": or(ref("Spec")), "ephemeral": boolean, "created_at": stamp, "started_at": or(stamp), "stopped_at": or(stamp), "last_failure_message": or(text),
			"microsandbox?": object{"type": "object", "description": "All that is recorded; an addition of this server."}}),
		"Spec": schema(object{"name": text, "slug?": or(text), "image": schema(object{"type": word("oci", "bind"), "reference?": text, "path?": text}),
			"resources?": schema(object{"vcpus?": integer, "memory_mib?": integer, "disk_size_mib?": integer}),
			"runtime?":   schema(object{"workdir?": or(text), "shell?": or(text), "scripts?": or(texts), "entrypoint?": or(list(text)), "cmd?": or(list(text)), "user?": or(text), "log_level?": or(text)}),
			"env?":       or(list(schema(object{"key": text, "value": text}))), "labels?": or(texts),
			"rlimits?": or(list(schema(object{"resource": text, "soft": integer, "hard": integer}))),
			"mounts?":  or(list(schema(object{"type": word("bind", "named", "tmpfs"), "guest": text, "host?": text, "name?": text, "size_mib?": integer, "quota_mib?": integer, "options?": anything}))),
			"patches?": or(list(schema(object{"type": text}))), "network?": anything, "init?": or(schema(object{"cmd": text, "args?": or(list(text)), "env?": or(list(list(text)))})),
			"pull_policy?": word("if_missing", "always", "never"), "security_profile?": word("default", "restricted"),
			"lifecycle?":    schema(object{"ephemeral?": boolean, "max_duration_secs?": or(integer), "idle_timeout_secs?": or(integer)}),
			"registry?":     or(schema(object{"mode": word("auto", "anonymous", "inline"), "username?": text, "password?": text})),
			"microsandbox?": object{"type": "object", "description": "What the API has no words for; an addition of this server."}}),
		"Volume": schema(object{"id": uuid, "name": text, "kind": word("host", "managed"), "status": word("active", "deleting"), "storage": text, "used_bytes": or(integer),
			"capacity_bytes": or(integer), "labels": texts, "created_at": stamp, "updated_at": stamp}),
		"File": schema(object{"path": text, "kind": word("file", "directory"), "size": integer, "mode": integer, "uid": integer, "gid": integer, "readonly": boolean,
			"accessed_at": or(stamp), "modified_at": or(stamp), "created_at": or(stamp)}),
		"Interpreter": schema(object{"language": text, "session": text, "pid": integer, "cells": integer, "queued": integer, "busy": boolean}),
		"CellOutput": object{"description": "Something that was written to a stream (data is base64, where it is no UTF-8), or a value that was shown, by MIME types: text, XML and scripts as strings, JSON as it is, all else as base64",
			"oneOf": []any{schema(object{"stream": word("stdout", "stderr"), "text": text, "data?": text}), schema(object{"result": anything})}},
		"CellResult": schema(object{"cell": integer, "fresh": boolean, "status": word("ok", "error", "exit", "timeout", "interrupted", "died"), "exit_code": integer,
			"error": or(schema(object{"name": text, "value": text})), "state_lost": boolean, "dropped_bytes": integer, "outputs": list(ref("CellOutput"))}),
		"Image": schema(object{"reference": text, "short": text, "digest": text, "os": text, "architecture": text, "layer_count": integer, "size_bytes": integer, "disk_bytes": integer,
			"created_at": stamp, "last_used_at": stamp, "config?": anything, "layers?": or(list(anything)), "files_with_xattrs?": integer, "blobs_kept?": boolean}),
		"Modification": schema(object{"CPUs?": or(integer), "MaxCPUs?": or(integer), "MemoryMiB?": or(integer), "MaxMemoryMiB?": or(integer), "RootDiskMiB?": or(integer),
			"Env?": or(list(schema(object{"key": text, "value": text}))), "EnvRemove?": or(list(text)), "Labels?": or(texts), "LabelsRemove?": or(list(text)), "Workdir?": or(text),
			"Secrets?": or(list(anything)), "SecretsRemove?": or(list(text)), "values?": texts, "NetworkPolicy?": anything, "NetworkStrict?": or(boolean), "Policy?": word("", "no_restart", "next_start", "restart"), "DryRun?": boolean}),
		"Event": schema(object{"id": uuid, "org_id": uuid, "category": text, "event_type": text, "actor": schema(object{"kind": text}), "payload": anything, "timestamp": stamp}),
	}
}

// api is every route.
func api() []described {
	sandbox, volume := ref("Sandbox"), ref("Volume")
	wait := "wait_for wait_timeout"
	var all []described
	for _, at := range []string{"/v1/sandboxes/by-name/{name}", "/v1/sandboxes/{id}"} {
		all = append(all,
			described{route: "GET " + at, summary: "A sandbox", answer: sandbox},
			described{route: "DELETE " + at, summary: "Remove a sandbox, whether it runs or not", query: "force", answer: ref("Message")},
			described{route: "PATCH " + at, summary: "Give one that does not run another name, which is its slug, too", body: schema(object{"name?": or(text), "slug?": or(text)}), answer: sandbox},
			described{route: "POST " + at + "/start", summary: "Start it, and answer when it runs", query: wait, body: schema(object{"sole?": boolean, "quiet?": boolean}), answer: sandbox},
			described{route: "POST " + at + "/stop", summary: "Stop it", body: schema(object{"force?": boolean, "timeout_ms?": integer, "wait?": boolean}), answer: sandbox},
			described{route: "GET " + at + "/logs", summary: "Its log, as server-sent events", query: "sources follow since until tail cursor", header: "Last-Event-ID", events: true},
			described{route: "GET " + at + "/agent", summary: "A WebSocket to its agent's relay"},
			described{route: "POST " + at + "/drain", summary: "Let it end with its last session", answer: sandbox, ours: true},
			described{route: "GET " + at + "/metrics", summary: "What it uses", answer: anything, ours: true},
			described{route: "POST " + at + "/modify", summary: "Change what it has", body: ref("Modification"), answer: anything, ours: true},
			described{route: "GET " + at + "/network", summary: "What goes on in its network", answer: anything, ours: true},
			described{route: "PUT " + at + "/network", summary: "Change its network's policy until it ends", body: anything, answer: sandbox, ours: true},
			described{route: "PUT " + at + "/spec", summary: "Make something else of a stopped one, with its files", body: ref("Spec"), answer: sandbox, ours: true},
			described{route: "GET " + at + "/interpreters", summary: "The sessions of its interpreters", answer: list(ref("Interpreter")), ours: true})
		session := at + "/interpreters/{language}/{session}"
		all = append(all,
			described{route: "POST " + session + "/run", summary: "Run code in a session of python, node or bash, which begins with that, and answer when it has ended; or, " +
				"to who accepts text/event-stream, with the events started, output, done and error as they happen", answer: ref("CellResult"), ours: true, events: true,
				body: schema(object{"code": text, "timeout_ms?": integer, "echo?": word("last", "all", "none"), "max_output_bytes?": integer})},
			described{route: "POST " + session + "/interrupt", summary: "Interrupt the code that runs", answer: ref("Message"), ours: true},
			described{route: "POST " + session + "/restart", summary: "Kill the interpreter: what the session had is lost", answer: ref("Message"), ours: true},
			described{route: "DELETE " + session, summary: "End the session", answer: ref("Message"), ours: true})
	}
	file, files := cloudapi.FilePathHeader, "/v1/volumes/{id}/files"
	two := schema(object{"from": text, "to": text})
	return append(all,
		described{route: "GET /v1/sandboxes", summary: "Sandboxes, newest first", query: "limit cursor labels", answer: page(sandbox)},
		described{route: "POST /v1/sandboxes", summary: "Make a sandbox, and with start=true start it", query: "start " + wait, body: ref("Spec"), answer: sandbox},
		described{route: "GET /v1/volumes", summary: "Volumes", answer: list(volume)},
		described{route: "POST /v1/volumes", summary: "Make a volume", body: schema(object{"name": text, "labels?": or(texts), "capacity_gib?": or(integer), "capacity_mib?": or(integer)}), answer: volume},
		described{route: "GET /v1/volumes/default", summary: "The volume named default", answer: volume},
		described{route: "GET /v1/volumes/{id}", summary: "A volume", answer: volume},
		described{route: "PATCH /v1/volumes/{id}", summary: "Change how much a volume may hold (null is no limit), and its labels", body: schema(object{"capacity_gib?": or(integer), "capacity_mib?": integer, "labels?": or(texts)}), answer: volume},
		described{route: "DELETE /v1/volumes/{id}", summary: "Remove a volume and its files", answer: ref("Message")},
		described{route: "GET " + files, summary: "What is in a directory", header: file, answer: schema(object{"entries": list(ref("File"))})},
		described{route: "DELETE " + files, summary: "Remove a file, or a directory", header: file + " " + cloudapi.RecursiveHeader, answer: ref("Message")},
		described{route: "GET " + files + "/stat", summary: "What a guest sees of a file", header: file, answer: schema(object{"metadata": ref("File")})},
		described{route: "GET " + files + "/exists", summary: "Whether a file is there", header: file, answer: schema(object{"exists": boolean})},
		described{route: "GET " + files + "/content", summary: "The bytes of a file", header: file},
		described{route: "PUT " + files + "/content", summary: "Write a file whose bytes are the body", header: file, answer: ref("Message")},
		described{route: "POST " + files + "/mkdir", summary: "Make a directory and those above it", body: schema(object{"path": text}), answer: ref("Message")},
		described{route: "POST " + files + "/copy", summary: "Copy a file", body: two, answer: ref("Message")},
		described{route: "POST " + files + "/rename", summary: "Give a file another name", body: two, answer: ref("Message")},
		described{route: "GET /v1/quotas", summary: "What the namespace may have and has", answer: schema(object{"hard_cap": boolean, "vcpu_hours_used": number, "memory_gib_hours_used": number,
			"pool_exhausted": boolean, "total_sandboxes": integer, "concurrent_ephemeral_running": integer, "concurrent_persistent_running": integer, "is_suspended": boolean})},
		described{route: "GET /v1/events", summary: "Changes, newest first: the last ones of the audit log", query: "event_type since until cursor limit", answer: page(ref("Event"))},
		described{route: "GET /v1/events/{id}", summary: "One of them", answer: ref("Event")},
		described{route: "GET /v1/me/org", summary: "The namespace of the key", answer: schema(object{"id": uuid, "name": text, "slug": text, "mfa_required": boolean,
			"role": word("owner", "admin", "member", "viewer"), "created_at": stamp, "updated_at": stamp})},
		described{route: "GET /v1/members", summary: "The key that asks", query: "cursor limit", answer: page(anything)},
		described{route: "GET /v1/billing/usage", summary: "What all runs used this month, which costs nothing", answer: schema(object{"period_start": stamp, "period_end": stamp, "total_cents": integer,
			"line_items": list(schema(object{"name": text, "unit": text, "quantity": number, "amount_cents": integer}))})},
		described{route: "GET /v1/billing/usage/sandbox", summary: "The same by sandbox", answer: schema(object{"sandboxes": list(schema(object{"id": uuid, "name": text, "slug": text})),
			"rows": list(schema(object{"sandbox_id": uuid, "day": stamp, "vcpu_seconds": number, "mem_mib_seconds": number, "disk_mib_seconds": number, "cpu_seconds": number}))})},
		described{route: "GET /v1/billing/usage/storage", summary: "What volumes hold today", answer: schema(object{"volumes": list(schema(object{"id": uuid, "name": text})),
			"rows": list(schema(object{"volume_id": uuid, "day": stamp, "mib_seconds": number}))})},
		described{route: "GET /v1/metrics", summary: "What the sandboxes use", answer: list(anything), ours: true},
		described{route: "GET /v1/capabilities", summary: "Which additions of this server there are", answer: schema(object{"server": text, "version": text, "extension": integer}), ours: true},
		described{route: "GET /v1/images", summary: "The server's images, newest first; with a key for all namespaces", answer: list(ref("Image")), ours: true},
		described{route: "DELETE /v1/images", summary: "Remove a reference, and with the last one of an image the image; with a key for all namespaces", query: "reference force", answer: ref("Message"), ours: true},
		described{route: "GET /v1/images/inspect", summary: "All that is known of an image; with a key for all namespaces", query: "reference", answer: ref("Image"), ours: true},
		described{route: "POST /v1/images/pull", summary: "Get an image; the answer is lines of JSON: {progress}, and at the end {image} or {error}", ours: true,
			body: schema(object{"reference": text, "refresh?": boolean, "insecure?": boolean, "platform?": text, "ca_certs?": list(text), "auth?": or(schema(object{"username": text, "password": text}))})},
		described{route: "POST /v1/images/prune", summary: "Remove the images that no sandbox uses; with a key for all namespaces", answer: schema(object{"references": integer, "images": integer, "layers": integer, "bytes": integer}), ours: true},
		described{route: "GET /v1/sandboxfile", summary: "The namespace's sandboxes as a Sandboxfile (YAML), without values of secrets", query: "name", ours: true},
		described{route: "DELETE /v1/requests/{id}", summary: "Take a create or a start back that had the header " + cloudapi.RequestHeader, query: "undo", answer: ref("Message"), ours: true})
}

// Description describes the API (OpenAPI 3.1).
func Description() map[string]any {
	paths := object{}
	for _, d := range api() {
		method, path, _ := strings.Cut(d.route, " ")
		op := object{"summary": d.summary}
		params := []any{}
		add := func(in, names string) {
			for _, name := range strings.Fields(names) {
				params = append(params, object{"name": name, "in": in, "required": in == "path", "schema": text})
			}
		}
		for _, part := range strings.Split(path, "/") {
			if name, ok := strings.CutPrefix(part, "{"); ok {
				add("path", strings.TrimSuffix(name, "}"))
			}
		}
		add("query", d.query)
		add("header", d.header+" "+cloudapi.NamespaceHeader)
		op["parameters"] = params
		if d.body != nil {
			op["requestBody"] = object{"content": object{"application/json": object{"schema": d.body}}}
		}
		good := object{"description": "Success"}
		content := object{}
		if d.answer != nil {
			content["application/json"] = object{"schema": d.answer}
		}
		if d.events {
			content["text/event-stream"] = object{"schema": text}
		}
		if len(content) > 0 {
			good["content"] = content
		}
		op["responses"] = object{"200": good, "default": object{"description": "Failure", "content": object{"application/json": object{"schema": ref("Error")}}}}
		if d.ours {
			op["tags"] = []string{"additions"}
		}
		if paths[path] == nil {
			paths[path] = object{}
		}
		paths[path].(object)[strings.ToLower(method)] = op
	}
	return object{"openapi": "3.1.0", "info": object{"title": "microsandbox control plane", "version": version.Version}, "paths": paths,
		"security":   []any{object{"key": []string{}}},
		"components": object{"schemas": schemas(), "securitySchemes": object{"key": object{"type": "http", "scheme": "bearer", "description": "An API key of msb server keygen"}}}}
}

func describe(w http.ResponseWriter, _ *http.Request) {
	server.WriteJSON(w, http.StatusOK, Description())
}
