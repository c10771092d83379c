package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/microsandbox-go/microsandbox/internal/backend/local"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/internal/server/jsonrpc"
	"github.com/microsandbox-go/microsandbox/internal/server/mcp"
)

// pixel is a PNG of one pixel.
const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="

// TestServerConformanceFixtures runs all scenarios of the official suite, most of which need tools, resources and prompts of its own: they
// are added to the same handler here.
func TestServerConformanceFixtures(t *testing.T) {
	dir, node := npm(t)
	b := local.New(local.Config{Home: t.TempDir()})
	defer b.Close()
	s := server.New(server.Config{Backend: b, Namespaces: t.TempDir()})
	defer s.Close()
	h := mcp.New(mcp.Config{Server: s, Service: jsonrpc.New(s), Sessions: true, Events: sdk.NewMemoryEventStore(nil), Extend: fixtures, Options: func(o *sdk.ServerOptions) {
		o.CompletionHandler = func(context.Context, *sdk.CompleteRequest) (*sdk.CompleteResult, error) {
			return &sdk.CompleteResult{Completion: sdk.CompletionResultDetails{Values: []string{"paris", "park"}}}, nil
		}
		o.SubscribeHandler = func(context.Context, *sdk.SubscribeRequest) error { return nil }
		o.UnsubscribeHandler = func(context.Context, *sdk.UnsubscribeRequest) error { return nil }
	}})
	s.Mount(h.Routes()...)
	web := httptest.NewServer(negotiated(s))
	defer web.Close()
	conform(t, dir, node, web.URL)
}

// negotiated puts the version that was negotiated into a header. The scenario server-sse-polling negotiates 2025-11-25, and then says in
// its own requests that it speaks 2025-03-26, which does not have the events that it looks for; the SDK goes by what the header says.
func negotiated(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Mcp-Session-Id") != "" && r.Header.Get("Mcp-Protocol-Version") == "2025-03-26" {
			r.Header.Set("Mcp-Protocol-Version", "2025-11-25")
		}
		h.ServeHTTP(w, r)
	})
}

type object = map[string]any

