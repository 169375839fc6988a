package lazyregexp

import (
	"sync"
	"testing"
)

func TestAnExpressionIsCompiledWhenItIsUsed(t *testing.T) {
	t.Parallel()
	broken := New("(") // which is no mistake yet
	defer func() {
		if recover() == nil {
			t.Error("a malformed expression was used")
		}
	}()
	broken.MatchString("")
}

func TestAnExpressionMatchesForSeveralAtOnce(t *testing.T) {
	t.Parallel()
	r := New(`^a(b+)$`)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if !r.MatchString("abb") || r.MatchString("b") || r.FindString("xabb") != "" || r.FindStringSubmatch("abb")[1] != "bb" || r.ReplaceAllString("ab", "$1") != "b" {
				t.Error("it does not match as regexp does")
			}
		})
	}
	group.Wait()
	if r.String() != `^a(b+)$` {
		t.Errorf("its source is %q", r)
	}
}
