package mcpserver

import (
	"encoding/json"
	"slices"
	"unicode/utf8"

	"github.com/mark3labs/mcp-go/mcp"
)

// CompactJSON is what the structured content of a tool's result may be: a value
// that is JSON already. The bytes must be valid, without white space between
// tokens; they are not checked again, which is what makes it cheap, and are not
// changed. The value must also encode to the same with encoding/json.
type CompactJSON interface {
	json.Marshaler
	CompactJSON() []byte
}

// encodeToolAnswer encodes the answer to a tool call, by far the most frequent
// one. The result is what json.Marshal returns, which goes through a map and
// checks and copies the content at each of three levels. For any other answer, and
// for one with an error in it, ok is false.
func encodeToolAnswer(answer mcp.JSONRPCMessage) (data []byte, ok bool) {
	response, ok := answer.(mcp.JSONRPCResponse)
	if !ok {
		return nil, false
	}
	result, ok := response.Result.(*mcp.CallToolResult)
	if !ok || result == nil || len(result.RawStructuredContent) > 0 || len(result.InputRequests) > 0 || result.RequestState != "" {
		return nil, false
	}
	id, ok := response.ID.Value().(json.RawMessage)
	if !ok || len(id) == 0 {
		return nil, false
	}
	e := toolEncoder{data: make([]byte, 0, sizeOf(result))}
	e.raw(`{"jsonrpc":`)
	e.data = appendString(e.data, response.JSONRPC)
	e.raw(`,"id":`)
	e.data = appendEscapedJSON(e.data, id)
	e.raw(`,"result":`)
	e.result(result)
	e.raw("}")
	return e.data, !e.failed
}

// toolEncoder appends the parts of one answer.
type toolEncoder struct {
	data   []byte
	failed bool
}

func (e *toolEncoder) raw(text string) { e.data = append(e.data, text...) }

// any appends what is not frequent enough for code of its own.
func (e *toolEncoder) any(value any) {
	data, err := json.Marshal(value)
	e.failed = e.failed || err != nil
	e.data = append(e.data, data...)
}

// result appends the members in the order that mcp-go gives them.
func (e *toolEncoder) result(result *mcp.CallToolResult) {
	e.raw("{")
	if result.Meta != nil {
		e.raw(`"_meta":`)
		e.any(result.Meta)
		e.raw(",")
	}
	e.raw(`"content":[`)
	for i, content := range result.Content {
		if i > 0 {
			e.raw(",")
		}
		text, ok := content.(mcp.TextContent)
		if !ok || text.Annotations != nil || text.Meta != nil {
			e.any(content)
			continue
		}
		e.raw(`{"type":`)
		e.data = appendString(e.data, text.Type)
		e.raw(`,"text":`)
		e.data = appendString(e.data, text.Text)
		e.raw("}")
	}
	e.raw("]")
	if result.IsError {
		e.raw(`,"isError":true`)
	}
	if result.ResultType != "" {
		e.raw(`,"resultType":`)
		e.data = appendString(e.data, string(result.ResultType))
	}
	if result.StructuredContent != nil {
		e.raw(`,"structuredContent":`)
		if ready, ok := result.StructuredContent.(CompactJSON); ok {
			e.data = appendEscapedJSON(e.data, ready.CompactJSON())
		} else {
			e.any(result.StructuredContent)
		}
	}
	e.raw("}")
}

// sizeOf estimates the size of an encoded result with its envelope. Text has some
// characters in it that take more than one byte in JSON.
func sizeOf(result *mcp.CallToolResult) int {
	size := 256
	for _, content := range result.Content {
		if text, ok := content.(mcp.TextContent); ok {
			size += len(text.Text) + len(text.Text)/8
		}
	}
	if ready, ok := result.StructuredContent.(CompactJSON); ok {
		size += len(ready.CompactJSON())
	}
	return size
}

const hexDigits = "0123456789abcdef"

// special are the ASCII characters that cannot stand for themselves in a string.
// Those of HTML are among them, as for encoding/json.
var special = func() (set [utf8.RuneSelf]bool) {
	for c := range byte(' ') {
		set[c] = true
	}
	for _, c := range []byte(`"\<>&`) {
		set[c] = true
	}
	return set
}()

// appendString appends text as a JSON string, as encoding/json writes it.
func appendString(data []byte, text string) []byte {
	data = append(data, '"')
	start := 0
	for i := 0; i < len(text); {
		if c := text[i]; c < utf8.RuneSelf {
			if special[c] {
				data = appendASCII(append(data, text[start:i]...), c)
				start = i + 1
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			data = append(append(data, text[start:i]...), `\ufffd`...)
			start = i + size
		case r == '\u2028' || r == '\u2029':
			data = append(append(data, text[start:i]...), `\u202`...)
			data = append(data, hexDigits[r&0xf])
			start = i + size
		}
		i += size
	}
	return append(append(data, text[start:]...), '"')
}

// appendASCII appends the escape of one special character.
func appendASCII(data []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(data, '\\', c)
	case '\b':
		return append(data, `\b`...)
	case '\f':
		return append(data, `\f`...)
	case '\n':
		return append(data, `\n`...)
	case '\r':
		return append(data, `\r`...)
	case '\t':
		return append(data, `\t`...)
	}
	return append(data, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
}

// appendEscapedJSON appends compact JSON, with the escapes that encoding/json adds
// to JSON that it is given. What they replace can only be inside of strings.
func appendEscapedJSON(data, compact []byte) []byte {
	data = slices.Grow(data, len(compact))
	start := 0
	for i, c := range compact {
		switch {
		case c == '<' || c == '>' || c == '&':
			data = appendASCII(append(data, compact[start:i]...), c)
			start = i + 1
		case c == 0xe2 && i+2 < len(compact) && compact[i+1] == 0x80 && compact[i+2]&^1 == 0xa8:
			data = append(append(data, compact[start:i]...), `\u202`...)
			data = append(data, hexDigits[compact[i+2]&0xf])
			start = i + 3
		}
	}
	return append(data, compact[start:]...)
}
