package proxy

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/drawbridge-mcp/drawbridge/internal/mask"
)

const testSecret = "ghp_8dJ/q+W2=x\"<Zk1~vR&7Yt3Lm5Nb9"

// maskedText returns what a masker makes of a text that is read in pieces.
func maskedText(t testing.TB, m *mask.Masker, pieces ...string) string {
	t.Helper()
	var readers []io.Reader
	for _, p := range pieces {
		readers = append(readers, strings.NewReader(p))
	}
	got, err := io.ReadAll(&masked{from: io.MultiReader(readers...), latest: func() *mask.Masker { return m }})
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func TestSecretsAreMaskedInEverySpelling(t *testing.T) {
	t.Parallel()
	m := mask.New(mask.Spellings(testSecret))
	quoted, _ := json.Marshal(testSecret)
	var unescaped strings.Builder
	encoder := json.NewEncoder(&unescaped)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(testSecret); err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{
		"raw": testSecret, "JSON": string(quoted), "JSON of PHP": strings.ReplaceAll(string(quoted), "/", `\/`), "JSON as it is": strings.TrimSpace(unescaped.String()),
		"query": url.QueryEscape(testSecret), "path": url.PathEscape(testSecret), "query, lower": lowerEscapes(url.QueryEscape(testSecret)),
		"hex": hex.EncodeToString([]byte(testSecret)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(testSecret))), "HTML": html.EscapeString(testSecret),
	}
	for before := range 6 {
		for after := range 4 {
			data := []byte(strings.Repeat("~", before) + testSecret + strings.Repeat("~", after))
			for name, encoding := range map[string]*base64.Encoding{
				"standard": base64.StdEncoding, "raw": base64.RawStdEncoding, "URL": base64.URLEncoding, "raw URL": base64.RawURLEncoding,
			} {
				encoded := encoding.EncodeToString(data)
				name = fmt.Sprintf("base64 %s, %d before, %d after", name, before, after)
				texts[name], texts[name+", in a query"] = encoded, url.QueryEscape(encoded)
			}
		}
	}
	for name, text := range texts {
		got := maskedText(t, m, "before "+text+" after")
		core := strings.TrimSuffix(strings.TrimPrefix(got, "before "), " after")
		// Of base64 the neighbours stay, and characters that are partly theirs.
		const most = 30
		if len(got) != len(text)+len("before  after") || strings.Count(core, "*") < len(text)-most || !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") {
			t.Errorf("%s: %q became %q", name, text, got)
		}
		if !strings.HasPrefix(name, "base64") && strings.Trim(core, `*"`) != "" {
			t.Errorf("%s: %q is left of %q", name, core, text)
		}
	}
}

func lowerEscapes(s string) string {
	b := []byte(s)
	for i := range b {
		if b[i] == '%' {
			copy(b[i+1:i+3], bytes.ToLower(b[i+1:i+3]))
		}
	}
	return string(b)
}

func TestSecretsAreMaskedWhereverTheyAreCut(t *testing.T) {
	t.Parallel()
	m := mask.New(mask.Spellings(testSecret))
	for _, spelling := range []string{testSecret, hex.EncodeToString([]byte(testSecret)), base64.StdEncoding.EncodeToString([]byte("user:" + testSecret))} {
		text := "data: " + spelling + "\n\n" + spelling + spelling[:7]
		want := maskedText(t, m, text)
		for i := range text {
			for j := i; j < len(text); j += 5 {
				if got := maskedText(t, m, text[:i], text[i:j], text[j:]); got != want {
					t.Fatalf("cut at %d and %d: %q, want %q", i, j, got, want)
				}
			}
		}
	}
}

func TestOnlyWhatMayBeASecretIsHeldBack(t *testing.T) {
	t.Parallel()
	m := mask.New([]string{"secret-token-1", "token-2-secret"})
	for _, test := range []struct{ text, held string }{
		{"data: 1\n\n", ""}, {"a secret", "secret"}, {"a secret ", ""}, {"secret-token-1", ""}, {"secret-token-2", "token-2"}, {"s", "s"},
		{"secret-token-", "secret-token-"}, {"token-2-secre", "token-2-secre"}, {"token-2-secret", "******"}, {"ttt", "t"},
	} {
		r := &masked{from: io.MultiReader(strings.NewReader(test.text), iotest.ErrReader(errors.New("cut"))), latest: func() *mask.Masker { return m }}
		buffer := make([]byte, 1<<10)
		n, err := r.Read(buffer)
		if got := len(test.text) - n; err != nil || got != len(test.held) || string(r.held) != test.held {
			t.Errorf("after %q: %d bytes are held, %q, %v; want %q", test.text, got, r.held, err, test.held)
		}
		// What may be most of a secret does not come when the rest does not.
		if n, err := r.Read(buffer); n != 0 || err == nil {
			t.Errorf("after %q: got %d bytes more, %v", test.text, n, err)
		}
	}
}

