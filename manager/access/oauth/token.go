package oauth

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

const (
	// maxToken is the greatest length in bytes of a token: what servers take as a
	// header.
	maxToken = 8 << 10
	// maxLifetime is the longest that a token is taken to last.
	maxLifetime = 10 * 365 * 24 * time.Hour
)

var errMalformed = errors.New("the answer is malformed")

// Token is what a token endpoint gives.
type Token struct {
	Access    credential.Secret
	Refresh   credential.Secret // zero where there is none, or none in place of that which was used
	ExpiresAt time.Time         // zero where it is not known
	Scopes    []string          // none where they are those that were asked for
}

// Endpoint is how tokens are had from a server.
type Endpoint struct {
	URL    string
	Client Registration
	// IsJSON sends requests as a JSON object in place of a form.
	IsJSON   bool
	Resource string // that the token is for; empty is not sent
	// Names of what an answer has; the ones of RFC 6749 where they are empty.
	AccessName, RefreshName, ExpiresName string
}

// Refresh gets a new token for a refresh token, and for scopes where there are any.
// The error matches ErrFinal or ErrTemporary. Whether the old refresh token is still
// good after the latter is not known.
func (c *Client) Refresh(ctx context.Context, e Endpoint, token credential.Secret, scopes []string) (Token, error) {
	params := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token.Reveal()}}
	if len(scopes) > 0 {
		params.Set("scope", strings.Join(scopes, " "))
	}
	return c.token(ctx, e, params, token)
}

// token asks for a token. What is secret in params is also in secrets.
func (c *Client) token(ctx context.Context, e Endpoint, params url.Values, secrets ...credential.Secret) (Token, error) {
	u, err := checkURL("token endpoint", e.URL)
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrFinal, err)
	}
	if e.Resource != "" {
		params.Set("resource", e.Resource)
	}
	if e.Client.AuthMethod != AuthBasic {
		params.Set("client_id", e.Client.ClientID)
	}
	if e.Client.AuthMethod == AuthPost {
		params.Set("client_secret", e.Client.ClientSecret.Reveal())
	}
	body, contentType, err := e.encode(params)
	if err != nil {
		return Token{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), body)
	if err != nil {
		return Token{}, err
	}
	req.Header.Set("Content-Type", contentType)
	if e.Client.AuthMethod == AuthBasic {
		req.SetBasicAuth(url.QueryEscape(e.Client.ClientID), url.QueryEscape(e.Client.ClientSecret.Reveal()))
	}
	asked := time.Now()
	a, err := c.send(req)
	if err != nil {
		return Token{}, err
	}
	secrets = append(secrets, e.Client.ClientSecret)
	if a.status < 200 || a.status > 299 {
		return Token{}, refused(u.Host, a, secrets...)
	}
	t, err := e.parse(a.body, asked)
	if err != nil {
		// GitHub answers with an error and status 200.
		if code, _ := parseRefusal(a.body); code != "" {
			return Token{}, refused(u.Host, answer{status: http.StatusBadRequest, body: a.body}, secrets...)
		}
		return Token{}, fmt.Errorf("%w: %s: %w", ErrTemporary, u.Host, err)
	}
	return t, nil
}

func (e Endpoint) encode(params url.Values) (io.Reader, string, error) {
	if !e.IsJSON {
		return strings.NewReader(params.Encode()), "application/x-www-form-urlencoded", nil
	}
	object := make(map[string]string, len(params))
	for name := range params {
		object[name] = params.Get(name)
	}
	data, err := json.Marshal(object)
	return bytes.NewReader(data), "application/json", err
}

// parse returns the token of an answer to a request that was sent at a time. Its
// errors do not quote the answer.
func (e Endpoint) parse(body []byte, asked time.Time) (Token, error) {
	var doc map[string]json.RawMessage
	if json.Unmarshal(body, &doc) != nil {
		return Token{}, errMalformed
	}
	access, refresh := text(doc[or(e.AccessName, "access_token")]), text(doc[or(e.RefreshName, "refresh_token")])
	switch {
	case access == "":
		return Token{}, fmt.Errorf("%w: it has no %s", errMalformed, or(e.AccessName, "access_token"))
	case !isWord(access) || refresh != "" && !isWord(refresh):
		return Token{}, fmt.Errorf("%w: a token in it is too long, or has characters that none has", errMalformed)
	}
	// DPoP and MAC tokens are of no use without a key.
	if kind := text(doc["token_type"]); kind != "" && !strings.EqualFold(kind, "bearer") {
		return Token{}, fmt.Errorf("%w: its token is none to be sent alone (token_type)", errMalformed)
	}
	t := Token{Access: credential.NewSecret(access), Refresh: credential.NewSecret(refresh), Scopes: cleanScopes(strings.Fields(text(doc["scope"])))}
	if left, ok := seconds(doc[or(e.ExpiresName, "expires_in")]); ok {
		t.ExpiresAt = asked.Add(left).UTC().Truncate(time.Second)
	} else {
		t.ExpiresAt = Expiry(access)
	}
	return t, nil
}

func or(name, otherwise string) string {
	if name == "" {
		return otherwise
	}
	return name
}

// text returns a JSON string, and nothing for whatever else.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// seconds returns a duration in seconds: a number, or one in a string.
func seconds(raw json.RawMessage) (time.Duration, bool) {
	n, err := strconv.ParseFloat(strings.Trim(string(raw), `" `), 64)
	if err != nil || math.IsNaN(n) || n <= 0 {
		return 0, false
	}
	return time.Duration(min(n, maxLifetime.Seconds()) * float64(time.Second)), true
}

// Expiry returns when a token says that it expires, if it is a JWT, and the zero
// time otherwise. Nobody has checked its signature: it is no more than a hint.
func Expiry(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Expires float64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(data, &claims) != nil || claims.Expires <= 0 || claims.Expires > float64(time.Now().Add(maxLifetime).Unix()) {
		return time.Time{}
	}
	return time.Unix(int64(claims.Expires), 0).UTC()
}

// isWord reports whether a text may be a token or the name of a client.
func isWord(s string) bool {
	return s != "" && len(s) <= maxToken && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}
