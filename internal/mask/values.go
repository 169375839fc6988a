package mask

import (
	"encoding/hex"
	"html"
	"slices"
	"strings"
)

// longValue is the length in bytes from which on a value is looked for in fewer forms:
// each form of each byte takes some memory.
const longValue = 128

// MaxForm is the length in bytes of the longest form: a reader may have to hold back as
// much.
const MaxForm = 32 << 10

// wrapColumns are the lengths of lines in which programs print base64: base64(1), and
// those that make PEM.
var wrapColumns = []int{76, 64}

// Values returns the forms in which a program can print a value that it was given:
// those of Spellings, each of its lines by itself, as a terminal and grep show them, and
// the lines of its base64. Of a value longer than 128 bytes fewer forms of quoting are
// among them, and of one that is shorter than MinSecret there are none.
func Values(value string) []string {
	if len(value) < MinSecret {
		return nil
	}
	var all []string
	if len(value) <= longValue {
		all = Spellings(value)
	} else {
		all = longSpellings(value)
	}
	if lines := strings.FieldsFunc(value, func(r rune) bool { return r == '\n' || r == '\r' }); len(lines) > 1 {
		for _, line := range lines {
			all = append(all, line, strings.TrimSpace(line), jsonString(line, false), jsonString(line, true))
		}
	}
	encoded := base64Of(value)[0] // without its end, which may depend on a newline
	for _, columns := range wrapColumns {
		for line := range slices.Chunk([]byte(encoded), columns) {
			if len(encoded) > columns {
				all = append(all, string(line))
			}
		}
	}
	all = slices.DeleteFunc(all, func(form string) bool { return len(form) < MinSecret || len(form) > MaxForm })
	slices.Sort(all)
	return slices.Compact(all)
}

// longSpellings are the most usual of Spellings.
func longSpellings(value string) []string {
	digits := hex.EncodeToString([]byte(value))
	all := []string{
		value, html.EscapeString(value), jsonString(value, false), jsonString(value, true), digits, strings.ToUpper(digits),
		percentEncode(value, "~!'()*", "%%%02X"), percentEncode(value, "~", "%%%02X"), strings.ReplaceAll(percentEncode(value, "*", "%%%02X"), "%20", "+"),
	}
	return append(all, base64Of(value)...)
}
