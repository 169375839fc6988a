package mcpserver_test

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/drawbridge-mcp/drawbridge/mcpserver"
)

func ExampleServer_ServeStdio() {
	hello := server.ServerTool{
		Tool: mcp.NewTool("hello", mcp.WithDescription("Says hello")),
		Handler: func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return mcp.NewToolResultText("hello"), nil
		},
	}
	srv := mcpserver.New(mcpserver.Config{Name: "example", Version: "1", Tools: func() []server.ServerTool {
		return []server.ServerTool{hello}
	}})
	in := strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"ping"}`)
	if err := srv.ServeStdio(context.Background(), in, os.Stdout); err != nil {
		fmt.Println(err)
	}
	// Output: {"jsonrpc":"2.0","id":1,"result":{}}
}
