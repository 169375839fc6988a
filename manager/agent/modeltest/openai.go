package modeltest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
)

func readOpenAI(_ string, body []byte) (conversation, error) {
	var request struct {
		Model        string `json:"model"`
		Instructions string `json:"instructions"`
		Input        []struct {
			Type    string          `json:"type"`
			Role    string          `json:"role"`
			Content json.RawMessage `json:"content"`
			Output  json.RawMessage `json:"output"`
			Tools   []openaiTool    `json:"tools"`
		} `json:"input"`
		Tools  []openaiTool `json:"tools"`
		Stream bool         `json:"stream"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return conversation{}, fmt.Errorf("read a request of the Responses API: %w", err)
	}
	c := conversation{api: OpenAI, model: request.Model, stream: request.Stream, system: []string{request.Instructions}}
	for _, tool := range request.Tools {
		c.tools = append(c.tools, tool.names()...)
	}
	for _, in := range request.Input {
		for _, tool := range in.Tools {
			c.tools = append(c.tools, tool.names()...)
		}
		switch {
		case strings.HasSuffix(in.Type, "_call_output"):
			c.items = append(c.items, item{isResult: true, text: strings.Join(texts(in.Output), "\n")})
		case in.Role == "user":
			c.items = append(c.items, item{text: strings.Join(texts(in.Content), "\n")})
		case in.Role == "developer" || in.Role == "system":
			c.system = append(c.system, texts(in.Content)...)
		}
	}
	return c, nil
}

// openaiTool is a tool, or a name space of tools.
type openaiTool struct {
	Name  string       `json:"name"`
	Type  string       `json:"type"`
	Tools []openaiTool `json:"tools"`
}

func (t openaiTool) names() []string {
	if t.Type != "namespace" {
		return []string{t.Name}
	}
	var names []string
	for _, inner := range t.Tools {
		names = append(names, inner.names()...)
	}
	return names
}

// scriptTool takes a script in which the tools are functions. With newer models it is
// all that Codex offers.
const scriptTool = "exec"

// openaiCall is the call of a tool.
func openaiCall(id string, r reply) object {
	arguments, err := json.Marshal(r.input)
	if err != nil {
		panic(err) // they are ours
	}
	call := object{"call_id": "call_" + id, "name": r.tool, "status": "completed"}
	if r.tool == scriptTool {
		call["type"], call["id"] = "custom_tool_call", "ctc_"+id
		if r.called != "" {
			call["input"] = fmt.Sprintf("const name = Object.keys(tools).find(name => name.endsWith(%q)); text(await tools[name](%s));", r.called, arguments)
			return call
		}
		call["input"] = "text(await tools.exec_command(" + string(arguments) + "));"
		return call
	}
	call["type"], call["id"], call["arguments"] = "function_call", "fc_"+id, string(arguments)
	return call
}

func writeOpenAI(w http.ResponseWriter, c conversation, r reply) {
	id := fmt.Sprintf("resp_%d", len(c.items))
	done := object{
		"type": "message", "id": "msg_" + id, "role": "assistant", "status": "completed",
		"content": []object{{"type": "output_text", "text": r.text, "annotations": []object{}}},
	}
	if r.tool != "" {
		done = openaiCall(id, r)
	}
	response := object{
		"id": id, "object": "response", "model": c.model, "status": "completed", "output": []object{done},
		"usage": object{
			"input_tokens": InputTokens, "input_tokens_details": object{"cached_tokens": CachedTokens},
			"output_tokens": OutputTokens, "output_tokens_details": object{"reasoning_tokens": 0},
			"total_tokens": InputTokens + OutputTokens,
		},
	}
	if !c.stream {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(response)
		return
	}
	e := newEvents(w)
	e.send("response.created", object{"type": "response.created", "response": object{"id": id, "object": "response", "status": "in_progress"}})
	e.send("response.output_item.added", object{"type": "response.output_item.added", "output_index": 0, "item": started(done)})
	if r.tool == "" {
		e.send("response.output_text.delta", object{"type": "response.output_text.delta", "item_id": done["id"], "output_index": 0, "content_index": 0, "delta": r.text})
	}
	e.send("response.output_item.done", object{"type": "response.output_item.done", "output_index": 0, "item": done})
	e.send("response.completed", object{"type": "response.completed", "response": response})
}

// started is an item that has nothing in it yet.
func started(done object) object {
	begun := maps.Clone(done)
	begun["status"] = "in_progress"
	for key, empty := range map[string]any{"content": []object{}, "arguments": "", "input": ""} {
		if _, has := begun[key]; has {
			begun[key] = empty
		}
	}
	return begun
}
