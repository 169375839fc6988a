package provider

import "slices"

// nearest returns the name that somebody who wrote another one may have meant, or
// nothing.
func nearest(written string, names []string) string {
	slices.Sort(names)
	best, least := "", max(2, len(written)/3)+1
	if len(written) > 64 {
		return ""
	}
	for _, name := range names {
		if d := distance(written, name); d < least {
			best, least = name, d
		}
	}
	return best
}

// distance is that of Levenshtein, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
