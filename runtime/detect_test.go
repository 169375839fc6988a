package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

func available(t runtime.Type, isolation runtime.Isolation) runtime.Probe {
	return runtime.Probe{Type: t, Probe: func(context.Context) (runtime.Finding, error) {
		return runtime.Finding{Available: true, Isolation: isolation}, nil
	}}
}

func absent(t runtime.Type, why string) runtime.Probe {
	return runtime.Probe{Type: t, Probe: func(context.Context) (runtime.Finding, error) {
		return runtime.Finding{}, fmt.Errorf("%s: %w", why, runtime.ErrUnavailable)
	}}
}

func TestDetectChoosesTheDefault(t *testing.T) {
	t.Parallel()
	docker := available(runtime.TypeDocker, runtime.IsolationRunc)
	native := available(runtime.TypeNative, runtime.IsolationGVisor)
	noDocker := absent(runtime.TypeDocker, "no engine")
	tests := map[string]struct {
		probes  []runtime.Probe
		forced  runtime.Type
		want    runtime.Type
		wantErr error
		says    string
	}{
		"the first that is available":            {[]runtime.Probe{docker, native}, "", runtime.TypeDocker, nil, "first"},
		"the next one where the first is absent": {[]runtime.Probe{noDocker, native}, "", runtime.TypeNative, nil, "docker is not available: no engine"},
		"the forced one":                         {[]runtime.Probe{docker, native}, runtime.TypeNative, runtime.TypeNative, nil, "asked for"},
		"not another than the forced one":        {[]runtime.Probe{noDocker, native}, runtime.TypeDocker, "", runtime.ErrUnavailable, "no engine"},
		"none":                                   {[]runtime.Probe{noDocker}, "", "", runtime.ErrUnavailable, "no engine"},
		"a known type without a driver":          {[]runtime.Probe{docker}, runtime.TypeApple, "", runtime.ErrUnsupported, "no driver"},
		"an unknown type":                        {[]runtime.Probe{docker}, "dokcer", "", runtime.ErrUnsupported, "no such runtime"},
		"a build without drivers":                {nil, "", "", runtime.ErrUnsupported, "no driver"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := runtime.Detect(t.Context(), test.probes, test.forced)
			if !errors.Is(err, test.wantErr) || got.Default != test.want {
				t.Fatalf("got %q, %v; want %q, %v", got.Default, err, test.want, test.wantErr)
			}
			if said := got.Why + fmt.Sprint(err); !strings.Contains(said, test.says) {
				t.Errorf("%q does not say %q", said, test.says)
			}
		})
	}
}

func TestDetectReportsEveryFinding(t *testing.T) {
	t.Parallel()
	got, err := runtime.Detect(t.Context(), []runtime.Probe{
		absent(runtime.TypeDocker, "no engine"),
		available(runtime.TypeNative, runtime.IsolationGVisor),
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	want := []runtime.Finding{
		{Type: runtime.TypeDocker, Detail: "no engine: runtime unavailable"},
		{Type: runtime.TypeNative, Available: true, Isolation: runtime.IsolationGVisor},
	}
	if diff := cmp.Diff(want, got.Findings); diff != "" {
		t.Error(diff)
	}
}

func TestDetectEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	hung := runtime.Probe{Type: runtime.TypeDocker, Probe: func(ctx context.Context) (runtime.Finding, error) {
		cancel()
		<-ctx.Done()
		return runtime.Finding{}, ctx.Err()
	}}
	if _, err := runtime.Detect(ctx, []runtime.Probe{hung}, ""); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want the end of the context", err)
	}
}
