package provider

import (
	"strings"
	"testing"
	"time"
)

// acme is a provider that uses most of what a file may say.
const acme = `name: acme
title: Acme
fields:
  - name: token
    prompt: Acme token
    env: [ACME_TOKEN]
    pattern: 'acme_[a-z0-9]{20}'
    placeholder: acme_drawbridge0000000000
  - name: host
    prompt: Host
    secret: false
    pattern: '[a-z0-9.-]+'
    default: acme.example
inject:
  - hosts: ['{{.host}}', '*.cdn.acme.example']
    ports: [443, 8443]
    paths: [/v1/**]
    header: x-acme-token
    format: prefix
    prefix: 'acme '
env:
  ACME_TOKEN: '{{.token}}'
files:
  - path: .config/acme.json
    content: '{"token":{{json .token}}{{if .host}},"host":{{json .host}}{{end}}}'
remove_headers: [cookie]
add_headers: {x-acme-mode: agent}
validate:
  url: https://{{.host}}/v1/me
refresh:
  url: https://{{.host}}/oauth/token
  client_id: acme-cli
  body: json
  send_scopes: true
  answer: {access_token: at, expires_in: lasts}
`

func TestAFileDescribesAProvider(t *testing.T) {
	t.Parallel()
	p, err := Parse("acme.yaml", []byte(acme))
	if err != nil {
		t.Fatal(err)
	}
	r := resolve(t, p, map[string]string{"token": "acme_abcdefghij0123456789", "unknown": "ignored"})
	same(t, "acme acme_abcdefghij0123456789", r.Rules[0].Value.Reveal())
	same(t, "acme_abcdefghij0123456789", r.Secrets[0].Reveal())
	rule := r.Rules[0]
	rule.Value = NoSecret
	same(t, Rule{
		Hosts: []string{"acme.example", "*.cdn.acme.example"}, Ports: []uint16{443, 8443}, Paths: []string{"/v1/**"}, Header: "X-Acme-Token",
		Placeholder: "acme_drawbridge0000000000", RemoveHeaders: []string{"Cookie"}, AddHeaders: map[string]string{"X-Acme-Mode": "agent"},
	}, rule)
	same(t, &Renewal{URL: "https://acme.example/oauth/token", ClientID: "acme-cli", IsJSON: true, SendsScopes: true, Field: "token", AccessName: "at", ExpiresName: "lasts"}, r.Renewal)
	same(t, []EnvVar{{Name: "ACME_TOKEN", Value: "acme_drawbridge0000000000"}}, r.Env)
	same(t, []File{{Path: ".config/acme.json", Content: `{"token":"acme_drawbridge0000000000","host":"acme.example"}`}}, r.Files)
}

