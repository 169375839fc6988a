package proxy

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// What there would be no record of is not let through, in whatever form it comes.
func TestWhatCannotBeRecordedIsRefused(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w := newWorld(t, policy.Strict)
		var served atomic.Int32
		host := w.server("api.test", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }), protocols(http2)...)
		plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }))
		t.Cleanup(plain.Close)
		w.run.Policy = policyOf(t, policy.Strict, host+" allow * /**", plain.Listener.Addr().String())
		var full atomic.Bool
		w.run.CanRecord = func() error {
			if full.Load() {
				return errors.New("there is no room")
			}
			return nil
		}
		c := w.client(http2)
		if status, _ := get(t, c, "https://"+host+"/"); status != http.StatusOK {
			t.Errorf("with room: %d", status)
		}
		full.Store(true)
		if status, text := get(t, c, "https://"+host+"/"); status != http.StatusServiceUnavailable || !strings.Contains(text, codeUnrecorded) || !strings.Contains(text, "no room") {
			t.Errorf("inside: %d %s", status, text)
		}
		if resp, why := w.raw("GET " + plain.URL + "/ HTTP/1.1\r\n\r\n"); resp.StatusCode != http.StatusServiceUnavailable || why.Code != codeUnrecorded {
			t.Errorf("plain: %s, %+v", resp.Status, why)
		}
		if _, _, resp := w.connect(plain.Listener.Addr().String()); resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("a tunnel: %s", resp.Status)
		}
		if n := served.Load(); n != 1 {
			t.Errorf("%d requests were served", n)
		}
		for i := 1; i < 4; i++ {
			if e := w.entry(i); e.Decision != Refused || e.Status != http.StatusServiceUnavailable {
				t.Errorf("recorded %+v", e)
			}
		}
		full.Store(false)
		if status, _ := get(t, c, "https://"+host+"/"); status != http.StatusOK {
			t.Errorf("with room again: %d", status)
		}
	})
}
