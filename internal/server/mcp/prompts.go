package mcp

import (
	"cmp"
	"context"
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// prompt asks for a sandbox for a language (contract server-v0.2 §1.10).
type prompt struct{ name, language, image, sandbox string }

var prompts = []prompt{
	{"create_python_sandbox", "Python", "microsandbox/python", "python-sandbox"},
	{"create_node_sandbox", "Node.js", "microsandbox/node", "node-sandbox"},
}

func (p prompt) description() string { return "Create a " + p.language + " development sandbox" }

func (p prompt) prompt() *mcp.Prompt {
	return &mcp.Prompt{Name: p.name, Description: p.description(), Arguments: []*mcp.PromptArgument{
		{Name: "sandbox_name", Description: "Name of the new sandbox", Required: true},
		{Name: "namespace", Description: "Namespace of the new sandbox", Required: true},
	}}
}

func (p prompt) get(_ context.Context, req *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
	name, namespace := cmp.Or(req.Params.Arguments["sandbox_name"], p.sandbox), cmp.Or(req.Params.Arguments["namespace"], "default")
	text := fmt.Sprintf("Create a %s sandbox named '%s' in the namespace '%s' with the tool sandbox_start, and this configuration:\n\n"+
		"- Image: %s\n- Memory: 512 MiB\n- CPUs: 1\n- Working directory: /workspace\n", p.language, name, namespace, p.image)
	return &mcp.GetPromptResult{Description: p.description(), Messages: []*mcp.PromptMessage{{Role: "user", Content: &mcp.TextContent{Text: text}}}}, nil
}
