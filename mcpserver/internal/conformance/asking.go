package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

// stateKey signs the state that clients carry between two rounds: it comes back from
// an attacker as easily as from a client.
var stateKey = rand.Text()

func seal(state string) string {
	mac := hmac.New(sha256.New, []byte(stateKey))
	mac.Write([]byte(state))
	return state + "." + hex.EncodeToString(mac.Sum(nil))
}

// unseal returns the state, or an error when it is not one that seal made.
func unseal(sealed string) (string, error) {
	state, _, _ := strings.Cut(sealed, ".")
	if !hmac.Equal([]byte(seal(state)), []byte(sealed)) {
		return "", fmt.Errorf("requestState was changed on its way")
	}
	return state, nil
}

// question is an elicitation of one required property.
func question(message, property, kind string) mcp.ElicitationParams {
	return mcp.ElicitationParams{Message: message, RequestedSchema: map[string]any{
		"type":       "object",
		"properties": map[string]any{property: map[string]any{"type": kind}},
		"required":   []string{property},
	}}
}

func completion(prompt string, tokens int) mcp.CreateMessageParams {
	return mcp.CreateMessageParams{
		Messages:  []mcp.SamplingMessage{{Role: mcp.RoleUser, Content: mcp.NewTextContent(prompt)}},
		MaxTokens: tokens,
	}
}

// answered says whether an elicitation was answered in full with this property.
func answered(responses mcp.InputResponses, id, property string) (any, bool) {
	result := server.ElicitationResponse(responses, id)
	if result == nil || result.Action != mcp.ElicitationResponseActionAccept {
		return nil, false
	}
	content, _ := result.Content.(map[string]any)
	value, found := content[property]
	return value, found
}

// askingTools need something from the client: the first ones by a request of the
// server (legacy era), the others by an input_required result.
func askingTools() []server.ServerTool {
	named := func(name string, handler server.ToolHandlerFunc, options ...mcp.ToolOption) server.ServerTool {
		return tool(mcp.NewTool(name, append(options, mcp.WithDescription("Asks the client"))...), handler)
	}
	return []server.ServerTool{
		named("test_sampling", sample, mcp.WithString("prompt", mcp.Required())),
		named("test_elicitation", func(ctx context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return elicit(ctx, request.GetString("message", ""), map[string]any{
				"username": map[string]any{"type": "string", "description": "User's response"},
				"email":    map[string]any{"type": "string", "description": "User's email address"},
			}, "username", "email")
		}, mcp.WithString("message", mcp.Required())),
		named("test_elicitation_sep1034_defaults", elicitDefaults),
		named("test_elicitation_sep1330_enums", elicitEnums),
		named("test_input_required_result_elicitation", askName),
		named("test_streaming_elicitation", askName),
		named("test_input_required_result_sampling", askCapital),
		named("test_input_required_result_list_roots", askRoots),
		named("test_input_required_result_request_state", askConfirmation),
		named("test_input_required_result_tampered_state", askConfirmation),
		named("test_input_required_result_multiple_inputs", askThreeThings),
		named("test_input_required_result_multi_round", askTwice),
		named("test_input_required_result_capabilities", askWhatIsPossible),
		named("test_missing_capability", needSampling),
	}
}

func sample(ctx context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	//lint:ignore SA1019 the suites of the legacy era want it
	result, err := server.ServerFromContext(ctx).RequestSampling(ctx, mcp.CreateMessageRequest{
		Request:             mcp.Request{Method: string(mcp.MethodSamplingCreateMessage)},
		CreateMessageParams: completion(request.GetString("prompt", ""), 100),
	})
	if err != nil {
		return mcp.NewToolResultError(err.Error()), nil
	}
	text, _ := result.Content.(mcp.TextContent)
	return mcp.NewToolResultText("LLM response: " + text.Text), nil
}

func elicit(ctx context.Context, message string, properties map[string]any, required ...string) (*mcp.CallToolResult, error) {
	result, err := server.ServerFromContext(ctx).RequestElicitation(ctx, mcp.ElicitationRequest{
		Request: mcp.Request{Method: string(mcp.MethodElicitationCreate)},
		Params: mcp.ElicitationParams{Message: message, RequestedSchema: map[string]any{
			"type": "object", "properties": properties, "required": append([]string{}, required...),
		}},
	})
	if err != nil {
		return mcp.NewToolResultError(err.Error()), nil
	}
	return mcp.NewToolResultText(fmt.Sprintf("Elicitation completed: action=%s, content=%v", result.Action, result.Content)), nil
}

func elicitDefaults(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	return elicit(ctx, "Provide your information", map[string]any{
		"name":     map[string]any{"type": "string", "default": "John Doe"},
		"age":      map[string]any{"type": "integer", "default": 30},
		"score":    map[string]any{"type": "number", "default": 95.5},
		"status":   map[string]any{"type": "string", "enum": []string{"active", "inactive", "pending"}, "default": "active"},
		"verified": map[string]any{"type": "boolean", "default": true},
	})
}

