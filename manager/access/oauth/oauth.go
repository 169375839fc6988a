// Package oauth is a client of OAuth 2.1: it finds the authorization server of a
// resource, registers with it, gets a token that a person agrees to in a browser,
// and renews it.
//
// # What it guarantees
//
// It speaks HTTPS only, follows no redirect, bounds the time and the size of every
// answer, and takes nothing from an answer that it has not checked. A login uses
// PKCE with S256 and a state; the answer arrives on a loopback address of this
// machine or is pasted. No error and no text holds a token, a code or a secret,
// also where a server puts one into what it says.
//
// # What it does not do
//
// It stores nothing, and does not know what a token is for.
package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

const (
	// callTimeout bounds one request: authorization servers answer in less than a
	// second, and a person or a run waits.
	callTimeout = 20 * time.Second
	// maxAnswer is the greatest size in bytes of an answer; metadata has some
	// thousand.
	maxAnswer = 256 << 10
	// maxSaid is how much of what a server says for people is repeated, in bytes.
	maxSaid = 200
)

// Errors of what servers answer.
var (
	// ErrFinal says that the same request will be refused again: a person has to do
	// something.
	ErrFinal = errors.New("the authorization server refuses it")
	// ErrTemporary says that the same request may be answered later.
	ErrTemporary = errors.New("the authorization server gave no answer that can be used")
	// ErrNoServer says that a resource names no authorization server that can be
	// used.
	ErrNoServer = errors.New("no authorization server was found")
)

// Client speaks with authorization servers. It is safe for concurrent use.
type Client struct{ http *http.Client }

// NewClient returns a client that sends its requests through transport.
func NewClient(transport http.RoundTripper) *Client {
	return &Client{&http.Client{
		Transport: transport,
		// A redirect could lead a code or a token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// checkURL returns a URL that something secret may be sent to.
func checkURL(name, raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return nil, fmt.Errorf("%s %.200q: want https://HOST/PATH without user and fragment", name, raw)
	}
	return u, nil
}

// answer is what a server said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// send performs one request. Its errors match ErrTemporary.
func (c *Client) send(req *http.Request) (answer, error) {
	ctx, cancel := context.WithTimeout(req.Context(), callTimeout)
	defer cancel()
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "drawbridge")
	resp, err := c.http.Do(req.WithContext(ctx))
	if err != nil {
		// The text of a url.Error has the URL, which may have a query.
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err
		}
		return answer{}, fmt.Errorf("%w: %s: %w", ErrTemporary, req.URL.Host, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return answer{}, fmt.Errorf("%w: %s: %w", ErrTemporary, req.URL.Host, err)
	case len(body) > maxAnswer:
		return answer{}, fmt.Errorf("%w: %s answers with more than %d bytes", ErrTemporary, req.URL.Host, maxAnswer)
	}
	return answer{resp.StatusCode, resp.Header, body}, nil
}

// refusals are the codes of errors that come again with the same request: those of
// RFC 6749 and RFC 7591, and OpenAI's about renewals.
var refusals = []string{
	"invalid_grant", "invalid_client", "invalid_request", "unauthorized_client", "unsupported_grant_type", "invalid_scope", "invalid_target", "access_denied",
	"invalid_redirect_uri", "invalid_client_metadata", "refresh_token_expired", "refresh_token_reused", "refresh_token_invalidated",
}

// refused returns the error that an answer is. What was sent in secret is not
// repeated, even if the server does.
func refused(from string, a answer, sent ...credential.Secret) error {
	code, said := parseRefusal(a.body)
	kind := ErrTemporary
	if a.status == http.StatusUnauthorized || a.status == http.StatusForbidden || a.status == http.StatusBadRequest && slices.Contains(refusals, code) {
		kind = ErrFinal
	}
	parts := []string{fmt.Sprintf("status %d", a.status)}
	for _, part := range []string{code, said} {
		if part = cover(part, sent); part != "" {
			parts = append(parts, part)
		}
	}
	return fmt.Errorf("%w: %s answers with %s", kind, from, strings.Join(parts, ", "))
}

// parseRefusal returns the code of an error and what is said about it, empty where
// they are not there. OpenAI has both in an object.
func parseRefusal(body []byte) (code, said string) {
	var doc struct {
		Error       json.RawMessage `json:"error"`
		Description string          `json:"error_description"`
	}
	if json.Unmarshal(body, &doc) != nil {
		return "", ""
	}
	if json.Unmarshal(doc.Error, &code) == nil {
		return code, doc.Description
	}
	var inner struct {
		Code    string `json:"code"`
		Type    string `json:"type"`
		Message string `json:"message"`
	}
	if json.Unmarshal(doc.Error, &inner) != nil {
		return "", ""
	}
	if inner.Code == "" {
		inner.Code = inner.Type
	}
	return inner.Code, inner.Message
}

// cover returns what a server says for people on one short line, without what was
// sent in secret. Where a part of a secret may be in it, nothing is left.
func cover(said string, sent []credential.Secret) string {
	const part = 12 // bytes of a secret in a row that are no accident
	for _, s := range sent {
		value := s.Reveal()
		if value != "" && strings.Contains(said, value) {
			return ""
		}
		for i := 0; i+part <= len(value); i++ {
			if strings.Contains(said, value[i:i+part]) {
				return ""
			}
		}
	}
	said = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, said)
	said = strings.Join(strings.Fields(said), " ")
	if len(said) > maxSaid {
		said = said[:maxSaid] + "..."
	}
	return said
}
