package proxy

import (
	"strconv"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// Kinds of entries.
const (
	KindHTTP    = "http"    // a request that the gate read
	KindTunnel  = "tunnel"  // bytes that it passed on without a look
	KindConnect = "connect" // a CONNECT that came to nothing
	// KindSignature is a request to the SSH agent of the run, for a login at Host.
	// It has no status, and nothing was sent.
	KindSignature = "signature"
	// KindCredentials is a request to the gate itself, for credentials that the
	// sandbox gets to see.
	KindCredentials = "credentials"
	KindNone        = "none" // what was refused before it was a request, mostly without a host
)

// Decisions, as an Entry has them.
const (
	Allowed = "allowed"
	Refused = "refused"
	// Learned says that the policy refuses and the request went through all the
	// same, because its run is to be learned from.
	Learned = "learned"
)

// Entry is what is written down about one request. It holds no header, no query
// and no content.
type Entry struct {
	Time      time.Time     `json:"time"` // when its head had been read
	Kind      string        `json:"kind"`
	Protocol  string        `json:"protocol,omitempty"` // "HTTP/1.1", "HTTP/2.0"
	Method    string        `json:"method,omitempty"`
	Scheme    string        `json:"scheme,omitempty"`
	Host      string        `json:"host"`
	Port      int           `json:"port,omitempty"`
	Path      string        `json:"path,omitempty"`
	Status    int           `json:"status,omitempty"` // of the answer that the sandbox got
	FirstByte time.Duration `json:"first_byte_ns,omitempty"`
	Duration  time.Duration `json:"duration_ns"`
	Sent      int64         `json:"sent"`     // bytes of content from the sandbox
	Received  int64         `json:"received"` // bytes of content to it
	Decision  string        `json:"decision"`
	Rule      string        `json:"rule,omitempty"`
	Operation string        `json:"operation,omitempty"` // that the rule denies, where it is one about operations
	Grant     string        `json:"grant,omitempty"`     // whose credential was sent, signed with or handed out; several with commas
	User      string        `json:"user,omitempty"`      // at Host, of a signature
	Key       string        `json:"key,omitempty"`       // fingerprint of what signed
	Error     string        `json:"error,omitempty"`
}

// Reason returns the rule that decided, with what of the request it is about where
// method, host and path do not say that. The run has chosen that part.
func (e *Entry) Reason() string {
	const most = 100
	if e.Kind != KindHTTP || !strings.HasPrefix(e.Rule, policy.ServerRule) || e.Operation == "" {
		return e.Rule
	}
	return e.Rule + " (" + strconv.Quote(strings.ToValidUTF8(e.Operation[:min(len(e.Operation), most)], "")) + ")"
}

// refusal is the content of the answer to what the gate does not let through.
type refusal struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Host    string `json:"host,omitempty"`
	Rule    string `json:"rule,omitempty"`
	Next    string `json:"next,omitempty"`

	content []byte // is sent in place of the others, to clients of an MCP server
}

// Codes of refusals.
const (
	codePolicy      = "policy_denied"
	codeBadRequest  = "bad_request"
	codeMisdirected = "misdirected_request"
	codeAddress     = "address_denied"
	codeUnreachable = "unreachable"
	codeBusy        = "too_many_connections"
	codeEncoding    = "unreadable_answer"
	codeIdentity    = "unknown_run"
	codeUnusable    = "grant_unusable"
	codeUnrecorded  = "record_unavailable"
	codeNotFound    = "not_found"
	codeToken       = "wrong_token"
)
