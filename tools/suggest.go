package tools

import (
	"slices"
	"strings"
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
		if d := distance(given, name); d < bestDistance {
			best, bestDistance = name, d
		}
	}
	return best
}

// plainName removes what spellings of one name differ in.
func plainName(name string) string {
	return strings.NewReplacer("_", "", "-", "", ".", "").Replace(strings.ToLower(name))
}

// distance is the number of bytes to insert, remove, replace or swap with their
// neighbour to get from a to b.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
