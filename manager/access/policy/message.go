package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Bounds of what is read as JSON-RPC.
const (
	// MaxMessage bounds the content of one request to an MCP server that has denied
	// tools, in bytes.
	MaxMessage = 10 << 20
	// maxMembers bounds the names and values in it: what is kept to tell whether a
	// name comes twice must not be many times its size.
	maxMembers = 200_000
	maxDepth   = 200
	maxID      = 256 // bytes
)

// ToolCall is a call of a tool, in a message of JSON-RPC.
type ToolCall struct {
	Tool string
	// Notified says that the call has no ID, and so gets no answer.
	Notified bool
}

// Message is what the content of a request to an MCP server asks for: one message of
// JSON-RPC, or a batch.
type Message struct {
	Calls []ToolCall
	// IDs are those of all requests in it, in order, as they were written.
	IDs   []json.RawMessage
	Batch bool
}

// ReadMessage reads the content of a request to an MCP server. It refuses what two
// readers may take for different things: a name that comes twice in an object, one
// that differs from those of the protocol in case only, a call without the name of a
// tool, and what is not JSON in UTF-8.
func ReadMessage(content []byte) (*Message, error) {
	switch {
	case !utf8.Valid(content):
		return nil, errors.New("it is not UTF-8")
	case !json.Valid(content): // tokens alone would not tell all of that
		return nil, errNotJSON
	}
	r := &messageReader{decoder: json.NewDecoder(bytes.NewReader(content))}
	r.decoder.UseNumber()
	m, err := r.message()
	if err != nil {
		return nil, err
	}
	if _, err := r.decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something comes after the message")
	}
	return m, nil
}

var errNotJSON = errors.New("it is not JSON")

// messageReader reads the tokens of a message.
type messageReader struct {
	decoder *json.Decoder
	members int
	depth   int
}

func (r *messageReader) next() (json.Token, error) {
	if r.members++; r.members > maxMembers {
		return nil, fmt.Errorf("it has more than %d names and values", maxMembers)
	}
	token, err := r.decoder.Token()
	if err != nil {
		return nil, errNotJSON
	}
	return token, nil
}

func (r *messageReader) message() (*Message, error) {
	m := &Message{}
	first, err := r.next()
	switch {
	case err != nil:
		return nil, err
	case first == json.Delim('{'):
		return m, r.single(m)
	case first != json.Delim('['):
		return nil, errors.New("it is no message of JSON-RPC")
	}
	m.Batch = true
	for r.decoder.More() {
		if token, err := r.next(); err != nil || token != json.Delim('{') {
			return nil, errors.New("it is a batch of something else than messages")
		}
		if err := r.single(m); err != nil {
			return nil, err
		}
	}
	_, err = r.next()
	return m, err
}

// single reads an object that has been opened, as one message.
func (r *messageReader) single(m *Message) error {
	var method, tool any
	var id json.RawMessage
	hasMethod := false
	err := r.object([]string{"jsonrpc", "id", "method", "params", "result", "error"}, func(name string) (err error) {
		switch name {
		case "method":
			hasMethod = true
			method, err = r.value()
		case "id":
			id, err = r.id()
		case "params":
			tool, err = r.params()
		default:
			_, err = r.value()
		}
		return err
	})
	if err != nil || !hasMethod {
		return err // without a method it is an answer
	}
	called, ok := method.(string)
	if !ok {
		return errors.New("its method is no text")
	}
	if id != nil {
		m.IDs = append(m.IDs, id)
	}
	if foldTool(called) != foldTool("tools/call") {
		return nil
	}
	name, ok := tool.(string)
	if !ok {
		return errors.New("it calls a tool without a name")
	}
	m.Calls = append(m.Calls, ToolCall{Tool: name, Notified: id == nil})
	return nil
}

// params reads the parameters of a message and returns the value of "name".
func (r *messageReader) params() (name any, err error) {
	first, err := r.next()
	if err != nil || first != json.Delim('{') {
		return nil, r.rest(first, err)
	}
	err = r.object([]string{"name", "arguments"}, func(member string) error {
		value, err := r.value()
		if member == "name" {
			name = value
		}
		return err
	})
	return name, err
}

// id reads the ID of a request.
func (r *messageReader) id() (json.RawMessage, error) {
	token, err := r.next()
	if err != nil {
		return nil, err
	}
	switch token.(type) {
	case string, json.Number, nil:
	default:
		return nil, errors.New("its ID is neither a text nor a number")
	}
	id, err := json.Marshal(token)
	if len(id) > maxID {
		return nil, fmt.Errorf("its ID is longer than %d bytes", maxID)
	}
	return id, err
}

// object reads an object that has been opened, to its end. A name that differs from one
// of the protocol in case only is an error: some readers take it for that one.
func (r *messageReader) object(protocol []string, member func(name string) error) error {
	if r.depth++; r.depth > maxDepth {
		return fmt.Errorf("it is nested more than %d times", maxDepth)
	}
	defer func() { r.depth-- }()
	seen := map[string]bool{}
	for r.decoder.More() {
		token, err := r.next()
		if err != nil {
			return err
		}
		name, _ := token.(string)
		if seen[name] {
			return fmt.Errorf("the name %s comes twice in an object", quoted(name))
		}
		seen[name] = true
		for _, known := range protocol {
			if name != known && strings.EqualFold(name, known) {
				return fmt.Errorf("the name %s differs from %s in case only", quoted(name), known)
			}
		}
		if err := member(name); err != nil {
			return err
		}
	}
	_, err := r.next()
	return err
}

// value reads a value, and returns it where it is neither an object nor a list.
func (r *messageReader) value() (any, error) {
	token, err := r.next()
	if _, nested := token.(json.Delim); nested || err != nil {
		return nil, r.rest(token, err)
	}
	return token, nil
}

// rest reads what a token has opened, to its end.
func (r *messageReader) rest(first json.Token, err error) error {
	switch {
	case err != nil:
		return err
	case first == json.Delim('{'):
		return r.object(nil, func(string) error { _, err := r.value(); return err })
	case first == json.Delim('['):
		if r.depth++; r.depth > maxDepth {
			return fmt.Errorf("it is nested more than %d times", maxDepth)
		}
		defer func() { r.depth-- }()
		for r.decoder.More() {
			if _, err := r.value(); err != nil {
				return err
			}
		}
		_, err := r.next()
		return err
	}
	return nil
}
