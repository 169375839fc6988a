package spelling

import "testing"

func TestDistances(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b        string
		swaps, none int // distance with swaps, and without
	}{
		{"", "", 0, 0},
		{"", "abc", 3, 3},
		{"grants", "grants", 0, 0},
		{"grnats", "grants", 1, 2},
		{"grant", "grants", 1, 1},
		{"kitten", "sitting", 3, 3},
		{"ab", "ba", 1, 2},
		{"ca", "abc", 3, 3}, // what was swapped is not changed again
	} {
		for _, pair := range [][2]string{{tt.a, tt.b}, {tt.b, tt.a}} {
			if got := Distance(pair[0], pair[1]); got != tt.swaps {
				t.Errorf("from %q to %q are %d steps, want %d", pair[0], pair[1], got, tt.swaps)
			}
			if got := Levenshtein(pair[0], pair[1]); got != tt.none {
				t.Errorf("from %q to %q without swaps are %d steps, want %d", pair[0], pair[1], got, tt.none)
			}
		}
	}
}
