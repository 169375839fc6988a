package policy

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParseHost(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"example.com":             "example.com",
		"EXAMPLE.Com":             "example.com",
		"example.com.":            "example.com",
		"a-b.example.com":         "a-b.example.com",
		"r3---sn-x.example.com":   "r3---sn-x.example.com",
		"under_score.example.com": "under_score.example.com",
		"_dmarc.example.com":      "_dmarc.example.com",
		"localhost":               "localhost",
		"1.example":               "1.example",
		"1e100.net":               "1e100.net",
		"0xfg":                    "0xfg",
		"1.2.3.4.example":         "1.2.3.4.example",

		"bücher.example":                  "xn--bcher-kva.example",
		"BÜCHER.example":                  "xn--bcher-kva.example",
		"bu\u0308cher.example":            "xn--bcher-kva.example",
		"xn--bcher-kva.example":           "xn--bcher-kva.example",
		"XN--Bcher-KVA.example":           "xn--bcher-kva.example",
		"faß.example":                     "xn--fa-hia.example",
		"example\u3002com":                "example.com",
		"ｅｘａｍｐｌｅ.com":                     "example.com",
		"exam\u00adple.com":               "example.com",
		"例え.テスト":                          "xn--r8jz45g.xn--zckzah",
		"gu\uff0ecom":                     "gu.com",
		strings.Repeat("a.", 126) + "a":   strings.Repeat("a.", 126) + "a",
		strings.Repeat("a", 63) + ".test": strings.Repeat("a", 63) + ".test",

		"127.0.0.1":       "127.0.0.1",
		"127.0.0.1.":      "127.0.0.1",
		"127.1":           "127.0.0.1",
		"127.0.1":         "127.0.0.1",
		"2130706433":      "127.0.0.1",
		"0x7f000001":      "127.0.0.1",
		"0X7F.1":          "127.0.0.1",
		"017700000001":    "127.0.0.1",
		"0177.0.0.01":     "127.0.0.1",
		"010.8.8.8":       "8.8.8.8",
		"0x0a.0x0b.0xc.d": "", // d is a name's last label, but see below
		"1.2.65535":       "1.2.255.255",
		"1.16777215":      "1.255.255.255",
		"4294967295":      "255.255.255.255",
		"0":               "0.0.0.0",
		"１２７.０.０.１":       "127.0.0.1",

		"::1":                      "::1",
		"[::1]":                    "::1",
		"[0:0:0:0:0:0:0:0001]":     "::1",
		"2001:DB8::A":              "2001:db8::a",
		"::ffff:127.0.0.1":         "127.0.0.1",
		"[::FFFF:7f00:1]":          "127.0.0.1",
		"::127.0.0.1":              "::7f00:1",
		"[64:ff9b::169.254.169.1]": "64:ff9b::a9fe:a901",
	} {
		if want == "" {
			want = raw // a name after all
		}
		h, err := ParseHost(raw)
		if err != nil || h.String() != want {
			t.Errorf("%q is %q, %v, not %q", raw, h, err, want)
		}
		addr, isAddr := h.Addr()
		if parsed, err := netip.ParseAddr(want); isAddr != (err == nil) || addr != parsed {
			t.Errorf("%q has the address %v, %v", raw, addr, isAddr)
		}
	}
}

func TestParseHostRefuses(t *testing.T) {
	t.Parallel()
	for raw, why := range map[string]string{
		"":                                 "empty",
		".":                                "empty",
		"..":                               "empty label",
		"a..b":                             "empty label",
		".example.com":                     "empty label",
		"example.com..":                    "empty label",
		" example.com":                     "space",
		"exam ple.com":                     "space",
		"example.com\n":                    "control character",
		"exa\x00mple.com":                  "control character",
		"exa\x7fmple.com":                  "control character",
		"user@example.com":                 "user information",
		"user:pass@example.com":            "user information",
		"example.com:443":                  "colons",
		"example.com/":                     "URL",
		"http://example.com":               "URL",
		"example.com\\a":                   "URL",
		"example.com?a":                    "URL",
		"example.com#a":                    "URL",
		"ex%61mple.com":                    "percent",
		"fe80::1%eth0":                     "percent",
		"[fe80::1%25eth0]":                 "percent",
		"*.example.com":                    "'*'",
		"exa,mple.com":                     "','",
		"exa'mple.com":                     "'\\''",
		"exam\u2100ple.com":                "'/'", // a/c
		"a\uff0fb.com":                     "'/'",
		"\uff05example.com":                "'%'",
		"xn--a.example":                    "international",
		"xn--.example":                     "empty label",
		"xn--example-.com":                 "international",
		"a\u200db.example":                 "international",
		"-a.example":                       "hyphen",
		strings.Repeat("a", 64) + ".test":  "label is longer than 63",
		strings.Repeat("a.", 127) + "test": "longer than 253",
		strings.Repeat("a", 2000):          "longer than 1024",
		"256.0.0.1":                        "no IPv4 address",
		"1.2.3.256":                        "no IPv4 address",
		"1.2.65536":                        "no IPv4 address",
		"4294967296":                       "no IPv4 address",
		"99999999999999999999999":          "no IPv4 address",
		"1.2.3.4.5":                        "no IPv4 address",
		"08.0.0.1":                         "no IPv4 address",
		"1.2.3.0x":                         "no IPv4 address",
		"0x":                               "no IPv4 address",
		"1..2":                             "no IPv4 address",
		"example.1":                        "no IPv4 address",
		"example.0x1f":                     "no IPv4 address",
		"0b1.2":                            "no IPv4 address",
		"1_0.2":                            "no IPv4 address",
		"[127.0.0.1]":                      "no IPv6 address",
		"[::1":                             "no IPv6 address",
		"::1]":                             "no IPv6 address",
		"[[::1]]":                          "no IPv6 address",
		"[::1].":                           "no IPv6 address",
		"[example.com]":                    "no IPv6 address",
		"[]":                               "no IPv6 address",
		":::":                              "no IPv6 address",
		"1:2:3:4:5:6:7:8:9":                "no IPv6 address",
	} {
		h, err := ParseHost(raw)
		if err == nil || h != (Host{}) {
			t.Errorf("%q is %q, %v", raw, h, err)
		} else if !strings.Contains(err.Error(), why) {
			t.Errorf("%q is refused with %q, which does not say %q", raw, err, why)
		}
	}
}

