package manager

import (
	"strings"
	"testing"
)

func TestLimitsThatAreOutOfRangeAreToldWithTheirRange(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		opts Options
		says string // empty where it is within the range
	}{
		"memory":         {Options{MemoryBytes: 4096}, "the memory of 4096 bytes is out of range; choose from 16777216 to 1125899906842624"},
		"enough memory":  {Options{MemoryBytes: minMemoryBytes}, ""},
		"no memory":      {Options{}, ""},
		"processors":     {Options{CPUs: 0.001}, "the cpus of 0.001 cores is out of range; choose from 0.01 to 4096"},
		"half of one":    {Options{CPUs: 0.5}, ""},
		"processes":      {Options{PidsLimit: -1}, "the pids limit of -1 processes is out of range"},
		"ten of them":    {Options{PidsLimit: 10}, ""},
		"a negative end": {Options{Timeout: -1e9}, "the timeout of -1 seconds is out of range"},
	} {
		err := checkLimits(test.opts)
		if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v; want %q", name, err, test.says)
		}
	}
}
