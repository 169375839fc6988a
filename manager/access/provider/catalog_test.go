package provider

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

var update = flag.Bool("update", false, "write the golden files anew")

// marker is part of every secret that tests resolve with. It fits hexadecimal
// patterns, too.
const marker = "7e7e7e7e"

var zeros = regexp.MustCompile(`0{8,}`)

// fieldsOf returns fields that a provider takes, with the marker in all that is
// secret.
func fieldsOf(t testing.TB, p Provider) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for _, f := range p.Fields {
		value := f.sample()
		if f.Secret {
			value = zeros.ReplaceAllStringFunc(value, func(run string) string { return marker + run[len(marker):] })
			if !strings.Contains(value, marker) {
				t.Fatalf("the placeholder of %s.%s has no run of zeros that tells it from a secret", p.Name, f.Name)
			}
		}
		fields[f.Name] = value
	}
	return fields
}

func resolve(t testing.TB, p Provider, fields map[string]string) Resolved {
	t.Helper()
	r, err := p.Resolve(fields)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func lookup(t testing.TB, name string) Provider {
	t.Helper()
	p, err := Builtin().Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// example returns a provider as a grant would name it.
func example(t testing.TB, p Provider) Provider {
	t.Helper()
	if p.InstanceField == "name" {
		return lookup(t, p.Name+":example")
	}
	return p
}

func TestEveryProviderKeepsTheRules(t *testing.T) {
	t.Parallel()
	for _, p := range Builtin().All() {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			if err := p.check(); err != nil {
				t.Error(err)
			}
			r := resolve(t, example(t, p), fieldsOf(t, p))
			if len(r.Rules) == 0 || len(r.Secrets) == 0 {
				t.Error("it injects nothing")
			}
			for _, f := range p.Fields {
				if !f.Secret {
					continue
				}
				if ok, err := regexp.MatchString("^(?:"+f.Pattern+")$", f.Placeholder); !ok || err != nil {
					t.Errorf("the placeholder of %s has not the shape %s: %v", f.Name, f.Pattern, err)
				}
				if err := f.Check(f.Placeholder); !errors.Is(err, ErrField) {
					t.Errorf("the placeholder of %s passes for a secret: %v", f.Name, err)
				}
			}
			for _, rule := range r.Rules {
				if rule.Header != http.CanonicalHeaderKey(rule.Header) || rule.Value.IsZero() || !slices.Contains(rule.Ports, 443) {
					t.Errorf("rule %+v", rule)
				}
				if strings.Contains(rule.Value.Reveal(), rule.Placeholder) || !rule.Carries(rule.Placeholder) {
					t.Errorf("rule %s takes the placeholder for the secret", rule.Header)
				}
				for _, host := range rule.Hosts {
					if err := checkHost(host); err != nil {
						t.Error(err)
					}
					if _, err := url.Parse("https://" + strings.ReplaceAll(host, "*", "x")); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

func TestOnlyHeaderValuesHoldSecrets(t *testing.T) {
	t.Parallel()
	for _, p := range Builtin().All() {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			r := resolve(t, example(t, p), fieldsOf(t, p))
			for _, rule := range r.Rules {
				value := rule.Value.Reveal()
				if encoded, ok := strings.CutPrefix(value, "Basic "); ok {
					decoded, err := base64.StdEncoding.DecodeString(encoded)
					if err != nil {
						t.Fatal(err)
					}
					value = string(decoded)
				}
				if !strings.Contains(value, marker) {
					t.Errorf("header %s does not hold the secret", rule.Header)
				}
			}
			printed := fmt.Sprintf("%+v %#v", r, r)
			marshalled, err := json.Marshal(r) // secrets write themselves as a mask
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range []string{printed, string(marshalled)} {
				for i := range 3 { // all phases of base64
					encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", i) + marker + marker))
					if strings.Contains(text, marker) || strings.Contains(text, encoded[4:16]) {
						t.Errorf("it holds the secret: %s", text)
					}
				}
			}
			for _, f := range r.Files {
				if strings.HasSuffix(f.Path, ".json") && !json.Valid([]byte(f.Content)) {
					t.Errorf("%s: %s", f.Path, f.Content)
				}
			}
		})
	}
}

func TestTheListOfProvidersIsTheGoldenOne(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for _, p := range Builtin().All() {
		p = example(t, p)
		r := resolve(t, p, fieldsOf(t, p))
		fmt.Fprintf(&b, "%s (%s)", p.Name, p.Title)
		if len(p.Aliases) > 0 {
			fmt.Fprintf(&b, ", also %s", strings.Join(p.Aliases, ", "))
		}
		b.WriteByte('\n')
		for _, f := range p.Fields {
			fmt.Fprintf(&b, "  field %s secret=%v optional=%v from %v\n", f.Name, f.Secret, f.Optional, f.Env)
		}
		for _, rule := range r.Rules {
			scheme, _, hasScheme := strings.Cut(rule.Value.Reveal(), " ")
			if !hasScheme {
				scheme = "alone"
			}
			fmt.Fprintf(&b, "  %s: %s (%s) paths %v ports %v remove %v add %v\n", strings.Join(rule.Hosts, " "), rule.Header, scheme, rule.Paths, rule.Ports, rule.RemoveHeaders, rule.AddHeaders)
		}
		for _, v := range r.Env {
			fmt.Fprintf(&b, "  %s=%s\n", v.Name, v.Value)
		}
		for _, f := range r.Files {
			fmt.Fprintf(&b, "  ~/%s: %s\n", f.Path, strings.TrimSpace(f.Content))
		}
		if n := r.Renewal; n != nil {
			fmt.Fprintf(&b, "  renewed at %s as %s json=%v scopes=%v resource=%s\n", n.URL, n.ClientID, n.IsJSON, n.SendsScopes, n.Resource)
		}
		fmt.Fprintf(&b, "  validate=%v login=%v\n", p.Validate != nil, p.Login != nil)
	}
	golden(t, "providers.golden", b.String())
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s; run the test with -update if that is meant (-want +got):\n%s", path, diff)
	}
}

func TestAGrantLeadsToItsProvider(t *testing.T) {
	t.Parallel()
	for grant, want := range map[string]string{
		"github": "github", "codex": "openai", "google": "gemini", "npm": "npm", "npm:npm.example.com": "npm",
		"mcp:context7": "mcp", "oauth:linear": "oauth", "gitlab:git.example.com": "gitlab", "brave": "brave-search",
	} {
		p, err := Builtin().Lookup(grant)
		if err != nil || p.Name != want {
			t.Errorf("%s: %s, %v", grant, p.Name, err)
		}
	}
	for grant, want := range map[string]struct {
		err  error
		says string
	}{
		"githbu": {ErrUnknown, "did you mean github?"}, "": {ErrUnknown, "drawbridge grant providers"}, "ssh:github.com": {ErrUnknown, ""},
		"github:x": {ErrField, "leave out"}, "mcp": {ErrField, "name it mcp:NAME"}, "mcp:": {ErrField, "name it mcp:NAME"},
		"npm:": {ErrField, "name it npm:HOST"}, "npm:a b": {ErrField, "name it npm:HOST"}, "mcp:../x": {ErrField, ""},
	} {
		_, err := Builtin().Lookup(grant)
		if !errors.Is(err, want.err) || !strings.Contains(err.Error(), want.says) {
			t.Errorf("%q: %v", grant, err)
		}
	}
	if p, err := Builtin().Of(credential.Credential{Grant: "github-work", Provider: "github"}); err != nil || p.Name != "github" {
		t.Errorf("a grant with a name of its own: %s, %v", p.Name, err)
	}
	p, err := Builtin().Of(credential.Credential{Grant: "npm:npm.example.com", Provider: "npm"})
	if err != nil {
		t.Fatal(err)
	}
	r := resolve(t, p, map[string]string{"token": "abcdefgh12345678", "scope": "@acme"})
	if r.Rules[0].Hosts[0] != "npm.example.com" {
		t.Errorf("%+v", r.Rules)
	}
	want := "//npm.example.com/:_authToken=" + r.Rules[0].Placeholder + "\n@acme:registry=https://npm.example.com/\n"
	if diff := cmp.Diff(want, r.Files[0].Content); diff != "" {
		t.Error(diff)
	}
}

func TestProvidersOfAHomeJoinThoseThatAreBuiltIn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("acme.yaml", acme, 0o600)
	write("notes.txt", "not read", 0o600)
	c, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := c.Lookup("acme"); err != nil || p.Title != "Acme" || len(c.All()) != len(Builtin().All())+1 {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := Builtin().Lookup("acme"); !errors.Is(err, ErrUnknown) {
		t.Errorf("the catalog that is built in has changed: %v", err)
	}

	write("b-again.yaml", acme, 0o600)
	write("c-github.yaml", strings.Replace(acme, "name: acme", "name: github", 1), 0o600)
	write("d-alias.yaml", strings.Replace(acme, "name: acme", "name: other\naliases: [codex]", 1), 0o600)
	write("e-ssh.yaml", strings.Replace(acme, "name: acme", "name: ssh", 1), 0o600)
	write("f-open.yaml", strings.Replace(acme, "name: acme", "name: open", 1), 0o622)
	write("g-typo.yaml", strings.Replace(acme, "inject:", "injct:", 1), 0o600)
	write("h-large.yaml", strings.Repeat("#", maxYAML+1), 0o600)
	if err := os.Mkdir(filepath.Join(dir, "i-dir.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	c, err = Load(dir)
	if err == nil {
		t.Fatal("no error")
	}
	for _, says := range []string{"b-again.yaml", `"github" is taken`, `"codex" is taken`, `"ssh" is taken`, "chmod go-w", "did you mean inject?", "h-large.yaml has more", "i-dir.yaml is not a file"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("it does not say %q: %v", says, err)
		}
	}
	if p, err := c.Lookup("acme"); err != nil || p.Name != "acme" {
		t.Errorf("what is right went with what is wrong: %v", err)
	}
	if p, err := c.Lookup("github"); err != nil || p.Title != "GitHub" {
		t.Errorf("github is %q, %v", p.Title, err)
	}
	if c, err := Load(filepath.Join(dir, "not", "[there")); err != nil || len(c.All()) != len(Builtin().All()) {
		t.Errorf("a directory that is not there: %v", err)
	}
}
