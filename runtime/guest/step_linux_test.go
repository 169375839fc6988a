package guest

import (
	"os"
	"slices"
	"testing"
)

func TestStepEndsAsItsCommandDoes(t *testing.T) {
	for name, test := range map[string]struct {
		command []string
		want    int
	}{
		"well":        {[]string{"/bin/sh", "-c", "exit 0"}, 0},
		"with a code": {[]string{"/bin/sh", "-c", "exit 7"}, 7},
		"by a signal": {[]string{"/bin/sh", "-c", "kill -9 $$"}, 137},
	} {
		if code, err := runStep(test.command, os.Environ()); err != nil || code != test.want {
			t.Errorf("%s: %d, %v; want %d", name, code, err, test.want)
		}
	}
	if _, err := runStep([]string{"/does/not/exist"}, nil); err == nil {
		t.Error("a command that is missing was run")
	}
	if !slices.Contains(stepEnv(), "https_proxy=http://127.0.0.1:3128") {
		t.Errorf("its variables are %q", stepEnv())
	}
}
