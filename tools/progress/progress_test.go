package progress

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mark3labs/mcp-go/mcp"
)

// recorded returns a reporter and what it has sent.
func recorded(ctx context.Context) (*Reporter, *[]map[string]any) {
	sent := &[]map[string]any{}
	return &Reporter{ended: ctx.Done(), token: "token", send: func(params map[string]any) error {
		*sent = append(*sent, params)
		return nil
	}}, sent
}

func TestReportsAtOnceThenAtMostOncePerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reporter, sent := recorded(t.Context())
		reporter.Report(1, 10, "one")
		reporter.Report(2, 10, "too early")
		time.Sleep(Interval - time.Millisecond)
		reporter.Report(3, 10, "still too early")
		time.Sleep(time.Millisecond)
		reporter.Report(4, 10, "four")
		want := []map[string]any{
			{"progressToken": "token", "progress": 1.0, "total": 10.0, "message": "one"},
			{"progressToken": "token", "progress": 4.0, "total": 10.0, "message": "four"},
		}
		if diff := cmp.Diff(want, *sent); diff != "" {
			t.Errorf("reports (-want +got):\n%s", diff)
		}
	})
}

func TestReportsOnlyGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reporter, sent := recorded(t.Context())
		for _, done := range []float64{0, 5, 5, 3, 6} {
			reporter.Report(done, 0, "")
			time.Sleep(Interval)
		}
		want := []map[string]any{
			{"progressToken": "token", "progress": 0.0},
			{"progressToken": "token", "progress": 5.0},
			{"progressToken": "token", "progress": 6.0},
		}
		if diff := cmp.Diff(want, *sent); diff != "" {
			t.Errorf("reports (-want +got):\n%s", diff)
		}
	})
}

func TestReportsNothingAfterTheCall(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	reporter, sent := recorded(ctx)
	cancel()
	reporter.Report(1, 0, "late")
	if len(*sent) != 0 {
		t.Errorf("sent %v after the call had ended", *sent)
	}
}

func TestWithoutTokenReporterDoesNothing(t *testing.T) {
	t.Parallel()
	for name, request := range map[string]mcp.CallToolRequest{
		"no meta":  {},
		"no token": {Params: mcp.CallToolParams{Meta: &mcp.Meta{}}},
		"no server": {Params: mcp.CallToolParams{Meta: &mcp.Meta{
			ProgressToken: "token",
		}}},
	} {
		reporter := New(t.Context(), request)
		if reporter.Enabled() {
			t.Errorf("%s: reporter is enabled", name)
		}
		reporter.Report(1, 0, "nobody listens")
	}
}

func TestMessageIsCutBetweenCharacters(t *testing.T) {
	t.Parallel()
	message := strings.Repeat("é", MaxMessageBytes)
	reporter, sent := recorded(t.Context())
	reporter.Report(1, 0, message)
	got := (*sent)[0]["message"].(string)
	if want := strings.Repeat("é", 98) + "..."; got != want {
		t.Errorf("message %q, want %q", got, want)
	}
}