func TestParseTarget(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		raw         string
		defaultPort uint16
		want        string // empty: refused
	}{
		{"example.com:443", 0, "example.com:443"},
		{"Example.com.:8443", 443, "example.com:8443"},
		{"example.com", 443, "example.com:443"},
		{"127.1:80", 0, "127.0.0.1:80"},
		{"[::1]:80", 0, "[::1]:80"},
		{"[::1]", 443, "[::1]:443"},
		{"[::ffff:8.8.8.8]:53", 0, "8.8.8.8:53"},
		{"example.com:1", 0, "example.com:1"},
		{"example.com:65535", 0, "example.com:65535"},
		{"example.com", 0, ""},
		{"[::1]", 0, ""},
		{"", 443, ""},
		{":443", 0, ""},
		{"example.com:", 443, ""},
		{"example.com:0", 443, ""},
		{"example.com:65536", 0, ""},
		{"example.com:-1", 0, ""},
		{"example.com:+80", 0, ""},
		{"example.com:080", 0, ""},
		{"example.com:0x50", 0, ""},
		{"example.com:8_0", 0, ""},
		{"example.com:http", 0, ""},
		{"example.com: 80", 0, ""},
		{"example.com:80 ", 0, ""},
		{"example.com:80:80", 0, ""},
		{"::1", 443, ""},
		{"::1:443", 0, ""},
		{"[::1]443", 0, ""},
		{"[::1]:", 443, ""},
		{"[::1", 443, ""},
		{"[127.0.0.1]:80", 0, ""},
		{"user@example.com:80", 0, ""},
		{"user:pass@example.com:80", 0, ""},
	} {
		target, err := ParseTarget(tt.raw, tt.defaultPort)
		switch {
		case tt.want == "" && (err == nil || target != Target{}):
			t.Errorf("%q is %q, %v", tt.raw, target, err)
		case tt.want != "" && (err != nil || target.String() != tt.want):
			t.Errorf("%q is %q, %v, not %q", tt.raw, target, err, tt.want)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "target "+quoted(tt.raw)+": ") {
			t.Errorf("%q: %v does not name it", tt.raw, err)
		}
	}
}

// Beside each range are the addresses just before and after it.
func TestPublic(t *testing.T) {
	t.Parallel()
	notPublic := strings.Fields(`
		0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 100.100.100.200
		127.0.0.0 127.0.0.1 127.255.255.255 168.63.129.16 169.254.0.0 169.254.169.254 169.254.255.255
		172.16.0.0 172.31.255.255 192.0.0.0 192.0.0.192 192.0.0.255 192.0.2.0 192.0.2.255
		192.88.99.1 192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255 198.51.100.7 203.0.113.0 203.0.113.255
		224.0.0.0 224.0.0.251 239.255.255.255 240.0.0.0 255.255.255.255
		:: ::1 ::8.8.8.8 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:0:8.8.8.8
		64:ff9b::10.0.0.1 64:ff9b::169.254.169.254 64:ff9b:1::8.8.8.8 100::1 100:0:0:1::1
		2001::1 2001:0:808:808:0:0:80ff:fffe 2001:0:a00:1:0:0:f7f7:f7f7 2001:2::1 2001:10::1 2001:20::1 2001:1ff:ffff::1
		2001:db8::1 2001:db8:ffff::1 2002:7f00:1:: 2002:a9fe:a9fe::1 2002:a00:1::1 3fff::1 3fff:fff::1
		4000::1 5f00::1 fc00::1 fd00:ec2::254 fd20:ce::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1 ff0e::1`)
	public := strings.Fields(`
		1.0.0.0 1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
		168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255
		192.0.1.0 192.0.3.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 203.0.112.255 203.0.114.0 223.255.255.255
		::ffff:8.8.8.8 64:ff9b::8.8.8.8 2000::1 2001:0:808:808:0:0:f7f7:f7f7 2001:200::1 2001:4860:4860::8888
		2001:db7:ffff::1 2001:db9::1 2002:808:808::1 2606:4700:4700::1111 2a00::1 3ffe:ffff::1 3fff:1000::1`)
	for want, addrs := range map[bool][]string{false: notPublic, true: public} {
		for _, text := range addrs {
			if got := Public(netip.MustParseAddr(text)); got != want {
				t.Errorf("Public(%s) is %v", text, got)
			}
		}
	}
	for _, text := range []string{"2001:db8::1%eth0", "::ffff:10.0.0.1%eth0"} {
		if Public(netip.MustParseAddr(text)) {
			t.Errorf("the zone makes %s public", text)
		}
	}
	if Public(netip.Addr{}) {
		t.Error("no address is public")
	}
}
