package proxy

import (
	"errors"
	"fmt"
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

// Whoever has an answer of the gate's own finds it in the record.
func TestAnswersOfTheGateAreRecordedFirst(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w := newWorld(t, policy.Strict)
		host := w.server("api.test", http.NotFoundHandler(), protocols(http2)...)
		w.run.Policy = policyOf(t, policy.Strict, host+" allow GET /allowed", "nowhere.test")
		inside := func(path, inner string) int {
			req, err := http.NewRequest(http.MethodGet, "https://"+host+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = inner
			resp, err := w.client(http2).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			return resp.StatusCode
		}
		ask := func(text string) int {
			resp, _ := w.raw(text)
			return resp.StatusCode
		}
		connect := func(target string) int {
			_, _, resp := w.connect(target)
			return resp.StatusCode
		}
		for i, test := range []struct {
			status int
			kind   string
			ask    func() int
		}{
			{http.StatusForbidden, KindConnect, func() int { return connect("other.test:443") }},
			{http.StatusBadGateway, KindConnect, func() int { return connect("nowhere.test:443") }},
			{http.StatusBadRequest, KindConnect, func() int { return connect("nonsense") }},
			{http.StatusForbidden, KindHTTP, func() int { return ask("GET http://other.test/ HTTP/1.1\r\n\r\n") }},
			{http.StatusBadGateway, KindHTTP, func() int { return ask("GET http://nowhere.test/ HTTP/1.1\r\n\r\n") }},
			{http.StatusNotFound, KindCredentials, func() int { return ask(fmt.Sprintf("GET %s HTTP/1.1\r\nHost: gate\r\n\r\n", AWSPath)) }},
			{http.StatusBadRequest, KindNone, func() int { return ask("hello\r\n\r\n") }},
			{http.StatusForbidden, KindHTTP, func() int { return inside("/other", "") }},
			{http.StatusMisdirectedRequest, KindHTTP, func() int { return inside("/allowed", "other.test") }},
		} {
			status := test.ask()
			w.mu.Lock()
			entries := w.entries
			w.mu.Unlock()
			if status != test.status || len(entries) != i+1 {
				t.Fatalf("the answer was %d, want %d; by then the record had %+v", status, test.status, entries)
			}
			if e := entries[i]; e.Status != status || e.Kind != test.kind || e.Duration <= 0 {
				t.Errorf("recorded %+v", e)
			}
		}
	})
}
