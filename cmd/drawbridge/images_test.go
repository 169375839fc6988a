package main

import (
	"strings"
	"testing"
)

func TestImagesOfAHomeThatHasNone(t *testing.T) {
	t.Parallel()
	c := newEngineCLI(t)
	for _, test := range []struct {
		args     []string
		out, err string
		code     int
	}{
		{[]string{"images", "list"}, "", "no images", 0},
		{[]string{"images", "list", "-o", "json"}, `"images": []`, "", 0},
		{[]string{"images", "prune"}, "", "0 images removed", 0},
		{[]string{"images", "prune", "--older-than", "0s", "-o", "json"}, `"images": []`, "0 images removed", 0},
		{[]string{"images", "prune", "--older-than", "old"}, "", "give e.g. 90m", 2},
		{[]string{"images", "prun"}, "", "did you mean `drawbridge images prune`?", 2},
	} {
		got := c.run(test.args...)
		if got.code != test.code || !strings.Contains(got.out, test.out) || !strings.Contains(got.err, test.err) || test.out == "" && got.out != "" {
			t.Errorf("%q: %+v", test.args, got)
		}
	}
}