func elicitEnums(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	options := []string{"option1", "option2"}
	titled := []map[string]any{
		{"const": "value1", "title": "Value One"},
		{"const": "value2", "title": "Value Two"},
	}
	return elicit(ctx, "Select options", map[string]any{
		"untitledSingle": map[string]any{"type": "string", "enum": options},
		"titledSingle":   map[string]any{"type": "string", "oneOf": titled},
		"legacyEnum":     map[string]any{"type": "string", "enum": []string{"opt1", "opt2"}, "enumNames": []string{"Option One", "Option Two"}},
		"untitledMulti":  map[string]any{"type": "array", "items": map[string]any{"type": "string", "enum": options}},
		"titledMulti":    map[string]any{"type": "array", "items": map[string]any{"anyOf": titled}},
	})
}

func askName(_ context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	name, ok := answered(request.Params.InputResponses, "user_name", "name")
	if !ok {
		return server.NewInputRequestBuilder("").Elicit("user_name", question("What is your name?", "name", "string")).ToolResult(), nil
	}
	return mcp.NewToolResultText(fmt.Sprintf("Hello, %v!", name)), nil
}

func askCapital(_ context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	result := server.SamplingResponse(request.Params.InputResponses, "capital_question")
	if result == nil {
		return server.NewInputRequestBuilder("").Sample("capital_question", completion("What is the capital of France?", 100)).ToolResult(), nil
	}
	content, err := mcp.ParseSamplingContent(result.Content)
	if err != nil {
		return mcp.NewToolResultError(err.Error()), nil
	}
	text, _ := content.(mcp.TextContent)
	return mcp.NewToolResultText(text.Text), nil
}

func askRoots(_ context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	result := server.RootsResponse(request.Params.InputResponses, "client_roots")
	if result == nil {
		return server.NewInputRequestBuilder("").Roots("client_roots").ToolResult(), nil
	}
	return mcp.NewToolResultText(fmt.Sprintf("roots: %v", result.Roots)), nil
}

func askConfirmation(_ context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	if request.Params.RequestState == "" {
		return server.NewInputRequestBuilder(seal("confirm")).Elicit("confirm", question("Please confirm", "ok", "boolean")).ToolResult(), nil
	}
	if _, err := unseal(request.Params.RequestState); err != nil {
		return nil, err
	}
	return mcp.NewToolResultText("state-ok"), nil
}

func askThreeThings(_ context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	responses := request.Params.InputResponses
	_, named := answered(responses, "user_name", "name")
	if !named || server.SamplingResponse(responses, "greeting") == nil || server.RootsResponse(responses, "client_roots") == nil {
		return server.NewInputRequestBuilder(seal("three")).
			Elicit("user_name", question("What is your name?", "name", "string")).
			Sample("greeting", completion("Generate a greeting", 50)).
			Roots("client_roots").ToolResult(), nil
	}
	if _, err := unseal(request.Params.RequestState); err != nil {
		return nil, err
	}
	return mcp.NewToolResultText("all three answered"), nil
}

func askTwice(_ context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	responses := request.Params.InputResponses
	if _, ok := answered(responses, "step2", "color"); ok {
		state, err := unseal(request.Params.RequestState)
		if err != nil {
			return nil, err
		}
		return mcp.NewToolResultText("done after " + state), nil
	}
	if name, ok := answered(responses, "step1", "name"); ok {
		return server.NewInputRequestBuilder(seal(fmt.Sprintf("round-2-%v", name))).
			Elicit("step2", question("Step 2: What is your favorite color?", "color", "string")).ToolResult(), nil
	}
	return server.NewInputRequestBuilder(seal("round-1")).
		Elicit("step1", question("Step 1: What is your name?", "name", "string")).ToolResult(), nil
}

func askWhatIsPossible(ctx context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	if len(request.Params.InputResponses) > 0 {
		return mcp.NewToolResultText("answered"), nil
	}
	able := clientAbilities(ctx)
	builder := server.NewInputRequestBuilder("")
	if able.Elicitation != nil {
		builder.Elicit("user_name", question("What is your name?", "name", "string"))
	}
	if able.Sampling != nil {
		builder.Sample("greeting", completion("Generate a greeting", 50))
	}
	if able.Roots != nil {
		builder.Roots("client_roots")
	}
	return builder.ToolResult(), nil
}

func needSampling(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	if clientAbilities(ctx).Sampling == nil {
		return nil, mcp.MissingRequiredClientCapabilityError{Capability: "sampling"}
	}
	return mcp.NewToolResultText("the client can sample"), nil
}

func clientAbilities(ctx context.Context) mcp.ClientCapabilities {
	if session, ok := server.ClientSessionFromContext(ctx).(server.SessionWithClientInfo); ok {
		return session.GetClientCapabilities()
	}
	return mcp.ClientCapabilities{}
}

func askingPrompt() server.ServerPrompt {
	return server.ServerPrompt{
		Prompt: mcp.NewPrompt("test_input_required_result_prompt", mcp.WithPromptDescription("Asks the client")),
		Handler: func(_ context.Context, request mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			value, ok := answered(request.Params.InputResponses, "user_context", "context")
			if !ok {
				return server.NewInputRequestBuilder("").
					Elicit("user_context", question("What context should the prompt use?", "context", "string")).PromptResult(), nil
			}
			return &mcp.GetPromptResult{Messages: []mcp.PromptMessage{{
				Role: mcp.RoleUser, Content: mcp.NewTextContent(fmt.Sprintf("Context: %v", value)),
			}}}, nil
		},
	}
}
