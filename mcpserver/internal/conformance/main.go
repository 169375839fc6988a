// Command conformance is the server that the official MCP conformance suites and
// the Inspector talk to in tests of package mcpserver. It serves the tools,
// resources and prompts that the suites prescribe through the same transports as
// Drawbridge itself. It is used by tests only.
//
// Without arguments it speaks MCP on stdio. With -listen ADDRESS it serves HTTP and
// prints the address it got on one line. It ends on SIGINT and SIGTERM.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/mark3labs/mcp-go/server"
	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/mcpserver"
)

func main() {
	listen := flag.String("listen", "", "serve HTTP on this address instead of stdio")
	debug := flag.Bool("debug", false, "log everything to standard error")
	flag.Parse()
	if err := run(*listen, *debug); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(address string, debug bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	logger := zap.NewNop()
	if debug {
		var err error
		if logger, err = zap.NewDevelopment(); err != nil {
			return fmt.Errorf("make logger: %w", err)
		}
	}
	srv := newServer(logger)
	if address == "" {
		return srv.ServeStdio(ctx, os.Stdin, os.Stdout)
	}
	listener, err := mcpserver.Listen(ctx, address, "")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return srv.Serve(ctx, listener, mcpserver.HTTPOptions{})
}

func newServer(logger *zap.Logger) *mcpserver.Server {
	options := []server.ServerOption{
		server.WithCompletions(),
		server.WithLogging(),
		server.WithElicitation(),
		func(s *server.MCPServer) { s.EnableSampling() },
	}
	return mcpserver.New(mcpserver.Config{
		Name:                  "drawbridge-conformance",
		Version:               "1.0.0",
		Instructions:          "Fixtures for the MCP conformance suites.",
		Tools:                 func() []server.ServerTool { return append(plainTools(), askingTools()...) },
		Resources:             resources(),
		ResourceTemplates:     templates(),
		Prompts:               prompts(),
		ResourceSubscriptions: true,
		ServerOptions:         options,
		Logger:                logger,
	})
}
