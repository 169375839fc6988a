package policy

import (
	"strings"
	"testing"
)

func TestParseRule(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"example.com":             "example.com",
		"  Example.COM.  ":        "example.com",
		"example.com:8443":        "example.com:8443",
		"example.com:443":         "example.com:443",
		"example.com:*":           "example.com:*",
		"*":                       "*",
		"*:8443":                  "*:8443",
		"*:*":                     "*:*",
		"*.Example.com":           "*.example.com",
		"*.example.com:*":         "*.example.com:*",
		"*.com":                   "*.com",
		"bücher.example":          "xn--bcher-kva.example",
		"localhost:3000":          "localhost:3000",
		"db":                      "db",
		"0x7f.1:80":               "127.0.0.1:80",
		"[::1]":                   "[::1]",
		"[::1]:8080":              "[::1]:8080",
		"[::ffff:10.0.0.1]":       "10.0.0.1",
		HostName + ":5432":        HostName + ":5432",
		"a.b allow GET /":         "a.b allow GET /",
		"a.b deny get /x":         "a.b deny GET /x",
		"a.b allow * /x/":         "a.b allow * /x",
		"a.b allow * /**":         "a.b allow * /**",
		"a.b allow * /**/":        "a.b allow * /**",
		"a.b allow * /**/**":      "a.b allow * /**",
		"a.b allow * /*/*/**/x":   "a.b allow * /*/*/**/x",
		"a.b \t allow  PURGE\t/x": "a.b allow PURGE /x",
		"a.b allow GET /%7eu/%41": "a.b allow GET /~u/A",
		"a.b allow GET /ü":        "a.b allow GET /%C3%BC",
		"a.b allow GET /a%20b":    "a.b allow GET /a%20b",
		"a.b allow GET /%2a":      "a.b allow GET /%2A",
		"a.b allow GET /%3F%23":   "a.b allow GET /%3F%23",
		"a.b allow GET /100%25":   "a.b allow GET /100%25",
		"a.b allow GET /x;v=1":    "a.b allow GET /x;v=1",
		"a.b allow GET /@s/n:m":   "a.b allow GET /@s/n:m",
		"a.b allow GET /.git/..a": "a.b allow GET /.git/..a",
		"*.local deny * /**":      "*.local deny * /**",
		"[::1]:80 deny GET /x":    "[::1]:80 deny GET /x",
	} {
		r, err := ParseRule(text)
		if err != nil || r.String() != want {
			t.Errorf("%q is %q, %v, not %q", text, r, err, want)
			continue
		}
		if again, err := ParseRule(want); err != nil || again != r {
			t.Errorf("%q is %+v, but %q is %+v, %v", text, r, want, again, err)
		}
	}
}