func TestSecretInTheBeginningOfAnotherIsMasked(t *testing.T) {
	t.Parallel()
	m := mask.New([]string{"xabcdefghy", "abcdefgh"})
	if got := maskedText(t, m, "xabcdefghz xabcdefghy"); got != "x********z **********" {
		t.Errorf("got %q", got)
	}
}

func TestShortSecretsAreMaskedInHeadersOnly(t *testing.T) {
	t.Parallel()
	m := newMaskers([]Grant{grantOf("short", testRule("h.test", 443, "X-Key", "abc123")), grantOf("shorter", testRule("h.test", 443, "X-Pin", "123"))})
	if m.content != nil {
		t.Error("content is masked")
	}
	if got := m.text.Text("the abc123 of 123"); got != "the ****** of 123" {
		t.Errorf("a header became %q", got)
	}
}

// naive masks as one would on paper.
func naive(needles []string, text string) string {
	out := []byte(text)
	for _, n := range needles {
		for i := 0; n != "" && i+len(n) <= len(text); i++ {
			if text[i:i+len(n)] == n {
				copy(out[i:], strings.Repeat("*", len(n)))
			}
		}
	}
	return string(out)
}

func FuzzMask(f *testing.F) {
	f.Add("secret-1", "secret-12", "xx secret-1 secret-12 secret-", uint64(1))
	f.Add("aaaaaaaa", "aaaaaaab", "aaaaaaaaaaaaaaaaaaaaaaaaab", uint64(2))
	f.Add("abcabcab", "bcabcabc", "abcabcabcabcabcabcabc", uint64(3))
	f.Add("xabcdefghy", "abcdefgh", "xabcdefghz", uint64(5))
	f.Add(testSecret, "0123456789", base64.StdEncoding.EncodeToString([]byte(testSecret)), uint64(4))
	f.Fuzz(func(t *testing.T, one, two, text string, seed uint64) {
		var needles []string
		for _, secret := range []string{one, two} {
			if len(secret) >= mask.MinSecret && len(secret) < 1000 && !strings.Contains(secret, "*") {
				needles = append(needles, mask.Spellings(secret)...)
			}
		}
		m := mask.New(needles)
		if m == nil {
			return
		}
		// Texts with needles in them are not found by chance.
		random := rand.New(rand.NewPCG(seed, 0))
		for range random.IntN(4) {
			n := needles[random.IntN(len(needles))]
			at := random.IntN(len(text) + 1)
			text = text[:at] + n[random.IntN(2):] + text[at:]
		}
		want := naive(needles, text)
		r := &masked{latest: func() *mask.Masker { return m }, from: iotest.DataErrReader(&pieces{text: text, random: random})}
		var got []byte
		for {
			buffer := make([]byte, 1+random.IntN(2*leastRoom))
			n, err := r.Read(buffer)
			got = append(got, buffer[:n]...)
			if err != nil {
				break
			}
		}
		if string(got) != want {
			t.Fatalf("%q became\n%q, want\n%q; needles %q", text, got, want, needles)
		}
		if got := m.Text(text); got != want {
			t.Fatalf("as a text %q became\n%q, want\n%q", text, got, want)
		}
		for _, n := range needles {
			if strings.Contains(want, n) {
				t.Fatalf("%q is in %q", n, want)
			}
		}
	})
}

// pieces is a text that comes in pieces of any size.
type pieces struct {
	text   string
	random *rand.Rand
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.text == "" {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.random.IntN(40))], p.text)
	p.text = p.text[n:]
	return n, nil
}

func BenchmarkMask(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 32<<10)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	letters := []byte(base64.StdEncoding.EncodeToString(noise)[:32<<10])
	prose := bytes.Repeat([]byte(`{"id": 1296269, "name": "Hello-World", "full_name": "octocat/Hello-World", "private": false}, `), 400)[:32<<10]
	secret := "ghp_" + base64.RawURLEncoding.EncodeToString(noise[:27])
	one := mask.New(mask.Spellings(secret))
	var many []string
	for i := range 10 {
		many = append(many, mask.Spellings(fmt.Sprintf("key-%d-%s", i, base64.RawURLEncoding.EncodeToString(noise[40*i:40*i+40])))...)
	}
	ten := mask.New(many)
	nothingElse := bytes.Repeat([]byte(secret), 1<<10)[:32<<10]
	short := mask.New(mask.Spellings("k7Qp2xWz"))
	for _, bench := range []struct {
		name string
		m    *mask.Masker
		text []byte
	}{{"bytes", one, noise}, {"letters", one, letters}, {"json", one, prose}, {"json with ten secrets", ten, prose}, {"letters with ten secrets", ten, letters}, {"json with a short secret", short, prose}, {"nothing but secrets", one, nothingElse}} {
		b.Run(bench.name, func(b *testing.B) {
			b.SetBytes(int64(len(bench.text)))
			content := make([]byte, len(bench.text))
			for b.Loop() {
				copy(content, bench.text)
				bench.m.Scan(content, 0, 0)
			}
		})
	}
	b.Run("making one", func(b *testing.B) {
		for b.Loop() {
			mask.New(mask.Spellings(secret))
		}
	})
}
