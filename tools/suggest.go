package tools

import (
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/internal/spelling"
)

// usualNames are what other tools call our arguments.
var usualNames = map[string][]string{
	"cmd":         {"command"},
	"args":        {"command"},
	"id":          {"run"},
	"runid":       {"run"},
	"ids":         {"runs"},
	"runids":      {"runs"},
	"cwd":         {"dir", "workspace"},
	"directory":   {"dir", "workspace"},
	"timeout":     {"timeout_seconds", "wait_seconds"},
	"environment": {"env"},
	"lines":       {"tail"},
	"input":       {"text", "stdin"},
	"file":        {"path"},
	"data":        {"content", "text"},
	"pattern":     {"match"},
	"regex":       {"match"},
}

// maxNameBytes is more than any argument's name has, and keeps the comparison
// with what a client sent cheap.
const maxNameBytes = 32

// nearest returns the name in names that was probably meant by given, or an
// empty string.
func nearest(given string, names []string) string {
	if len(given) == 0 || len(given) > maxNameBytes {
		return ""
	}
	plain := plainName(given)
	for _, name := range names {
		if plainName(name) == plain {
			return name
		}
	}
	for _, name := range usualNames[plain] {
		if slices.Contains(names, name) {
			return name
		}
	}
	best, bestDistance := "", 1+min(2, len(given)/3)
	for _, name := range names {
		if d := spelling.Distance(given, name); d < bestDistance {
			best, bestDistance = name, d
		}
	}
	return best
}

// plainName removes what spellings of one name differ in.
func plainName(name string) string {
	return strings.NewReplacer("_", "", "-", "", ".", "").Replace(strings.ToLower(name))
}