// mistakes are what may be wrong in the file, and what the error says of it.
var mistakes = []struct{ old, with, says string }{
	{"title: Acme", "titel: Acme", `line 2: unknown key "titel"; did you mean title?`},
	{"    prompt: Acme token", "    promt: Acme token", `line 5: unknown key "promt"; did you mean prompt?`},
	{"    header: x-acme-token", "    heder: x", `line 18: unknown key "heder"; did you mean header?`},
	{"  url: https", "  uri: https", `unknown key "uri"; did you mean url?`},
	{"title: Acme", "qqqqqqqqqq: Acme", `the keys here are add_headers, aliases, `},
	{"title: Acme", "title: Acme\ntitle: Again", `line 3: the key "title" is there twice`},
	{"title: Acme", "title: &a Acme", "anchors"},
	{"title: Acme", "title: [Acme]", "line 2: a list stands"},
	{"title: Acme", "title: {a: b}", "line 2: a mapping stands"},
	{"title: Acme", "title:", "line 2: a value is missing"},
	{"title: Acme", "? [a]\n: b", "want a plain key"},
	{"title: Acme", "<<: {title: x}", "want a plain key"},
	{"title: Acme\n", "", "title: it is missing"},
	{"env: [ACME_TOKEN]", "env: ACME_TOKEN", "line 6:"},
	{"name: acme", "name: Acme", "lower-case"},
	{"name: acme", "name: acme\naliases: [a:b]", "lower-case"},
	{"    secret: false", "    secret: perhaps", "line 11"},
	{"    secret: false\n", "", "a secret has none"},
	{"[443, 8443]", "[70000]", "line"},
	{"[443, 8443]", "[0]", "0 is none"},
	{"  - name: host", "  - name: token", "two of its name"},
	{"  - name: host", "  - name: Host", "lower-case letters, digits and _"},
	{"pattern: 'acme_[a-z0-9]{20}'", "pattern: '('", "pattern of field token"},
	{"pattern: 'acme_[a-z0-9]{20}'", "pattern: 'x'", "does not look like a token"},
	{"    pattern: 'acme_[a-z0-9]{20}'\n", "", "pattern of token: it is missing"},
	{"    placeholder: acme_drawbridge0000000000\n", "", "placeholder of token: it is missing"},
	{"    default: acme.example", "    default: UPPER", `"UPPER" does not look like a host`},
	{"    default: acme.example", "    default: 127.0.0.1", "host"},
	{"'*.cdn.acme.example'", "'*.com'", "want a name"},
	{"    default: acme.example", "    default: '*.acme.example'", `does not look like a host`},
	{"    pattern: '[a-z0-9.-]+'\n    default: acme.example", "    pattern: '.*'\n    default: '*.acme.example'", "a field cannot make it a pattern"},
	{"'*.cdn.acme.example'", "'*'", "want a name"},
	{"'*.cdn.acme.example'", "'a.*.example'", "cannot be part of a name"},
	{"'*.cdn.acme.example'", "'Acme.example'", "lower case"},
	{"'*.cdn.acme.example'", "'acme.example:443'", "cannot be part"},
	{"'*.cdn.acme.example'", "'https://acme.example'", "cannot be part"},
	{"'*.cdn.acme.example'", "'10.0.0.1'", "want a name"},
	{"'*.cdn.acme.example'", "'0x7f.1'", "an address"},
	{"'*.cdn.acme.example'", "'{{.token}}.example.com'", "cannot be part"},
	{"['{{.host}}', '*.cdn.acme.example']", "[]", "hosts: there are none"},
	{"/v1/**", "v1", "begins with a slash"},
	{"/v1/**", "/v1/../x", "clean"},
	{"/v1/**", "/v1/a*", "a star is a whole segment"},
	{"x-acme-token", "'x acme'", "not one that can carry"},
	{"x-acme-token", "Host", "not one that can carry"},
	{"x-acme-token", "Transfer-Encoding", "not one that can carry"},
	{"format: prefix", "format: bearer", "prefix goes with"},
	{"format: prefix", "format: magic", "prefix goes with"},
	{"    format: prefix\n    prefix: 'acme '", "    format: magic", "want bearer, raw, prefix or basic"},
	{"    format: prefix\n    prefix: 'acme '", "    format: basic\n    user: 'a:b'", "without spaces and colons"},
	{"prefix: 'acme '", "prefix: \"acme\\n\"", "prefix"},
	{"    prefix: 'acme '", "    prefix: 'acme '\n    field: host", "no secret field"},
	{"  ACME_TOKEN: '{{.token}}'", "  PATH: x", "not a variable that a grant may set"},
	{"  ACME_TOKEN: '{{.token}}'", "  LD_PRELOAD: x", "not a variable"},
	{"  ACME_TOKEN: '{{.token}}'", "  https_proxy: x", "not a variable"},
	{"  ACME_TOKEN: '{{.token}}'", "  A-B: x", "not a variable"},
	{"  ACME_TOKEN: '{{.token}}'", "  A: '{{.tokn}}'", `no entry for key "tokn"`},
	{"  ACME_TOKEN: '{{.token}}'", "  A: '{{printf \"%099999d\" 1}}'", "is not supported"},
	{"  ACME_TOKEN: '{{.token}}'", "  A: '{{range .token}}x{{end}}'", "is not supported"},
	{"  ACME_TOKEN: '{{.token}}'", "  A: '{{$x := .token}}'", "is not supported"},
	{"  ACME_TOKEN: '{{.token}}'", "  A: '{{.token | json}}'", "is not supported"},
	{"  ACME_TOKEN: '{{.token}}'", "  A: '{{.token.x}}'", "is not supported"},
	{"  ACME_TOKEN: '{{.token}}'", "  A: '{{define \"x\"}}{{end}}{{.token}}'", "not supported"},
	{"  ACME_TOKEN: '{{.token}}'", "  A: '{{'", "read variable A"},
	{".config/acme.json", "/etc/passwd", "below the home"},
	{".config/acme.json", "../x", "below the home"},
	{".config/acme.json", "a//b", "below the home"},
	{"[cookie]", "['a b']", "can be added or removed"},
	{"{x-acme-mode: agent}", "{x-acme-token: agent}", "can be added or removed"},
	{"{x-acme-mode: agent}", "{x-acme-mode: \"a\\nb\"}", "is none"},
	{"url: https", "url: http", "want an https URL"},
	{"{{.host}}/v1/me", "evil.example/v1/me", "nothing is injected there"},
	{"{{.host}}/v1/me", "{{.host}}/v2/me", "nothing is injected there"},
	{"  url: https", "  method: DELETE\n  url: https", "none of GET"},
	{"  url: https", "  accepted: [20]\n  url: https", "20 is no status"},
	{"  url: https", "  headers: {Host: x}\n  url: https", "not a header that can be sent"},
	{"url: https://{{.host}}/oauth/token", "url: http://{{.host}}/oauth/token", "refresh.url: want https"},
	{"url: https://{{.host}}/oauth/token", "auth_method: none", "refresh.url: it is missing"},
	{"url: https://{{.host}}/oauth/token", "url: 'https://{{.nothing}}/'", `no entry for key "nothing"`},
	{"  client_id: acme-cli\n", "", "refresh.client_id: it is missing"},
	{"body: json", "body: xml", "want form or json"},
	{"body: json", "auth_method: magic", "want one of none"},
	{"body: json", "client_secret: s3cret", "name the field, not the secret"},
	{"body: json", "field: host", "no secret field"},
	{"body: json", "bdy: json", `unknown key "bdy"; did you mean body?`},
	{"{access_token: at, expires_in: lasts}", "{token: at}", `unknown key "token"`},
	{"name: acme", "instance_field: nothing\nname: acme", "there is no field"},
	{"name: acme", "name: acme\n---\nname: two", "more than one document"},
	{"name: acme", "name: [", "yaml: line"},
}

