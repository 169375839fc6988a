package modeltest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// geminiPrefix precedes the name of a model and, after a colon, of a method.
const geminiPrefix = "/v1beta/models/"

type geminiContent struct {
	Role  string `json:"role"`
	Parts []struct {
		Text             string `json:"text"`
		FunctionResponse *struct {
			Response json.RawMessage `json:"response"`
		} `json:"functionResponse"`
	} `json:"parts"`
}

func readGemini(path string, body []byte) (conversation, error) {
	var request struct {
		Contents          []geminiContent `json:"contents"`
		SystemInstruction geminiContent   `json:"systemInstruction"`
		Tools             []struct {
			FunctionDeclarations []struct {
				Name string `json:"name"`
			} `json:"functionDeclarations"`
		} `json:"tools"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return conversation{}, fmt.Errorf("read a request of the Gemini API: %w", err)
	}
	model, method, _ := strings.Cut(strings.TrimPrefix(path, geminiPrefix), ":")
	c := conversation{api: Gemini, model: model, stream: method == "streamGenerateContent"}
	for _, p := range request.SystemInstruction.Parts {
		c.system = append(c.system, p.Text)
	}
	for _, set := range request.Tools {
		for _, f := range set.FunctionDeclarations {
			c.tools = append(c.tools, f.Name)
		}
	}
	for _, content := range request.Contents {
		for _, p := range content.Parts {
			switch {
			case p.FunctionResponse != nil:
				c.items = append(c.items, item{isResult: true, text: string(p.FunctionResponse.Response)})
			case content.Role == "user":
				c.items = append(c.items, item{text: p.Text})
			}
		}
	}
	return c, nil
}

func writeGemini(w http.ResponseWriter, c conversation, r reply) {
	part := object{"text": r.text}
	if r.tool != "" {
		part = object{"functionCall": object{"name": r.tool, "args": r.input}}
	}
	response := object{
		"candidates": []object{{
			"index": 0, "finishReason": "STOP",
			"content": object{"role": "model", "parts": []object{part}},
		}},
		"usageMetadata": object{
			"promptTokenCount": InputTokens, "cachedContentTokenCount": CachedTokens,
			"candidatesTokenCount": OutputTokens, "totalTokenCount": InputTokens + OutputTokens,
		},
		"modelVersion": c.model, "responseId": fmt.Sprintf("r%d", len(c.items)),
	}
	if c.stream {
		newEvents(w).send("", response)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(response)
}
