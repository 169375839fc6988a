package provider

import (
	"errors"
	"testing"
)

func TestModelServerIsAskedSafely(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://models.example.com":           "https://models.example.com:443",
		"https://models.example.com:8443/llm/": "https://models.example.com:8443/llm",
		"http://localhost:8787":                "http://host.drawbridge.internal:8787",
		"http://127.0.0.1:8787/v2":             "http://host.drawbridge.internal:8787/v2",
		"http://[::1]:8787/":                   "http://host.drawbridge.internal:8787",
	} {
		if s, err := ParseModelServer(text); err != nil || s.URL() != want {
			t.Errorf("%s is %q, %v; want %q", text, s.URL(), err, want)
		}
	}
	for _, text := range []string{
		"http://models.example.com", "https://localhost:8787", "https://me:key@models.example.com", "https://models.example.com?x=1",
		"https://models.example.com/a/../b", "https://models.example.com/a%2Fb", "https://models.example.com:0", "https://10.0.0.1",
		"https://models", "https://*.example.com", "models.example.com", "file:///etc", "",
	} {
		if s, err := ParseModelServer(text); !errors.Is(err, ErrField) {
			t.Errorf("%q is %q, %v", text, s.URL(), err)
		}
	}
}

// A credential goes to the model's server, below its path, and no longer to Anthropic.
func TestCredentialGoesToTheModelServerOnly(t *testing.T) {
	t.Parallel()
	server, err := ParseModelServer("https://models.example.com:8443/llm")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"anthropic", "claude"} {
		p := lookup(t, name)
		rule := resolve(t, p.WithModelServer(server), fieldsOf(t, p)).Rules[0]
		for _, to := range []struct {
			host string
			port uint16
			path string
			want bool
		}{
			{"models.example.com", 8443, "/llm/v1/messages", true},
			{"models.example.com", 8443, "/v1/messages", false},
			{"models.example.com", 443, "/llm/v1/messages", false},
			{"api.anthropic.com", 443, "/v1/messages", false},
		} {
			if got := rule.Matches(to.host, to.port, to.path); got != to.want {
				t.Errorf("%s: %+v gets the credential: %v", name, to, got)
			}
		}
		if before := resolve(t, p, fieldsOf(t, p)).Rules[0]; !before.Matches("api.anthropic.com", 443, "/v1/messages") {
			t.Errorf("%s itself was changed", name)
		}
	}
	if got := lookup(t, "github").WithModelServer(server).Injections; got[0].Hosts[0] == "models.example.com" {
		t.Errorf("github goes to %v", got[0].Hosts)
	}
}
