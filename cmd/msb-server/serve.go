package main

import (
	"context"
	"io"

	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/internal/server/jsonrpc"
	"github.com/microsandbox-go/microsandbox/internal/server/mcp"
	"github.com/microsandbox-go/microsandbox/internal/server/metrics"
	"github.com/microsandbox-go/microsandbox/internal/server/proxy"
	"github.com/microsandbox-go/microsandbox/internal/server/rest"
)

// serve is a server with all that it speaks.
func serve(cfg server.Config) *server.Server {
	s := server.New(cfg)
	api, ports := jsonrpc.New(s), proxy.New(s)
	tools := mcp.New(mcp.Config{Server: s, Service: api, Preview: func(ctx context.Context, namespace, name string, port uint16) (string, error) {
		return ports.Sign(ctx, namespace, name, port, proxy.Life)
	}})
	s.Mount(api.Routes()...)
	s.Mount(tools.Routes()...)
	s.Mount(ports.Routes()...)
	s.Mount(rest.New(s).Routes()...)
	s.Mount(metrics.New(s).Routes()...)
	return s
}

// tools speaks MCP with one client until it goes.
func tools(ctx context.Context, cfg server.Config, in io.ReadCloser, out io.WriteCloser) error {
	s := server.New(cfg)
	defer s.Close()
	return mcp.New(mcp.Config{Server: s, Service: jsonrpc.New(s)}).Stdio(ctx, in, out)
}
