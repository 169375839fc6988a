package provider

import (
	"errors"
	"fmt"
	"net/url"
	"slices"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// AuthMethods are how a client may prove who it is to a token endpoint, as RFC 7591
// names them; nothing is "none", or "client_secret_basic" where there is a secret.
var AuthMethods = []string{"", "none", "client_secret_basic", "client_secret_post"}

// Refresh says how a service renews a credential: by OAuth, for a refresh token. The
// texts are templates over the fields that are not secret.
type Refresh struct {
	URL          string // of the token endpoint
	ClientID     string
	ClientSecret string // the secret field that has it; empty where there is none
	AuthMethod   string // one of AuthMethods
	Resource     string // that a token is for (RFC 8707); empty is not sent
	// IsJSON sends requests as a JSON object in place of a form.
	IsJSON bool
	// SendsScopes asks for the scopes that the credential has.
	SendsScopes bool
	Field       string // that is renewed; TokenField where it is empty
	// Names of what the answer has; where they are empty, those of RFC 6749:
	// access_token, refresh_token and expires_in.
	AccessName, RefreshName, ExpiresName string
}

// Renewal is how one credential is renewed.
type Renewal struct {
	URL          string
	ClientID     string
	ClientSecret credential.Secret
	AuthMethod   string
	Resource     string
	IsJSON       bool
	SendsScopes  bool
	Field        string // whose value the new token is

	AccessName, RefreshName, ExpiresName string
}

// resolve fills in the templates; it returns nil where there is no token endpoint.
func (r *Refresh) resolve(fields, shown map[string]string) (*Renewal, error) {
	if r == nil {
		return nil, nil //nolint:nilnil // there is none
	}
	n := Renewal{
		IsJSON: r.IsJSON, SendsScopes: r.SendsScopes, Field: r.field(), ClientSecret: credential.NewSecret(fields[r.ClientSecret]),
		AccessName: r.AccessName, RefreshName: r.RefreshName, ExpiresName: r.ExpiresName,
	}
	for _, t := range []struct {
		name, text string
		to         *string
	}{{"url", r.URL, &n.URL}, {"client_id", r.ClientID, &n.ClientID}, {"auth_method", r.AuthMethod, &n.AuthMethod}, {"resource", r.Resource, &n.Resource}} {
		value, err := render("refresh."+t.name, t.text, shown)
		if err != nil {
			return nil, err
		}
		*t.to = value
	}
	if n.URL == "" {
		return nil, nil //nolint:nilnil // likewise
	}
	u, err := url.Parse(n.URL)
	switch {
	case err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "":
		return nil, fmt.Errorf("%w: refresh.url: want https://HOST/PATH without user and fragment", ErrField)
	case n.ClientID == "":
		return nil, fmt.Errorf("%w: refresh.client_id: it is missing", ErrField)
	case !slices.Contains(AuthMethods, n.AuthMethod):
		return nil, fmt.Errorf("%w: refresh.auth_method: want one of none, client_secret_basic, client_secret_post", ErrField)
	}
	return &n, nil
}

func (r *Refresh) field() string {
	if r.Field == "" {
		return TokenField
	}
	return r.Field
}

// checkRefresh reports what is wrong with how credentials are renewed; the templates
// are checked with samples.
func (p Provider) checkRefresh() error {
	if _, ok := p.field(p.Discover); p.Discover != "" && !ok {
		return fmt.Errorf("discover: there is no field %.80q", p.Discover)
	}
	if p.Refresh == nil {
		return nil
	}
	if f, ok := p.field(p.Refresh.field()); !ok || !f.Secret {
		return fmt.Errorf("refresh.field: there is no secret field %.80q", p.Refresh.field())
	}
	if f, ok := p.field(p.Refresh.ClientSecret); p.Refresh.ClientSecret != "" && (!ok || !f.Secret) {
		return fmt.Errorf("refresh.client_secret: there is no secret field %.80q; name the field, not the secret", p.Refresh.ClientSecret)
	}
	if p.Refresh.URL == "" {
		return errors.New("refresh.url: it is missing")
	}
	return nil
}
