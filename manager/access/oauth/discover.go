package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

const (
	// discoverTimeout bounds the whole search, of eight requests at most.
	discoverTimeout = time.Minute
	// maxServers is how many of the authorization servers that a resource names are
	// tried.
	maxServers = 3
	// maxScopes is how many scopes are taken from metadata.
	maxScopes = 64
)

// Server is what is known of an authorization server, and of the resource that
// tokens are for.
type Server struct {
	Issuer       string
	AuthorizeURL string
	TokenURL     string
	RegisterURL  string // empty where clients cannot register themselves

	// Resource is what tokens are asked for (RFC 8707); empty where the service
	// does not say what it is.
	Resource string
	Scopes   []string // that the resource needs; none where it does not say

	// AuthMethods are how clients prove who they are to TokenURL.
	AuthMethods []string
	// NamesPKCE says that the metadata has S256 among its methods of PKCE.
	NamesPKCE bool
}

// resourceMetadata is the document of RFC 9728.
type resourceMetadata struct {
	Resource string   `json:"resource"`
	Servers  []string `json:"authorization_servers"`
	Scopes   []string `json:"scopes_supported"`
}

// serverMetadata is the document of RFC 8414, and what OpenID Connect has of it.
type serverMetadata struct {
	Issuer       string   `json:"issuer"`
	AuthorizeURL string   `json:"authorization_endpoint"`
	TokenURL     string   `json:"token_endpoint"`
	RegisterURL  string   `json:"registration_endpoint"`
	Scopes       []string `json:"scopes_supported"`
	AuthMethods  []string `json:"token_endpoint_auth_methods_supported"`
	PKCE         []string `json:"code_challenge_methods_supported"`
}

// Discover finds the authorization server of a resource, as MCP has it: through the
// metadata that the resource's challenge names, or that is at a well-known place on
// its host; where there is none, the host is taken for the server. The error
// matches ErrNoServer.
func (c *Client) Discover(ctx context.Context, resource string) (Server, error) {
	ctx, cancel := context.WithTimeout(ctx, discoverTimeout)
	defer cancel()
	u, err := checkURL("resource", resource)
	if err != nil {
		return Server{}, err
	}
	described, scopes, err := c.describe(ctx, u)
	if err != nil {
		return Server{}, fmt.Errorf("find the authorization server of %s: %w: %w", u.Host, ErrNoServer, err)
	}
	issuers := described.Servers
	if len(issuers) == 0 {
		issuers = []string{u.Scheme + "://" + u.Host}
	}
	var errs []error
	for _, issuer := range issuers[:min(len(issuers), maxServers)] {
		s, err := c.metadata(ctx, issuer)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.Resource = described.Resource
		offline := slices.Contains(s.Scopes, "offline_access")
		if s.Scopes = scopes; offline && !slices.Contains(scopes, "offline_access") {
			// Without it some servers give no token that renews.
			s.Scopes = append(slices.Clone(scopes), "offline_access")
		}
		return s, nil
	}
	return Server{}, fmt.Errorf("find the authorization server of %s: %w: %w", u.Host, ErrNoServer, errors.Join(errs...))
}

// describe returns the metadata of a resource, empty where it has none, and the
// scopes that it needs.
func (c *Client) describe(ctx context.Context, u *url.URL) (resourceMetadata, []string, error) {
	place, scopes, err := c.challenge(ctx, u)
	if err != nil {
		return resourceMetadata{}, nil, err
	}
	places := []string{place}
	if place == "" {
		places = wellKnown(u, "oauth-protected-resource")
	}
	for _, place := range places {
		var doc resourceMetadata
		found, err := c.document(ctx, place, &doc)
		if err != nil {
			return resourceMetadata{}, nil, err
		}
		if !found {
			continue
		}
		if err := doc.check(u); err != nil {
			return resourceMetadata{}, nil, fmt.Errorf("%s: %w", place, err)
		}
		if len(scopes) == 0 {
			scopes = cleanScopes(doc.Scopes)
		}
		return doc, scopes, nil
	}
	if place != "" {
		return resourceMetadata{}, nil, fmt.Errorf("there is nothing at %.200q, which its challenge names", place)
	}
	return resourceMetadata{}, scopes, nil
}

// check makes sure that metadata is that of a resource: at its URL, or at one that
// it lies below.
func (m resourceMetadata) check(u *url.URL) error {
	r, err := checkURL("resource", m.Resource)
	if err != nil {
		return err
	}
	base := strings.TrimSuffix(r.Path, "/")
	if !strings.EqualFold(r.Host, u.Host) || base != strings.TrimSuffix(u.Path, "/") && !strings.HasPrefix(u.Path, base+"/") {
		return fmt.Errorf("it is about another resource, %.200q", m.Resource)
	}
	return nil
}

