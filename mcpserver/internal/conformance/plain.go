package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

const (
	// onePixel is a PNG image, silence a WAV file; both base64.
	onePixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
	silence  = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="

	// schema2020 uses the keywords of JSON Schema 2020-12 that must survive tools/list.
	schema2020 = `{
	"$schema": "https://json-schema.org/draft/2020-12/schema",
	"type": "object",
	"$defs": {"address": {"$anchor": "addressDef", "type": "object",
		"properties": {"street": {"type": "string"}, "city": {"type": "string"}}}},
	"properties": {
		"name": {"type": "string"},
		"address": {"$ref": "#/$defs/address"},
		"contactMethod": {"type": "string", "enum": ["phone", "email"]},
		"phone": {"type": "string"},
		"email": {"type": "string"}},
	"allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
	"if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
	"then": {"required": ["phone"]},
	"else": {"required": ["email"]},
	"additionalProperties": false}`

	// headerSchema has a parameter that travels in a header as well.
	headerSchema = `{"type": "object", "properties": {
		"region": {"type": "string", "x-mcp-header": "Region"},
		"query": {"type": "string"}}}`
)

// plainTools need nothing from the client.
func plainTools() []server.ServerTool {
	picture := mcp.NewImageContent(onePixel, "image/png")
	text := func(uri, kind, content string) mcp.Content {
		return mcp.NewEmbeddedResource(mcp.TextResourceContents{URI: uri, MIMEType: kind, Text: content})
	}
	return []server.ServerTool{
		fixed("test_simple_text", mcp.NewTextContent("This is a simple text response for testing.")),
		fixed("test_image_content", picture),
		fixed("test_audio_content", mcp.NewAudioContent(silence, "audio/wav")),
		fixed("test_embedded_resource", text("test://embedded-resource", "text/plain", "This is an embedded resource content.")),
		fixed("test_multiple_content_types",
			mcp.NewTextContent("Multiple content types test:"), picture,
			text("test://mixed-content-resource", "application/json", `{"test":"data","value":123}`)),
		tool(mcp.NewTool("test_error_handling", mcp.WithDescription("Always fails")),
			func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				return mcp.NewToolResultError("This tool intentionally returns an error for testing"), nil
			}),
		tool(mcp.NewToolWithRawSchema("json_schema_2020_12_tool", "Tool with JSON Schema 2020-12 features", json.RawMessage(schema2020)), answerText("ok")),
		tool(mcp.NewToolWithRawSchema("test_custom_header", "Takes a parameter that is repeated in a header", json.RawMessage(headerSchema)), answerText("ok")),
		tool(mcp.NewTool("echo", mcp.WithDescription("Returns its text"), mcp.WithString("text", mcp.Required())),
			func(_ context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				return mcp.NewToolResultText(request.GetString("text", "")), nil
			}),
		tool(mcp.NewTool("test_tool_with_logging", mcp.WithDescription("Logs while it runs")), logThrice),
		tool(mcp.NewTool("test_logging_tool", mcp.WithDescription("Logs while it runs, if the client wants it")), logThrice),
		tool(mcp.NewTool("test_tool_with_progress", mcp.WithDescription("Reports progress")), progressThrice),
	}
}

func tool(definition mcp.Tool, handler server.ToolHandlerFunc) server.ServerTool {
	return server.ServerTool{Tool: definition, Handler: handler}
}

func answerText(text string) server.ToolHandlerFunc {
	return func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultText(text), nil
	}
}

func fixed(name string, content ...mcp.Content) server.ServerTool {
	return tool(mcp.NewTool(name, mcp.WithDescription("Returns fixed content")),
		func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return &mcp.CallToolResult{Content: content}, nil
		})
}

// logThrice sends the last message just before it returns: it must arrive all the
// same.
func logThrice(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	for _, text := range []string{"Tool execution started", "Tool processing data", "Tool execution completed"} {
		message := mcp.NewLoggingMessageNotification(mcp.LoggingLevelInfo, "conformance", text)
		if err := server.ServerFromContext(ctx).SendLogMessageToClient(ctx, message); err != nil {
			return nil, fmt.Errorf("send log message: %w", err)
		}
	}
	return mcp.NewToolResultText("Tool with logging executed successfully"), nil
}

