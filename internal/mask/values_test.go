package mask

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// wrapped returns base64 of text as programs print it.
func wrapped(text string, columns int) string {
	encoded := base64.StdEncoding.EncodeToString([]byte(text))
	var b strings.Builder
	for len(encoded) > columns {
		b.WriteString(encoded[:columns] + "\n")
		encoded = encoded[columns:]
	}
	return b.String() + encoded + "\n"
}

func TestValuesAreFoundAsProgramsPrintThem(t *testing.T) {
	t.Parallel()
	line := func(n int) string {
		digits := fmt.Sprintf("%x/+", hex.EncodeToString([]byte(fmt.Sprint("line", n*7919, "of a key"))))
		return strings.Repeat(digits, 2)[:64]
	}
	key := "-----BEGIN KEY-----\n" + line(1) + "\n" + line(2) + "\n" + line(3) + "\n-----END KEY-----\n"
	for name, value := range map[string]string{
		"short":    "s3cr3t/V+lue",
		"token":    "ghp_" + line(4),
		"long":     line(5) + line(6) + line(7) + line(8),
		"document": `{"id": "` + line(9) + `", "key": "` + strings.ReplaceAll(key, "\n", `\n`) + `"}`,
		"key":      key,
	} {
		m := New(Values(value))
		quoted, _ := json.Marshal(value)
		for form, text := range map[string]string{
			"as it is":                    value,
			"on a terminal":               strings.ReplaceAll(value, "\n", "\r\n"),
			"in JSON":                     string(quoted),
			"in a query":                  url.QueryEscape(value),
			"in hexadecimal":              hex.EncodeToString([]byte(value)),
			"in base64":                   base64.StdEncoding.EncodeToString([]byte(value)),
			"in base64 of URLs":           base64.RawURLEncoding.EncodeToString([]byte(value)),
			"by base64(1)":                wrapped(value, 76),
			"by base64(1), and a newline": wrapped(value+"\n", 76),
			"by openssl":                  wrapped(value, 64),
		} {
			// What one line of a key or of base64 leaves at its end may be shorter than what
			// is looked for.
			masked := m.Text(text)
			left := strings.NewReplacer("*", "", "\n", "", "\r", "", `"`, "", "=", "", `\n`, "", "%0A", "").Replace(masked)
			if len(left) > MinSecret {
				t.Errorf("%s, %s: %q is left of %q", name, form, masked, text)
			}
		}
	}
}

// What a guest needs for its masker is bounded: values are.
func TestFormsOfAValueTakeBoundedMemory(t *testing.T) {
	t.Parallel()
	for size, most := range map[int]int{64: 200 << 10, 8 << 10: 8 << 20} {
		var b strings.Builder
		for i := 0; b.Len() < size; i++ {
			fmt.Fprintf(&b, "%x\"/+", i*104729)
		}
		m := New(Values(b.String()[:size]))
		if got := m.Size(); got > most {
			t.Errorf("a value of %d bytes takes %d bytes, more than %d", size, got, most)
		} else {
			t.Logf("a value of %d bytes takes %d bytes", size, got)
		}
	}
}

func TestNothingIsFoundByNoMasker(t *testing.T) {
	t.Parallel()
	m := New(Values("short"))
	if got := m.Text("a short text"); got != "a short text" || m.Size() != 0 {
		t.Errorf("became %q, with %d bytes", got, m.Size())
	}
}