// challenge asks a resource without a credential, and returns the place of its
// metadata and the scopes that it says are needed, where it says so.
func (c *Client) challenge(ctx context.Context, u *url.URL) (place string, scopes []string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", nil, err
	}
	a, err := c.send(req)
	if err != nil {
		return "", nil, err
	}
	if a.status != http.StatusUnauthorized {
		return "", nil, nil
	}
	for _, header := range a.header.Values("WWW-Authenticate") {
		params := parseChallenge(header)
		if place == "" && params["resource_metadata"] != "" {
			if _, err := checkURL("resource_metadata", params["resource_metadata"]); err != nil {
				return "", nil, err
			}
			place = params["resource_metadata"]
		}
		if len(scopes) == 0 {
			scopes = cleanScopes(strings.Fields(params["scope"]))
		}
	}
	return place, scopes, nil
}

// parseChallenge returns the parameters of a WWW-Authenticate header, those of the
// first challenge that has one of a name.
func parseChallenge(header string) map[string]string {
	params := map[string]string{}
	for rest := header; rest != ""; {
		i := strings.IndexByte(rest, '=')
		if i < 0 {
			break
		}
		name := rest[:i]
		if at := strings.LastIndexAny(name, " ,\t"); at >= 0 {
			name = name[at+1:]
		}
		var value string
		value, rest = parseValue(rest[i+1:])
		if name = strings.ToLower(name); name != "" && params[name] == "" {
			params[name] = value
		}
	}
	return params
}

// parseValue returns a token or the content of a quoted string, and what follows.
func parseValue(text string) (value, rest string) {
	text = strings.TrimLeft(text, " \t")
	if !strings.HasPrefix(text, `"`) {
		if end := strings.IndexAny(text, ", \t"); end >= 0 {
			return text[:end], text[end+1:]
		}
		return text, ""
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		case text[i] == '"':
			return b.String(), text[i+1:]
		default:
			b.WriteByte(text[i])
		}
	}
	return b.String(), ""
}

// metadata returns what an authorization server says of itself.
func (c *Client) metadata(ctx context.Context, issuer string) (Server, error) {
	u, err := checkURL("authorization server", issuer)
	if err != nil {
		return Server{}, err
	}
	places := wellKnown(u, "oauth-authorization-server")[:1]
	places = append(places, wellKnown(u, "openid-configuration")[0])
	if base := strings.TrimSuffix(u.Path, "/"); base != "" {
		places = append(places, u.Scheme+"://"+u.Host+base+"/.well-known/openid-configuration")
	}
	for _, place := range places {
		var doc serverMetadata
		found, err := c.document(ctx, place, &doc)
		if err != nil {
			return Server{}, err
		}
		if !found {
			continue
		}
		s, err := doc.server(issuer)
		if err != nil {
			return Server{}, fmt.Errorf("%s: %w", place, err)
		}
		return s, nil
	}
	return Server{}, fmt.Errorf("%s has no metadata", u.Host)
}

// server returns the server that metadata describes, which must be that of an
// issuer.
func (m serverMetadata) server(issuer string) (Server, error) {
	if strings.TrimSuffix(m.Issuer, "/") != strings.TrimSuffix(issuer, "/") {
		return Server{}, fmt.Errorf("it is that of another issuer, %.200q", m.Issuer)
	}
	s := Server{
		Issuer: m.Issuer, AuthorizeURL: m.AuthorizeURL, TokenURL: m.TokenURL, RegisterURL: m.RegisterURL,
		Scopes: cleanScopes(m.Scopes), AuthMethods: m.AuthMethods, NamesPKCE: slices.Contains(m.PKCE, "S256"),
	}
	if len(m.PKCE) > 0 && !s.NamesPKCE {
		return Server{}, errors.New("it has no PKCE with S256")
	}
	return s, s.check()
}

// check makes sure that a server can be used.
func (s Server) check() error {
	if _, err := checkURL("authorization endpoint", s.AuthorizeURL); err != nil {
		return err
	}
	if _, err := checkURL("token endpoint", s.TokenURL); err != nil {
		return err
	}
	if s.RegisterURL != "" {
		if _, err := checkURL("registration endpoint", s.RegisterURL); err != nil {
			return err
		}
	}
	return nil
}

// wellKnown returns where a document about a URL may be: with the path of the URL
// at the end, and without.
func wellKnown(u *url.URL, name string) []string {
	base := u.Scheme + "://" + u.Host + "/.well-known/" + name
	if clean := path.Clean("/" + u.EscapedPath()); clean != "/" {
		return []string{base + clean, base}
	}
	return []string{base}
}

// document reads a JSON document, and reports false where there is none.
func (c *Client) document(ctx context.Context, place string, doc any) (found bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, place, nil)
	if err != nil {
		return false, err
	}
	a, err := c.send(req)
	switch {
	case err != nil:
		return false, err
	case a.status >= 500:
		return false, fmt.Errorf("%w: %s answers with status %d", ErrTemporary, place, a.status)
	case a.status != http.StatusOK:
		return false, nil
	}
	if json.Unmarshal(a.body, doc) != nil {
		// Hosts answer with a page for whatever they do not have.
		return false, nil
	}
	return true, nil
}

// cleanScopes returns what may be a scope, by RFC 6749.
func cleanScopes(scopes []string) []string {
	var clean []string
	for _, s := range scopes {
		isWrong := func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }
		if s != "" && len(s) <= maxSaid && !strings.ContainsFunc(s, isWrong) && !slices.Contains(clean, s) && len(clean) < maxScopes {
			clean = append(clean, s)
		}
	}
	return clean
}
