package modeltest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

func readAnthropic(_ string, body []byte) (conversation, error) {
	var request struct {
		Model    string          `json:"model"`
		Stream   bool            `json:"stream"`
		System   json.RawMessage `json:"system"`
		Messages []struct {
			Role    string          `json:"role"`
			Content json.RawMessage `json:"content"`
		} `json:"messages"`
		Tools []struct {
			Name string `json:"name"`
		} `json:"tools"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return conversation{}, fmt.Errorf("read a request of the Messages API: %w", err)
	}
	c := conversation{api: Anthropic, model: request.Model, stream: request.Stream, system: texts(request.System)}
	for _, tool := range request.Tools {
		c.tools = append(c.tools, tool.Name)
	}
	for _, m := range request.Messages {
		if m.Role == "user" {
			c.items = append(c.items, anthropicItems(m.Content)...)
		}
	}
	return c, nil
}

// anthropicItems reads the content of a message: a string, or blocks.
func anthropicItems(content json.RawMessage) []item {
	var blocks []struct {
		Type    string          `json:"type"`
		Text    string          `json:"text"`
		Content json.RawMessage `json:"content"`
	}
	if json.Unmarshal(content, &blocks) != nil {
		return []item{{text: strings.Join(texts(content), "\n")}}
	}
	var items []item
	for _, b := range blocks {
		switch b.Type {
		case "text":
			items = append(items, item{text: b.Text})
		case "tool_result":
			items = append(items, item{isResult: true, text: strings.Join(texts(b.Content), "\n")})
		}
	}
	return items
}

func writeAnthropic(w http.ResponseWriter, c conversation, r reply) {
	block, stop := object{"type": "text", "text": r.text}, "end_turn"
	if r.tool != "" {
		block, stop = object{"type": "tool_use", "id": fmt.Sprintf("toolu_%d", len(c.items)), "name": r.tool, "input": r.input}, "tool_use"
	}
	usage := object{
		"input_tokens": InputTokens - CachedTokens, "cache_read_input_tokens": CachedTokens, "cache_creation_input_tokens": 0,
		"output_tokens": OutputTokens,
	}
	message := object{
		"id": fmt.Sprintf("msg_%d", len(c.items)), "type": "message", "role": "assistant", "model": c.model,
		"content": []object{block}, "stop_reason": stop, "stop_sequence": nil, "usage": usage,
	}
	if !c.stream {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(message)
		return
	}
	delta := object{"type": "text_delta", "text": r.text}
	if r.tool != "" {
		arguments, err := json.Marshal(r.input)
		if err != nil {
			panic(err) // they are ours
		}
		delta = object{"type": "input_json_delta", "partial_json": string(arguments)}
		block["input"] = object{}
	} else {
		block["text"] = ""
	}
	message["content"], message["stop_reason"] = []object{}, nil
	e := newEvents(w)
	e.send("message_start", object{"type": "message_start", "message": message})
	e.send("content_block_start", object{"type": "content_block_start", "index": 0, "content_block": block})
	e.send("content_block_delta", object{"type": "content_block_delta", "index": 0, "delta": delta})
	e.send("content_block_stop", object{"type": "content_block_stop", "index": 0})
	e.send("message_delta", object{"type": "message_delta", "delta": object{"stop_reason": stop, "stop_sequence": nil}, "usage": usage})
	e.send("message_stop", object{"type": "message_stop"})
}
