package proxy

import (
	"errors"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// A name without a dot is asked for once, and where it leads is checked like any
// other's.
func TestNameWithoutADotIsAskedForOnce(t *testing.T) {
	t.Parallel()
	names := newNameServer(t)
	names.set("inside", "127.0.0.1")
	d := &dialer{resolver: names.resolver()}
	for name, isAddress := range map[string]bool{"nowhere": false, "inside": true} {
		target, err := policy.ParseTarget(name+":1", 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.dial(t.Context(), target, false)
		if _, refused := errors.AsType[*addressError](err); err == nil || refused != isAddress {
			t.Errorf("%s: %v", name, err)
		}
		names.mu.Lock()
		asked := names.asked[name]
		names.mu.Unlock()
		if asked == 0 || asked > 2 { // A and AAAA
			t.Errorf("%s was asked for %d times", name, asked)
		}
	}
}
