package tools

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// Field is one field of a tool's structured content.
type Field struct {
	Name        string
	Type        string // string, integer, number, boolean, object, or array (of objects with Fields, otherwise of strings)
	Description string
	Optional    bool // left out where it does not apply
	Enum        []string
	Fields      []Field
}

// errorField is the content of an answer that is an error. It is part of every
// output schema, because the TypeScript SDK checks the structured content of
// errors against the schema as well.
var errorField = Field{Name: "error", Type: "object", Optional: true, Description: "Set if and only if the call failed.", Fields: []Field{
	{Name: "code", Type: "string", Description: "What kind of error it is.", Enum: errorCodes},
	{Name: "message", Type: "string", Description: "What failed, on what, and why."},
	{Name: "retryable", Type: "boolean", Description: "The same call may succeed later."},
	{Name: "next", Type: "string", Optional: true, Description: "What to do now."},
}}

// node is a JSON object with its members in a chosen order.
type node []member

type member struct {
	key   string
	value any // a string, a number (int or int64), a bool, a []string or a node
}

// appendNode appends the members in order. Schemas are made whenever a server
// starts, so it does not go through encoding/json, which would check and copy the
// innermost node once for each level above it.
func appendNode(data []byte, n node) []byte {
	data = append(data, '{')
	for i, m := range n {
		if i > 0 {
			data = append(data, ',')
		}
		data = append(appendQuoted(data, m.key), ':')
		data = appendValue(data, m.value)
	}
	return append(data, '}')
}

func appendValue(data []byte, value any) []byte {
	switch value := value.(type) {
	case node:
		return appendNode(data, value)
	case string:
		return appendQuoted(data, value)
	case []string:
		data = append(data, '[')
		for i, entry := range value {
			if i > 0 {
				data = append(data, ',')
			}
			data = appendQuoted(data, entry)
		}
		return append(data, ']')
	case bool:
		return strconv.AppendBool(data, value)
	case int:
		return strconv.AppendInt(data, int64(value), 10)
	case int64:
		return strconv.AppendInt(data, value, 10)
	}
	panic(fmt.Sprintf("encode a schema: a %T is no part of one", value))
}

// inputSchema is the JSON schema of arguments: a closed object, without the
// combinators and type unions that several model providers refuse.
func inputSchema(params []Param) json.RawMessage {
	properties, required := node{}, []string{}
	for _, p := range params {
		properties = append(properties, member{p.Name, p.schema()})
		if p.Required {
			required = append(required, p.Name)
		}
	}
	schema := node{{"type", "object"}, {"properties", properties}}
	if len(required) > 0 {
		schema = append(schema, member{"required", required})
	}
	return encodeSchema(append(schema, member{"additionalProperties", false}))
}

func (p Param) schema() node {
	var n node
	switch p.Kind {
	case Text:
		n = node{{"type", "string"}}
		if p.Enum != nil {
			n = append(n, member{"enum", p.Enum})
			break
		}
		if p.Min > 0 {
			n = append(n, member{"minLength", p.Min})
		}
		n = append(n, member{"maxLength", p.Max})
	case Integer:
		n = node{{"type", "integer"}, {"minimum", p.Min}, {"maximum", p.Max}}
	case Number:
		n = node{{"type", "number"}, {"minimum", p.Min}, {"maximum", p.Max}}
	case Boolean:
		n = node{{"type", "boolean"}}
	case TextList:
		n = node{{"type", "array"}, {"items", node{{"type", "string"}}}}
		if p.Min > 0 {
			n = append(n, member{"minItems", 1})
		}
		n = append(n, member{"maxItems", p.MaxItems})
	case TextMap:
		n = node{{"type", "object"}, {"additionalProperties", node{{"type", "string"}}}}
	case IntegerMap:
		n = node{{"type", "object"}, {"additionalProperties", node{{"type", "integer"}, {"minimum", p.Min}, {"maximum", p.Max}}}}
	}
	return append(n, member{"description", p.Description})
}

// outputSchema is the JSON schema of structured content. Nothing is required at
// the top, since an error has none of the fields.
func outputSchema(fields []Field) json.RawMessage {
	properties := node{}
	for _, f := range append(slices.Clone(fields), errorField) {
		properties = append(properties, member{f.Name, f.schema()})
	}
	return encodeSchema(node{{"type", "object"}, {"properties", properties}, {"additionalProperties", false}})
}

func (f Field) schema() node {
	n := node{{"type", f.Type}}
	switch {
	case f.Type == "array" && f.Fields == nil:
		n = append(n, member{"items", node{{"type", "string"}}})
	case f.Type == "array":
		n = append(n, member{"items", append(node{{"type", "object"}}, members(f.Fields)...)})
	case f.Type == "object":
		n = append(n, members(f.Fields)...)
	}
	if f.Enum != nil {
		n = append(n, member{"enum", f.Enum})
	}
	return append(n, member{"description", f.Description})
}

// members are the parts of a schema that describe a closed object.
func members(fields []Field) node {
	properties, required := node{}, []string{}
	for _, f := range fields {
		properties = append(properties, member{f.Name, f.schema()})
		if !f.Optional {
			required = append(required, f.Name)
		}
	}
	return node{{"properties", properties}, {"required", required}, {"additionalProperties", false}}
}

// encodeSchema encodes a schema.
func encodeSchema(n node) json.RawMessage { return appendNode(make([]byte, 0, 4<<10), n) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
