package mcpserver

import "encoding/json"

// maxScannedID bounds the id that is kept from an oversized message.
const maxScannedID = 256

// idScanner finds the value of the top-level "id" of a JSON object while its bytes
// stream by, keeping none of them. It is used for messages that are too large to
// keep, so that the refusal can be matched with the request. The zero value is
// ready. On input that is not JSON it finds nothing or a wrong id; both are harmless.
type idScanner struct {
	depth    int
	inString bool
	escaped  bool
	isValue  bool   // at depth 1, after a colon
	token    []byte // the string or number being read at depth 1, if short enough
	key      string // last key at depth 1
	id       json.RawMessage
}

// Write scans the next bytes; it never fails.
func (s *idScanner) Write(data []byte) (int, error) {
	for _, b := range data {
		s.next(b)
	}
	return len(data), nil
}

func (s *idScanner) next(b byte) {
	if s.inString {
		s.keep(b)
		switch {
		case s.escaped:
			s.escaped = false
		case b == '\\':
			s.escaped = true
		case b == '"':
			s.inString = false
			s.endToken()
		}
		return
	}
	switch b {
	case '"':
		s.inString = true
		s.token = s.token[:0]
		s.keep(b)
	case '{', '[':
		s.depth++
		s.isValue = false
	case '}', ']':
		s.endToken()
		s.depth--
	case ':':
		if s.depth == 1 {
			s.isValue = true
			s.token = s.token[:0]
		}
	case ',':
		s.endToken()
		if s.depth == 1 {
			s.isValue = false
			s.key = ""
		}
	case ' ', '\t', '\r', '\n':
		s.endToken()
	default:
		s.keep(b)
	}
}

// keep adds a byte to the current token if somebody could want it.
func (s *idScanner) keep(b byte) {
	if s.depth == 1 && len(s.token) <= maxScannedID {
		s.token = append(s.token, b)
	}
}

// endToken takes a finished key or value at depth 1.
func (s *idScanner) endToken() {
	if s.depth != 1 || len(s.token) == 0 {
		return
	}
	token := s.token
	s.token = s.token[:0]
	switch {
	case len(token) > maxScannedID:
	case !s.isValue:
		s.key = string(token)
	case s.key == `"id"` && json.Valid(token) && isID(token):
		s.id = json.RawMessage(string(token))
	}
}
