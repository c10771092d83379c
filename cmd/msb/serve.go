package main

import (
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/internal/server/jsonrpc"
)

// serve is a server with all that it speaks.
func serve(cfg server.Config) *server.Server {
	s := server.New(cfg)
	api := jsonrpc.New(s, nil)
	s.Mount(api.Routes()...)
	return s
}
