package provider

import (
	"slices"

	"github.com/drawbridge-mcp/drawbridge/internal/spelling"
)

// nearest returns the name that somebody who wrote another one may have meant, or
// nothing.
func nearest(written string, names []string) string {
	slices.Sort(names)
	best, least := "", max(2, len(written)/3)+1
	if len(written) > 64 {
		return ""
	}
	for _, name := range names {
		if d := spelling.Levenshtein(written, name); d < least {
			best, least = name, d
		}
	}
	return best
}
