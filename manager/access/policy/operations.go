package policy

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Operations are what a run may not do where it may go: kinds of HTTP requests, and
// tools of MCP servers. They allow nothing. They are immutable and safe for concurrent
// use; nil ones deny nothing.
type Operations struct {
	requests []Operation
	audit    bool // of requests
	servers  []*Server
}

// NewOperations returns the operations that deny these requests, or only Audit them,
// and tools of these servers.
func NewOperations(requests []Operation, audit bool, servers ...*Server) *Operations {
	return &Operations{requests: requests, audit: audit, servers: servers}
}

// Denial says which operation is denied, and by what.
type Denial struct {
	// Rule is the policy and its pattern, such as "keep_policy deny DELETE".
	Rule string
	// Operation is what was to be done: method, host and path, or the name of a tool.
	Operation string
	// Audit says that it is to be recorded and not to be refused.
	Audit bool
}

// Concern says that some requests to a target may be denied, so that it is not to be
// tunnelled.
func (o *Operations) Concern(t Target) bool {
	if o == nil {
		return false
	}
	for i := range o.requests {
		if o.requests[i].concerns(t.Host) {
			return true
		}
	}
	for _, s := range o.servers {
		if s.isAt(t) {
			return true
		}
	}
	return false
}

// Deny returns which operation denies a request. Besides its own, a request has the
// methods that it asks the server to take for it.
func (o *Operations) Deny(r Request, further ...string) (Denial, bool) {
	if o == nil {
		return Denial{}, false
	}
	queries := make([]query, 1, 1+len(further))
	queries[0].Request = r
	for _, method := range further {
		r.Method = strings.TrimSpace(method)
		queries = append(queries, query{Request: r})
	}
	for i := range o.requests {
		op := &o.requests[i]
		if !op.concerns(r.Target.Host) {
			continue
		}
		for k := range queries {
			if q := &queries[k]; op.matches(q) {
				return Denial{Rule: "keep_policy deny " + op.text, Operation: strings.ToLower(q.Method + " " + r.Target.Host.name + r.Path), Audit: o.audit}, true
			}
		}
	}
	return Denial{}, false
}

// Servers returns the MCP servers whose tools a request may be about: those at whose
// URL it is, or below that, as any server may read its path.
func (o *Operations) Servers(r Request) []*Server {
	if o == nil {
		return nil
	}
	var found []*Server
	q := query{Request: r}
	for _, s := range o.servers {
		if s.isAt(r.Target) && s.at.matchesPath(&q) {
			found = append(found, s)
		}
	}
	return found
}

// Server is an MCP server and the tools of it that are denied.
type Server struct {
	name   string
	target Target
	at     Operation // its URL, and what is below
	deny   []Tool
	except []Tool
	audit  bool
}

// NewServer returns a server that is known as name, at the URL of its endpoint. Tools
// that match deny and not except are denied, or only audited.
func NewServer(name, endpoint string, deny, except []Tool, audit bool) (*Server, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("the URL %s of the MCP server %s is none of http or https", quoted(endpoint), quoted(name))
	}
	port := uint16(443)
	if u.Scheme == "http" {
		port = 80
	}
	s := &Server{name: name, deny: deny, except: except, audit: audit}
	if s.target, err = ParseTarget(u.Host, port); err != nil {
		return nil, fmt.Errorf("the URL of the MCP server %s: %w", quoted(name), err)
	}
	for raw := range strings.SplitSeq(strings.Trim(u.EscapedPath(), "/"), "/") {
		if text, err := url.PathUnescape(raw); err == nil && raw != "" {
			s.at.path = append(s.at.path, segment{text: text, folded: foldCase(text)})
		}
	}
	s.at.path = append(s.at.path, segment{kind: manyOf})
	if q := (query{Request: Request{Path: u.EscapedPath()}}); q.path().ambiguous || q.path().opaque || !s.at.matchesPath(&q) {
		return nil, fmt.Errorf("the path in the URL of the MCP server %s can be read in several ways; write it without dots, doubled slashes and what is encoded twice", quoted(name))
	}
	return s, nil
}

// isAt says that a target is the server's. The ports of the web are one.
func (s *Server) isAt(t Target) bool {
	return t.Host == s.target.Host && (t.Port == s.target.Port || isWebPort(t.Port) && isWebPort(s.target.Port))
}

// Audit says that what the server's policy denies is recorded and not refused.
func (s *Server) Audit() bool { return s.audit }

// Name returns what the server is known as.
func (s *Server) Name() string { return s.name }

// ServerRule is what the rules of all servers begin with.
const ServerRule = "mcp "

// Rule returns the name of the server's policy, for what it denies as a whole.
func (s *Server) Rule() string { return ServerRule + s.name }

// Deny returns which pattern denies a tool.
func (s *Server) Deny(tool string) (Denial, bool) {
	name := foldTool(tool)
	for _, t := range s.except {
		if glob(t.pattern, name) {
			return Denial{}, false
		}
	}
	for _, t := range s.deny {
		if glob(t.pattern, name) {
			return Denial{Rule: s.Rule() + " deny " + t.text, Operation: tool, Audit: s.audit}, true
		}
	}
	return Denial{}, false
}

// Tool is a pattern of names of tools, with the wildcards of path.Match, of which "*"
// matches slashes too. Case makes no difference. Tools are made by ParseTool.
type Tool struct {
	text, pattern string
}

// ParseTool reads a pattern of names of tools.
func ParseTool(text string) (Tool, error) {
	text = strings.TrimSpace(text)
	t := Tool{text: text, pattern: foldTool(text)}
	err := checkGlob(t.pattern)
	switch {
	case text == "":
		err = errors.New("it is empty")
	case len(text) > maxOperation:
		err = fmt.Errorf("it is longer than %d bytes", maxOperation)
	}
	if err == nil && strings.ContainsFunc(text, isControl) {
		err = errors.New("it has a control character")
	}
	if err != nil {
		return Tool{}, fmt.Errorf("tool %s: %w; write a name, or a pattern such as delete_*", quoted(text), err)
	}
	return t, nil
}

// String returns the pattern as it was written.
func (t Tool) String() string { return t.text }

// foldTool returns the same text for all names that some server takes for one. A slash
// becomes what path.Match has no rule for.
func foldTool(name string) string {
	name = strings.TrimFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == 0xa0 })
	return foldCase(strings.ReplaceAll(name, "/", string(encodedSlash)))
}