func TestAMistakeInAFileIsAnErrorThatSaysWhere(t *testing.T) {
	t.Parallel()
	for _, c := range mistakes {
		if !strings.Contains(acme, c.old) {
			t.Fatalf("the file has no %q", c.old)
		}
		_, err := Parse("acme.yaml", []byte(strings.Replace(acme, c.old, c.with, 1)))
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "acme.yaml") {
			t.Errorf("%q instead of %q: %v\n  want: %s", c.with, c.old, err, c.says)
		}
	}
	for content, says := range map[string]string{
		"": "it is empty", "[]": "want a mapping", "x": "want a mapping", "{}": "name", "\x00": "read provider", strings.Repeat("#", maxYAML+1): "more than",
	} {
		if _, err := Parse("x.yaml", []byte(content)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.20q: %v", content, err)
		}
	}
}

// FuzzParse makes sure that no file makes the loader panic or take long, and that
// what it accepts keeps the rules.
func FuzzParse(f *testing.F) {
	f.Add([]byte(acme))
	entries, err := embedded.ReadDir("data")
	if err != nil {
		f.Fatal(err)
	}
	for _, entry := range entries {
		data, err := embedded.ReadFile("data/" + entry.Name())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("a: &a [*a, *a]"))
	f.Add([]byte("? {a: b}\n: c"))
	f.Fuzz(func(t *testing.T, data []byte) {
		begin := time.Now()
		p, err := Parse("fuzz.yaml", data)
		if took := time.Since(begin); took > time.Minute {
			t.Errorf("it took %v", took)
		}
		if err != nil {
			return
		}
		fields := map[string]string{}
		for _, field := range p.Fields {
			if !field.Secret {
				fields[field.Name] = field.sample()
			}
		}
		if _, err := p.Resolve(fields); err == nil {
			for _, field := range p.Fields {
				if field.Secret && !field.Optional {
					t.Error("it resolves without its secret")
				}
			}
		}
	})
}
