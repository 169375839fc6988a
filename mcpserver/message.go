package mcpserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/mark3labs/mcp-go/mcp"
)

// codeServerBusy is the JSON-RPC error code of a request that was refused because
// of a limit; it may be sent again. The range -32000 to -32099 is the server's.
const codeServerBusy = -32000

// nullID is the id of an answer to a message whose id could not be read.
var nullID = json.RawMessage("null")

// message is one JSON-RPC message from a client whose envelope was checked.
type message struct {
	raw    []byte
	id     json.RawMessage // as sent; nil for a notification
	method string          // empty for a response to a request of ours

	result, failure json.RawMessage // of a response

	// version is the protocol version that the message declares in _meta. It is
	// empty in the legacy era, where initialize settled it.
	version string
}

func (m message) isRequest() bool      { return m.method != "" && m.id != nil }
func (m message) isNotification() bool { return m.method != "" && m.id == nil }
func (m message) isResponse() bool     { return m.method == "" }

// isModern says whether the message belongs to the era without sessions.
func (m message) isModern() bool { return mcp.IsModernProtocol(m.version) }

// parseMessage checks the envelope of one message. When it is not valid the
// returned answer is not nil and says why; it is for the client.
//
// mcp-go would take "id": null for a notification and report batches as a syntax
// error; both leave a client waiting without a reason.
func parseMessage(raw []byte) (message, mcp.JSONRPCMessage) {
	var envelope struct {
		JSONRPC json.RawMessage `json:"jsonrpc"`
		ID      json.RawMessage `json:"id"`
		Method  json.RawMessage `json:"method"`
		Result  json.RawMessage `json:"result"`
		Error   json.RawMessage `json:"error"`
		Params  struct {
			Meta struct {
				Version string `json:"io.modelcontextprotocol/protocolVersion"`
			} `json:"_meta"`
		} `json:"params"`
	}
	trimmed := bytes.TrimLeft(raw, " \t\r\n")
	if len(trimmed) > 0 && trimmed[0] == '[' && json.Valid(trimmed) {
		return message{}, errorAnswer(nil, mcp.INVALID_REQUEST, "batches are not part of MCP: send one message at a time")
	}
	err := json.Unmarshal(raw, &envelope)
	var typeError *json.UnmarshalTypeError
	switch {
	case errors.As(err, &typeError) && typeError.Field == "":
		return message{}, errorAnswer(nil, mcp.INVALID_REQUEST, "a JSON-RPC message must be an object, not "+article(typeError.Value))
	case err != nil && typeError == nil:
		return message{}, errorAnswer(nil, mcp.PARSE_ERROR, "message is not valid JSON: "+err.Error())
	}
	// A type error inside params is left to the method's own decoding, which names
	// the parameter.

	msg := message{
		raw: raw, id: envelope.ID, result: envelope.Result, failure: envelope.Error,
		version: envelope.Params.Meta.Version,
	}
	if envelope.ID != nil && !isID(envelope.ID) {
		return message{}, errorAnswer(nil, mcp.INVALID_REQUEST, "id must be a string or a number; leave it out for a notification")
	}
	if string(envelope.JSONRPC) != `"2.0"` {
		return message{}, errorAnswer(msg.id, mcp.INVALID_REQUEST, `jsonrpc must be "2.0"`)
	}
	if envelope.Method != nil {
		if json.Unmarshal(envelope.Method, &msg.method) != nil || msg.method == "" {
			return message{}, errorAnswer(msg.id, mcp.INVALID_REQUEST, "method must be a string that is not empty")
		}
		return msg, nil
	}
	if msg.id == nil || (msg.result == nil && msg.failure == nil) {
		return message{}, errorAnswer(msg.id, mcp.INVALID_REQUEST, "message is neither a request, a notification nor a response")
	}
	return msg, nil
}

// isID says whether a JSON value is a string or a number.
func isID(value json.RawMessage) bool {
	switch first := value[0]; {
	case first == '"', first == '-', first >= '0' && first <= '9':
		return true
	default:
		return false
	}
}

func article(jsonType string) string {
	if jsonType == "array" {
		return "an array"
	}
	return "a " + jsonType
}

// errorAnswer makes a JSON-RPC error response. id may be nil when it is not known.
func errorAnswer(id json.RawMessage, code int, text string) mcp.JSONRPCMessage {
	if id == nil {
		id = nullID
	}
	return mcp.JSONRPCError{
		JSONRPC: mcp.JSONRPC_VERSION,
		ID:      mcp.NewRequestId(id),
		Error:   mcp.NewJSONRPCErrorDetails(code, text, nil),
	}
}

// withID puts the id back as it was sent: mcp-go decodes numbers into float64 and
// so changes ids above 2^53, which the client then cannot match.
func withID(answer mcp.JSONRPCMessage, id json.RawMessage) mcp.JSONRPCMessage {
	switch answer := answer.(type) {
	case mcp.JSONRPCResponse:
		answer.ID = mcp.NewRequestId(id)
		if listen, ok := answer.Result.(mcp.SubscriptionsListenResult); ok && listen.Meta != nil {
			listen.Meta.SetSubscriptionID(id)
		}
		return answer
	case mcp.JSONRPCError:
		answer.ID = mcp.NewRequestId(id)
		return answer
	default:
		return answer
	}
}

// encodeAnswer encodes an answer to the request with this id. What cannot be
// encoded (a handler put a channel or NaN into its result) becomes an error answer,
// so that the client is never left waiting.
func encodeAnswer(answer mcp.JSONRPCMessage, id json.RawMessage) []byte {
	if data, ok := encodeToolAnswer(answer); ok {
		return data
	}
	data, err := json.Marshal(answer)
	if err == nil {
		return data
	}
	fallback := errorAnswer(id, mcp.INTERNAL_ERROR, fmt.Sprintf("result cannot be encoded as JSON: %v", err))
	if data, err = json.Marshal(fallback); err != nil {
		// Cannot happen: the fallback holds an id that was parsed and a string.
		return []byte(`{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"internal error"}}`)
	}
	return data
}