// fixtures are what the suite asks for.
func fixtures(s *sdk.Server) {
	image, err := base64.StdEncoding.DecodeString(pixel)
	if err != nil {
		panic(err)
	}
	text := func(format string, args ...any) sdk.Content {
		return &sdk.TextContent{Text: fmt.Sprintf(format, args...)}
	}
	resource := func(uri, kind, body string) sdk.Content {
		return &sdk.EmbeddedResource{Resource: &sdk.ResourceContents{URI: uri, MIMEType: kind, Text: body}}
	}
	picture := &sdk.ImageContent{Data: image, MIMEType: "image/png"}
	tool := func(name string, schema object, call func(ctx context.Context, r *sdk.CallToolRequest) ([]sdk.Content, error)) {
		if schema == nil {
			schema = object{"type": "object"}
		}
		s.AddTool(&sdk.Tool{Name: name, Description: name, InputSchema: schema}, func(ctx context.Context, r *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			content, err := call(ctx, r)
			if err != nil {
				return &sdk.CallToolResult{IsError: true, Content: []sdk.Content{text("%v", err)}}, nil
			}
			return &sdk.CallToolResult{Content: content}, nil
		})
	}
	always := func(name string, content ...sdk.Content) {
		tool(name, nil, func(context.Context, *sdk.CallToolRequest) ([]sdk.Content, error) { return content, nil })
	}
	always("test_simple_text", text("This is a simple text response for testing."))
	always("test_image_content", picture)
	always("test_audio_content", &sdk.AudioContent{Data: []byte("RIFF"), MIMEType: "audio/wav"})
	always("test_embedded_resource", resource("test://embedded-resource", "text/plain", "This is an embedded resource content."))
	always("test_multiple_content_types", text("Multiple content types test:"), picture, resource("test://mixed-content-resource", "application/json", `{"test":"data","value":123}`))
	tool("test_error_handling", nil, func(context.Context, *sdk.CallToolRequest) ([]sdk.Content, error) {
		return nil, errors.New("This tool intentionally returns an error for testing")
	})
	tool("test_reconnection", nil, func(ctx context.Context, r *sdk.CallToolRequest) ([]sdk.Content, error) {
		r.Extra.CloseSSEStream(sdk.CloseSSEStreamArgs{RetryAfter: 10 * time.Millisecond})
		return []sdk.Content{text("done")}, nil // which goes to the store, and to whoever comes for it
	})
	tool("test_tool_with_logging", nil, func(ctx context.Context, r *sdk.CallToolRequest) ([]sdk.Content, error) {
		for _, m := range []string{"Tool execution started", "Tool processing data", "Tool execution completed"} {
			if err := r.Session.Log(ctx, &sdk.LoggingMessageParams{Level: "info", Data: m}); err != nil {
				return nil, err
			}
			time.Sleep(50 * time.Millisecond)
		}
		return []sdk.Content{text("done")}, nil
	})
	tool("test_tool_with_progress", nil, func(ctx context.Context, r *sdk.CallToolRequest) ([]sdk.Content, error) {
		for _, n := range []float64{0, 50, 100} {
			if err := r.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Progress: n, Total: 100}); err != nil {
				return nil, err
			}
			time.Sleep(50 * time.Millisecond)
		}
		return []sdk.Content{text("done")}, nil
	})
	tool("test_sampling", object{"type": "object", "properties": object{"prompt": object{"type": "string"}}, "required": []string{"prompt"}}, func(ctx context.Context, r *sdk.CallToolRequest) ([]sdk.Content, error) {
		var args struct{ Prompt string }
		if err := json.Unmarshal(r.Params.Arguments, &args); err != nil {
			return nil, err
		}
		answer, err := r.Session.CreateMessage(ctx, &sdk.CreateMessageParams{MaxTokens: 100, Messages: []*sdk.SamplingMessage{{Role: "user", Content: text("%s", args.Prompt)}}})
		if err != nil {
			return nil, err
		}
		return []sdk.Content{text("LLM response: %v", answer.Content)}, nil
	})
	ask := func(name string, properties object) {
		tool(name, nil, func(ctx context.Context, r *sdk.CallToolRequest) ([]sdk.Content, error) {
			answer, err := r.Session.Elicit(ctx, &sdk.ElicitParams{Message: "Please answer", RequestedSchema: object{"type": "object", "properties": properties}})
			if err != nil {
				return nil, err
			}
			return []sdk.Content{text("Elicitation completed: action=%s, content=%v", answer.Action, answer.Content)}, nil
		})
	}
	one := func(more object) object { more["type"] = "string"; return more }
	ask("test_elicitation", object{"username": one(object{}), "email": one(object{})})
	ask("test_elicitation_sep1034_defaults", object{"name": one(object{"default": "John Doe"}), "age": object{"type": "integer", "default": 30}, "score": object{"type": "number", "default": 95.5},
		"status": one(object{"enum": []string{"active", "inactive", "pending"}, "default": "active"}), "verified": object{"type": "boolean", "default": true}})
	titled := func(what string) []object {
		return []object{{"const": "value1", "title": "First " + what}, {"const": "value2", "title": "Second " + what}, {"const": "value3", "title": "Third " + what}}
	}
	options := []string{"option1", "option2", "option3"}
	ask("test_elicitation_sep1330_enums", object{"untitledSingle": one(object{"enum": options}), "titledSingle": one(object{"oneOf": titled("Option")}),
		"legacyEnum":    one(object{"enum": []string{"opt1", "opt2", "opt3"}, "enumNames": []string{"Option One", "Option Two", "Option Three"}}),
		"untitledMulti": object{"type": "array", "items": one(object{"enum": options})}, "titledMulti": object{"type": "array", "items": object{"anyOf": titled("Choice")}}})
	tool("json_schema_2020_12_tool", object{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "additionalProperties": false,
		"$defs":      object{"address": object{"type": "object", "properties": object{"street": one(object{}), "city": one(object{})}}},
		"properties": object{"name": one(object{}), "address": object{"$ref": "#/$defs/address"}}}, func(context.Context, *sdk.CallToolRequest) ([]sdk.Content, error) {
		return []sdk.Content{text("done")}, nil
	})

	read := func(kind, body string, blob []byte) sdk.ResourceHandler {
		return func(_ context.Context, r *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
			return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{{URI: r.Params.URI, MIMEType: kind, Text: body, Blob: blob}}}, nil
		}
	}
	s.AddResource(&sdk.Resource{URI: "test://static-text", Name: "text", MIMEType: "text/plain"}, read("text/plain", "This is the content of the static text resource.", nil))
	s.AddResource(&sdk.Resource{URI: "test://static-binary", Name: "binary", MIMEType: "image/png"}, read("image/png", "", image))
	s.AddResource(&sdk.Resource{URI: "test://watched-resource", Name: "watched", MIMEType: "text/plain"}, read("text/plain", "watched", nil))
	s.AddResourceTemplate(&sdk.ResourceTemplate{URITemplate: "test://template/{id}/data", Name: "template", MIMEType: "application/json"},
		func(ctx context.Context, r *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
			var id string
			if _, err := fmt.Sscanf(r.Params.URI, "test://template/%3s/data", &id); err != nil {
				return nil, err
			}
			return read("application/json", `{"id":"`+id+`"}`, nil)(ctx, r)
		})

	prompt := func(name string, arguments []string, get func(args map[string]string) []sdk.Content) {
		p := &sdk.Prompt{Name: name, Description: name}
		for _, a := range arguments {
			p.Arguments = append(p.Arguments, &sdk.PromptArgument{Name: a, Required: true})
		}
		s.AddPrompt(p, func(_ context.Context, r *sdk.GetPromptRequest) (*sdk.GetPromptResult, error) {
			out := &sdk.GetPromptResult{}
			for _, c := range get(r.Params.Arguments) {
				out.Messages = append(out.Messages, &sdk.PromptMessage{Role: "user", Content: c})
			}
			return out, nil
		})
	}
	prompt("test_simple_prompt", nil, func(map[string]string) []sdk.Content {
		return []sdk.Content{text("This is a simple prompt for testing.")}
	})
	prompt("test_prompt_with_arguments", []string{"arg1", "arg2"}, func(a map[string]string) []sdk.Content {
		return []sdk.Content{text("Prompt with arguments: arg1='%s', arg2='%s'", a["arg1"], a["arg2"])}
	})
	prompt("test_prompt_with_embedded_resource", []string{"resourceUri"}, func(a map[string]string) []sdk.Content {
		return []sdk.Content{resource(a["resourceUri"], "text/plain", "Embedded resource content for testing."), text("Please process the embedded resource above.")}
	})
	prompt("test_prompt_with_image", nil, func(map[string]string) []sdk.Content {
		return []sdk.Content{picture, text("Please analyze the image above.")}
	})
}