func progressThrice(ctx context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	if meta := request.Params.Meta; meta != nil && meta.ProgressToken != nil {
		for _, done := range []int{0, 50, 100} {
			err := server.ServerFromContext(ctx).SendNotificationToClient(ctx, string(mcp.MethodNotificationProgress),
				map[string]any{"progressToken": meta.ProgressToken, "progress": done, "total": 100})
			if err != nil {
				return nil, fmt.Errorf("send progress: %w", err)
			}
		}
	}
	return mcp.NewToolResultText("progress reported"), nil
}

func resources() []server.ServerResource {
	static := func(uri, name, kind string, content mcp.ResourceContents) server.ServerResource {
		return server.ServerResource{
			Resource: mcp.NewResource(uri, name, mcp.WithResourceDescription("Fixed content"), mcp.WithMIMEType(kind)),
			Handler: func(context.Context, mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
				return []mcp.ResourceContents{content}, nil
			},
		}
	}
	return []server.ServerResource{
		static("test://static-text", "static-text", "text/plain", mcp.TextResourceContents{
			URI: "test://static-text", MIMEType: "text/plain", Text: "This is the content of the static text resource."}),
		static("test://static-binary", "static-binary", "image/png", mcp.BlobResourceContents{
			URI: "test://static-binary", MIMEType: "image/png", Blob: onePixel}),
		static("test://watched-resource", "watched-resource", "text/plain", mcp.TextResourceContents{
			URI: "test://watched-resource", MIMEType: "text/plain", Text: "Watched."}),
	}
}

func templates() []server.ServerResourceTemplate {
	return []server.ServerResourceTemplate{{
		Template: mcp.NewResourceTemplate("test://template/{id}/data", "template",
			mcp.WithTemplateDescription("Content made from the id"), mcp.WithTemplateMIMEType("application/json")),
		Handler: func(_ context.Context, request mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
			uri := request.Params.URI
			id := strings.TrimSuffix(strings.TrimPrefix(uri, "test://template/"), "/data")
			text := fmt.Sprintf(`{"id":%q,"templateTest":true,"data":%q}`, id, "Data for ID: "+id)
			return []mcp.ResourceContents{mcp.TextResourceContents{URI: uri, MIMEType: "application/json", Text: text}}, nil
		},
	}}
}

func prompts() []server.ServerPrompt {
	user := func(content mcp.Content) mcp.PromptMessage {
		return mcp.PromptMessage{Role: mcp.RoleUser, Content: content}
	}
	argument := func(name string) mcp.PromptOption {
		return mcp.WithArgument(name, mcp.ArgumentDescription("Required"), mcp.RequiredArgument())
	}
	prompt := func(definition mcp.Prompt, messages func(arguments map[string]string) []mcp.PromptMessage) server.ServerPrompt {
		return server.ServerPrompt{Prompt: definition, Handler: func(_ context.Context, request mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			return &mcp.GetPromptResult{Messages: messages(request.Params.Arguments)}, nil
		}}
	}
	return []server.ServerPrompt{
		prompt(mcp.NewPrompt("test_simple_prompt", mcp.WithPromptDescription("No arguments")),
			func(map[string]string) []mcp.PromptMessage {
				return []mcp.PromptMessage{user(mcp.NewTextContent("This is a simple prompt for testing."))}
			}),
		prompt(mcp.NewPrompt("test_prompt_with_arguments", mcp.WithPromptDescription("Two arguments"), argument("arg1"), argument("arg2")),
			func(arguments map[string]string) []mcp.PromptMessage {
				return []mcp.PromptMessage{user(mcp.NewTextContent(fmt.Sprintf(
					"Prompt with arguments: arg1='%s', arg2='%s'", arguments["arg1"], arguments["arg2"])))}
			}),
		prompt(mcp.NewPrompt("test_prompt_with_embedded_resource", mcp.WithPromptDescription("A resource inside"), argument("resourceUri")),
			func(arguments map[string]string) []mcp.PromptMessage {
				return []mcp.PromptMessage{
					user(mcp.NewEmbeddedResource(mcp.TextResourceContents{
						URI: arguments["resourceUri"], MIMEType: "text/plain", Text: "Embedded resource content for testing."})),
					user(mcp.NewTextContent("Please process the embedded resource above.")),
				}
			}),
		prompt(mcp.NewPrompt("test_prompt_with_image", mcp.WithPromptDescription("An image inside")),
			func(map[string]string) []mcp.PromptMessage {
				return []mcp.PromptMessage{
					user(mcp.NewImageContent(onePixel, "image/png")),
					user(mcp.NewTextContent("Please analyze the image above.")),
				}
			}),
		askingPrompt(),
	}
}
