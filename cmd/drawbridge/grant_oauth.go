package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/oauth"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
)

const (
	// browserTimeout bounds how long the person's answer in the browser is waited for:
	// a login with a second factor and a search for it takes minutes.
	browserTimeout = 10 * time.Minute
	// clientSecretField is the secret of a client, where it has one.
	clientSecretField = "client_secret"
)

// serviceTransport returns how this program reaches services: through the proxy of
// this machine, where there is one, and with the authorities that the gate trusts.
func serviceTransport() (*http.Transport, error) {
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	file := os.Getenv(extraCAVariable)
	if file == "" {
		return t, nil
	}
	extra, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the authorities that %s names: %w", extraCAVariable, err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read this host's certificate authorities: %w", err)
	}
	roots.AppendCertsFromPEM(extra)
	t.TLSClientConfig.RootCAs = roots
	return t, nil
}

// fromBrowser gets a token by OAuth: the person agrees in a browser, here or
// elsewhere.
func (a *app) fromBrowser(ctx context.Context, p provider.Provider, id credential.Grant, fields map[string]string) (found, error) {
	transport, err := serviceTransport()
	if err != nil {
		return found{}, err
	}
	client := oauth.NewClient(transport)
	server, err := findServer(ctx, client, p, id, fields)
	if err != nil {
		return found{}, err
	}
	login, err := client.NewLogin(ctx, server)
	if err != nil {
		return found{}, fmt.Errorf("log in for %s: %w", id, err)
	}
	defer login.Close()
	registration, err := a.oauthClient(ctx, client, server, login, fields)
	if err != nil {
		return found{}, err
	}
	token, err := a.waitForBrowser(ctx, login, registration)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return found{}, mended("run it again, and open the address sooner", fmt.Errorf("log in for %s: nothing came back from the browser within %s", id, browserTimeout))
	case err != nil:
		return found{}, mended("run it again", fmt.Errorf("log in for %s: %w", id, err))
	}
	if token.Refresh.IsZero() && !token.ExpiresAt.IsZero() {
		a.say("drawbridge: warning: the service gives no refresh token: the grant ends when its token expires")
	}
	f := found{source: credential.SourceLogin, Login: provider.Login{
		From: "a login at " + hostOf(server.AuthorizeURL), Values: map[string]credential.Secret{mainField(p): token.Access},
		RefreshToken: token.Refresh, Scopes: token.Scopes, ExpiresAt: token.ExpiresAt,
		Metadata: map[string]string{"token_url": server.TokenURL, "client_id": registration.ClientID, "auth_method": registration.AuthMethod},
	}}
	if !registration.ClientSecret.IsZero() {
		f.Values[clientSecretField] = registration.ClientSecret
	}
	for name, value := range map[string]string{"issuer": server.Issuer, "resource": server.Resource} {
		if value != "" {
			f.Metadata[name] = value
		}
	}
	if len(f.Scopes) == 0 {
		f.Scopes = server.Scopes
	}
	return f, nil
}

// findServer returns the authorization server that the fields name, or else the one
// that the resource does.
func findServer(ctx context.Context, client *oauth.Client, p provider.Provider, id credential.Grant, fields map[string]string) (oauth.Server, error) {
	const byHand = "see whether the URL is right, or add --set authorize_url=URL --set token_url=URL --set client_id=ID"
	// The URL is checked before anything is sent there.
	for _, f := range p.Fields {
		if f.Name == p.Discover {
			if err := f.Check(fields[f.Name]); err != nil {
				return oauth.Server{}, mended("add --set "+f.Name+"="+f.Example, fmt.Errorf("make the %s grant: %w", id, err))
			}
		}
	}
	server := oauth.Server{Issuer: fields["issuer"], AuthorizeURL: fields["authorize_url"], TokenURL: fields["token_url"]}
	if server.AuthorizeURL == "" || server.TokenURL == "" {
		found, err := client.Discover(ctx, fields[p.Discover])
		if err != nil {
			return oauth.Server{}, mended(byHand, fmt.Errorf("log in for %s: %w", id, err))
		}
		if !found.NamesPKCE {
			return oauth.Server{}, mended("if it has, "+strings.TrimPrefix(byHand, "see whether the URL is right, or "),
				fmt.Errorf("log in for %s: %s does not say that it has PKCE, without which a login can be taken over", id, hostOf(found.AuthorizeURL)))
		}
		server = found
	}
	if resource := fields["resource"]; resource != "" {
		server.Resource = resource
	}
	if scope := strings.Fields(fields["scope"]); len(scope) > 0 {
		server.Scopes = scope
	}
	return server, nil
}

// oauthClient returns the client that the fields name, or else registers one.
func (a *app) oauthClient(ctx context.Context, client *oauth.Client, server oauth.Server, login *oauth.Login, fields map[string]string) (oauth.Registration, error) {
	clientID := fields["client_id"]
	if clientID == "" {
		r, err := client.Register(ctx, server, login.RedirectURL())
		if err != nil {
			return oauth.Registration{}, mended("register a client at the service, with the redirect http://127.0.0.1/callback and any port, and add --set client_id=ID", err)
		}
		return r, nil
	}
	secret := credential.NewSecret(strings.TrimSpace(os.Getenv("DRAWBRIDGE_OAUTH_CLIENT_SECRET")))
	if secret.IsZero() && terminal.Is(a.in) && !slices.Contains(server.AuthMethods, oauth.AuthNone) {
		typed, err := a.askSecret(ctx, "Secret of the client (Enter where it has none): ")
		if err != nil {
			return oauth.Registration{}, err
		}
		secret = credential.NewSecret(typed)
	}
	method := fields["auth_method"]
	if method == "" {
		method = server.Method(!secret.IsZero())
	}
	return oauth.Registration{ClientID: clientID, ClientSecret: secret, AuthMethod: method}, nil
}

// waitForBrowser has the person open the address of a login, and waits until they are
// sent back, or have pasted the address that they were sent to.
func (a *app) waitForBrowser(ctx context.Context, login *oauth.Login, client oauth.Registration) (oauth.Token, error) {
	ctx, cancel := context.WithTimeout(ctx, browserTimeout)
	defer cancel()
	in, closeInput, err := a.input(ctx)
	if err != nil {
		return oauth.Token{}, err
	}
	a.say("Open this address in a browser and agree:\n\n  %s\n\nIf the browser then cannot reach %s, paste the address that it shows here and press Enter.", login.URL(client.ClientID), login.RedirectURL())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.readPasted(in, login)
	}()
	token, err := login.Token(ctx, client)
	closeInput()
	<-ended
	return token, err
}

// readPasted gives what is pasted to a login, until one line is its answer.
func (a *app) readPasted(in io.Reader, login *oauth.Login) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		err := login.Paste(line)
		if err == nil {
			return
		}
		a.say("drawbridge: %s", oneLine(err.Error()))
	}
}

func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "the authorization server"
	}
	return u.Host
}
