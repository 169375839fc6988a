package oauth

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// How a client proves who it is to a token endpoint.
const (
	AuthNone  = "none"                // it names itself, and PKCE does the rest
	AuthBasic = "client_secret_basic" // in a header
	AuthPost  = "client_secret_post"  // in the form
)

// Registration is a client as an authorization server knows it.
type Registration struct {
	ClientID     string
	ClientSecret credential.Secret // zero for a client that has none
	AuthMethod   string
}

// Method returns how a client proves who it is, where the server says what it
// takes.
func (s Server) Method(hasSecret bool) string {
	switch {
	case !hasSecret:
		return AuthNone
	case slices.Contains(s.AuthMethods, AuthPost) && !slices.Contains(s.AuthMethods, AuthBasic):
		return AuthPost
	}
	return AuthBasic // what a server without metadata has to take
}

// Register makes a client known to a server (RFC 7591). The error matches ErrFinal
// where the server does not want it.
func (c *Client) Register(ctx context.Context, s Server, redirect string) (Registration, error) {
	if s.RegisterURL == "" {
		return Registration{}, fmt.Errorf("register with %s: %w: it lets no client register itself", s.Issuer, ErrFinal)
	}
	u, err := checkURL("registration endpoint", s.RegisterURL)
	if err != nil {
		return Registration{}, err
	}
	method := AuthNone
	if len(s.AuthMethods) > 0 && !slices.Contains(s.AuthMethods, AuthNone) {
		method = s.Method(true)
	}
	body, err := json.Marshal(map[string]any{
		"client_name": "Drawbridge", "redirect_uris": []string{redirect}, "token_endpoint_auth_method": method, "application_type": "native",
		"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
	})
	if err != nil {
		return Registration{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return Registration{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	a, err := c.send(req)
	if err != nil {
		return Registration{}, fmt.Errorf("register: %w", err)
	}
	if a.status != http.StatusCreated && a.status != http.StatusOK {
		return Registration{}, fmt.Errorf("register: %w", refused(u.Host, a))
	}
	r, err := parseRegistration(a.body, s)
	if err != nil {
		return Registration{}, fmt.Errorf("register with %s: %w: %w", u.Host, ErrTemporary, err)
	}
	return r, nil
}

// parseRegistration returns the client of an answer.
func parseRegistration(body []byte, s Server) (Registration, error) {
	var doc struct {
		ClientID     string `json:"client_id"`
		ClientSecret string `json:"client_secret"`
		AuthMethod   string `json:"token_endpoint_auth_method"`
	}
	if json.Unmarshal(body, &doc) != nil {
		return Registration{}, errMalformed // its text could quote a secret
	}
	if !isWord(doc.ClientID) || doc.ClientSecret != "" && !isWord(doc.ClientSecret) {
		return Registration{}, fmt.Errorf("%w: it has no usable client_id or client_secret", errMalformed)
	}
	r := Registration{ClientID: doc.ClientID, ClientSecret: credential.NewSecret(doc.ClientSecret), AuthMethod: doc.AuthMethod}
	if r.AuthMethod == "" || doc.ClientSecret == "" {
		r.AuthMethod = s.Method(doc.ClientSecret != "")
	}
	if !slices.Contains([]string{AuthNone, AuthBasic, AuthPost}, r.AuthMethod) {
		return Registration{}, fmt.Errorf("it wants clients to prove who they are by %.80q, which is not supported", r.AuthMethod)
	}
	return r, nil
}