// badRules are texts that are no rules, and what the error says.
var badRules = map[string]string{
	"":                               "has to be a host",
	"   ":                            "has to be a host",
	"a.b allow":                      "has to be a host",
	"a.b allow GET":                  "has to be a host",
	"a.b allow GET /x y":             "has to be a host",
	"a.b GET /x allow":               "\"GET\" has to be allow or deny",
	"a.b Allow GET /x":               "\"Allow\" has to be allow or deny",
	"a.b allow G(T /x":               "no method",
	"a.b allow GET* /x":              "no method",
	"a.b allow CONNECT /x":           "a tunnel has no path",
	"a.b allow connect /x":           "a tunnel has no path",
	"a.b allow GET x":                "begin with a slash",
	"a.b allow GET **":               "begin with a slash",
	"a.b allow GET /x?y=1":           "query",
	"a.b allow GET /x#y":             "query or a fragment",
	"a.b allow GET /x*":              "whole segment",
	"a.b allow GET /***":             "whole segment",
	"a.b allow GET //":               "empty segment",
	"a.b allow GET /a//b":            "empty segment",
	"a.b allow GET /a/../b":          "dots",
	"a.b allow GET /./b":             "dots",
	"a.b allow GET /%2e%2E/b":        "dots",
	"a.b allow GET /a%2fb":           "slash",
	"a.b allow GET /a%5cb":           "backslash",
	"a.b allow GET /a\\b":            "backslash",
	"a.b allow GET /a%00":            "control",
	"a.b allow GET /a\x01":           "control",
	"a.b allow GET /%ff":             "UTF-8",
	"a.b allow GET /%2":              "percent",
	"a.b allow GET /%zz":             "percent",
	"a.b allow GET /%252e":           "twice",
	"a.b allow GET /..;/x":           "parameters",
	"a.b allow GET /;x":              "parameters",
	"https://a.b/":                   "write only the host",
	"a.b/x":                          "URL",
	"user@a.b":                       "user information",
	"a.b:0":                          "no port",
	"a.b:65536":                      "no port",
	"a.b:https":                      "no port",
	"a.b:":                           "no port",
	"a.b:**":                         "no port",
	"::1":                            "brackets",
	"::1:80":                         "brackets",
	"[::1]80":                        "bracket",
	"[::1":                           "bracket",
	"a.*.b":                          "only at the beginning",
	"*a.b":                           "only at the beginning",
	"*.*.amazonaws.com":              "only at the beginning",
	"**":                             "only at the beginning",
	"**.b":                           "only at the beginning",
	"*.":                             "empty",
	"*.1.2.3.4":                      "below an address",
	"*.[::1]":                        "IPv6",
	"*.local":                        "one by one",
	"*.cluster.local:443":            "one by one",
	"*.internal allow GET /x":        "one by one",
	"*.localhost":                    "one by one",
	"a_b.1":                          "no IPv4 address",
	strings.Repeat("a", 64) + ".x":   "label is longer",
	"a.b allow GET /" + longPath(10): "longer than",
}

func TestParseRuleRefuses(t *testing.T) {
	t.Parallel()
	for text, why := range badRules {
		r, err := ParseRule(text)
		switch {
		case err == nil || r != Rule{}:
			t.Errorf("%q is %q, %v", text, r, err)
		case !strings.HasPrefix(err.Error(), "network rule "+quoted(text)+": "):
			t.Errorf("%q: %v does not name it", text, err)
		case !strings.Contains(err.Error(), why):
			t.Errorf("%q is refused with %q, which does not say %q", text, err, why)
		case !strings.Contains(err.Error(), "a rule looks like api.github.com"):
			t.Errorf("%q: %v does not show a rule", text, err)
		}
	}
}

func longPath(kilobytes int) string { return strings.Repeat("x", kilobytes<<10) }

func TestForPort(t *testing.T) {
	t.Parallel()
	for _, port := range []uint16{1, 80, 5432, 65535} {
		r, err := ForPort(port)
		if err != nil {
			t.Fatal(err)
		}
		want := Target{Host: mustHost(t, HostName), Port: port}.String()
		if parsed, err := ParseRule(want); err != nil || parsed != r || r.String() != want {
			t.Errorf("port %d: %q, %+v, %v", port, r, parsed, err)
		}
	}
	if r, err := ForPort(0); err == nil || r != (Rule{}) {
		t.Errorf("port 0: %q, %v", r, err)
	}
}

func TestZeroRuleHasNoText(t *testing.T) {
	t.Parallel()
	if text := (Rule{}).String(); text != "" {
		t.Error(text)
	}
}

func TestWholeRulesLookIntoNothing(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"example.com": "example.com", "*.example.com:8443": "*.example.com:8443",
		"example.com allow GET /**": "", "example.com deny POST /private": "example.com deny * /**",
	} {
		rule, err := ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		whole, usable := rule.Whole()
		if usable != (want != "") || usable && whole.String() != want {
			t.Errorf("%s: %s, %t; want %q", text, whole, usable, want)
		}
	}
}
