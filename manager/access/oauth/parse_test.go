package oauth

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

func TestTheNamesOfAnAnswerAreThoseOfTheService(t *testing.T) {
	t.Parallel()
	asked := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	jwt := "x." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":2000000000}`)) + ".y"
	for body, want := range map[string]Token{
		`{"access_token":"ab","refresh_token":"cd","expires_in":60,"scope":"b a b"}`: {Access: credential.NewSecret("ab"), Refresh: credential.NewSecret("cd"), ExpiresAt: asked.Add(time.Minute), Scopes: []string{"b", "a"}},
		`{"access_token":"ab","expires_in":"60","refresh_token":null}`:               {Access: credential.NewSecret("ab"), ExpiresAt: asked.Add(time.Minute)},
		`{"access_token":"ab","expires_in":1e300}`:                                   {Access: credential.NewSecret("ab"), ExpiresAt: asked.Add(maxLifetime)},
		`{"access_token":"ab","expires_in":-1}`:                                      {Access: credential.NewSecret("ab")},
		`{"access_token":"` + jwt + `"}`:                                             {Access: credential.NewSecret(jwt), ExpiresAt: time.Unix(2000000000, 0).UTC()},
	} {
		got, err := Endpoint{}.parse([]byte(body), asked)
		if diff := cmp.Diff(want, got, cmp.Comparer(credential.Secret.Equal)); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", body, err, diff)
		}
	}
	got, err := Endpoint{AccessName: "a", RefreshName: "r", ExpiresName: "e"}.parse([]byte(`{"a":"ab","r":"cd","e":60}`), asked)
	if err != nil || got.Access.Reveal() != "ab" || got.Refresh.Reveal() != "cd" || !got.ExpiresAt.Equal(asked.Add(time.Minute)) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAChallengeIsRead(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]map[string]string{
		`Bearer`: {},
		`Bearer realm="a, b=\"c\"", scope="x y", resource_metadata="https://h/m"`: {"realm": `a, b="c"`, "scope": "x y", "resource_metadata": "https://h/m"},
		`Basic realm=x, Bearer resource_metadata=https://h/m`:                     {"realm": "x", "resource_metadata": "https://h/m"},
		`Bearer scope="unended`: {"scope": "unended"},
	} {
		if diff := cmp.Diff(want, parseChallenge(header)); diff != "" {
			t.Errorf("%s: %s", header, diff)
		}
	}
}

// FuzzToken makes sure that no answer of a token endpoint makes the client panic or
// quote it, and that what it takes can be a header.
func FuzzToken(f *testing.F) {
	for _, seed := range []string{`{"access_token":"ab","expires_in":60}`, `{"access_token":"a.e30.b"}`, `{"error":{"code":"x"}}`, `{"expires_in":1e999}`, `[]`, ``} {
		f.Add([]byte(seed))
	}
	asked := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, body []byte) {
		token, err := Endpoint{}.parse(body, asked)
		if err == nil && (!isWord(token.Access.Reveal()) || token.ExpiresAt.Year() > 9000) {
			t.Errorf("it is %q until %v", token.Access.Reveal(), token.ExpiresAt)
		}
		secret := "0123456789abcdef0123456789abcdef"
		if said := fmt.Sprint(refused("h", answer{status: 400, body: append(body, secret...)}, credential.NewSecret(secret))); strings.Contains(said, secret) || len(said) > 1000 {
			t.Errorf("it says %q", said)
		}
	})
}

// FuzzDiscovery makes sure that no metadata makes the client panic, or use anything
// but HTTPS.
func FuzzDiscovery(f *testing.F) {
	f.Add([]byte(`{"issuer":"https://a.example","authorization_endpoint":"https://a.example/a","token_endpoint":"https://a.example/t"}`), `Bearer resource_metadata="https://a.example/x", scope="a b"`)
	f.Add([]byte(`{"resource":"https://a.example/mcp","authorization_servers":["https://b.example"]}`), `a=b=c`)
	f.Add([]byte(`{"client_id":"x","client_secret":"y"}`), `="`)
	resource, err := url.Parse("https://a.example/mcp")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, header string) {
		for name, value := range parseChallenge(header) {
			if strings.ContainsAny(name, " ,\t=") || len(value) > len(header) {
				t.Errorf("%q has %q", header, name)
			}
		}
		var m serverMetadata
		if json.Unmarshal(body, &m) == nil {
			if s, err := m.server("https://a.example"); err == nil {
				for _, raw := range []string{s.AuthorizeURL, s.TokenURL, s.RegisterURL} {
					if raw != "" && !strings.HasPrefix(strings.ToLower(raw), "https:") {
						t.Errorf("%q is accepted", raw)
					}
				}
			}
		}
		var r resourceMetadata
		if json.Unmarshal(body, &r) == nil && r.check(resource) == nil && !strings.Contains(strings.ToLower(r.Resource), "a.example") {
			t.Errorf("%q is accepted", r.Resource)
		}
		if r, err := parseRegistration(body, Server{}); err == nil && !isWord(r.ClientID) {
			t.Errorf("%q is accepted", r.ClientID)
		}
	})
}
