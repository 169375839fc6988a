package host

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEnvironmentPutsTheSpecOverTheImage(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ image, spec, want []string }{
		"nothing given":      {nil, nil, []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "USER=sandbox"}},
		"the image's":        {[]string{"PATH=/bin", "HOME=/root", "A=1"}, nil, []string{"PATH=/bin", "HOME=/tmp", "A=1", "USER=sandbox"}},
		"the spec's counts":  {[]string{"PATH=/bin", "A=1"}, []string{"A=2", "HOME=/h", "A=3"}, []string{"PATH=/bin", "A=3", "HOME=/h", "USER=sandbox"}},
		"values with equals": {[]string{"PATH=/bin"}, []string{"A=b=c"}, []string{"PATH=/bin", "HOME=/tmp", "USER=sandbox", "A=b=c"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, environment(test.image, test.spec)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
