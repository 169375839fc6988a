package mcpserver

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// sseClient is a raw client of the HTTP+SSE transport.
type sseClient struct {
	s        *site
	client   *http.Client
	endpoint string
	lines    *bufio.Scanner
	leave    context.CancelFunc
}

func startSSE(t *testing.T, s *site) *sseClient {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	client := httpClient(t)
	response, err := client.Do(newRequest(t, http.MethodGet, s.url+"/sse", "").WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		leave()
		_ = response.Body.Close()
	})
	c := &sseClient{s: s, client: client, lines: bufio.NewScanner(response.Body), leave: leave}
	c.endpoint = c.data()
	return c
}

// data returns the data of the next event, or "" at the end of the stream.
func (c *sseClient) data() string {
	for c.lines.Scan() {
		if data, ok := strings.CutPrefix(c.lines.Text(), "data: "); ok {
			return data
		}
	}
	return ""
}

func (c *sseClient) next() incoming {
	c.s.t.Helper()
	data := c.data()
	if data == "" {
		c.s.t.Fatalf("the stream has ended: %v", c.lines.Err())
	}
	return decode(c.s.t, []byte(data))
}

func (c *sseClient) post(body string) int {
	c.s.t.Helper()
	status, _ := c.s.do(c.client, newRequest(c.s.t, http.MethodPost, c.s.url+c.endpoint, body))
	return status
}

func (c *sseClient) greet() {
	c.s.t.Helper()
	if status := c.post(initialize); status != http.StatusAccepted {
		c.s.t.Fatalf("initialize: status %d", status)
	}
	if got := c.next(); got.Result == nil {
		c.s.t.Fatalf("initialize: %+v", got)
	}
}

func TestSSENotificationsPrecedeTheAnswer(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	c := startSSE(t, startHTTP(t, srv, HTTPOptions{}))
	c.greet()
	for i := range 100 {
		c.post(eras[0].call(fmt.Sprint(i), "notify"))
		for step := range 3 {
			if got := c.next(); got.Params["progress"] != float64(step) {
				t.Fatalf("call %d: message %d is %+v", i, step, got)
			}
		}
		if got := c.next(); got.ID != fmt.Sprint(i) || got.Result == nil {
			t.Fatalf("call %d: answer %+v", i, got)
		}
	}
}

func TestSSEDisconnectCancelsRunningAndQueuedCalls(t *testing.T) {
	t.Parallel()
	p := newProbes()
	srv, _ := newTestServer(t, p, func(c *Config) { c.MaxRunningCalls = 1 })
	s := startHTTP(t, srv, HTTPOptions{})
	c := startSSE(t, s)
	c.greet()
	c.post(eras[0].call("1", "block"))
	c.post(eras[0].call("2", "block"))
	await(t, "the call to start", p.started)
	c.leave()
	await(t, "the cancellation", p.canceled)
	// The slot is free for another client, so the queued call has gone too.
	other := startSSE(t, s)
	other.greet()
	other.post(eras[0].call("1", "echo"))
	if got := other.next(); got.Result == nil {
		t.Errorf("another client: %+v", got)
	}
	if len(p.started) != 0 {
		t.Error("the queued call has run")
	}
}

func TestSSECancelAndLimits(t *testing.T) {
	t.Parallel()
	p := newProbes()
	srv, _ := newTestServer(t, p, func(c *Config) { c.MaxRunningCalls = 1 })
	c := startSSE(t, startHTTP(t, srv, HTTPOptions{}))
	if c.post(eras[0].call("0", "echo")); c.next().Error == nil {
		t.Error("a call before initialize was served")
	}
	c.greet()
	for i := range maxInFlightPerSession {
		c.post(eras[0].call(fmt.Sprint(i), "block"))
	}
	c.post(eras[0].call(`"over"`, "block"))
	if got := c.next(); got.ID != `"over"` || got.Error == nil || got.Error.Code != codeServerBusy {
		t.Errorf("call over the limit: %+v", got)
	}
	await(t, "the first call", p.started)
	for i := range maxInFlightPerSession {
		c.post(fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%d}}`, i))
	}
	await(t, "the cancellation", p.canceled)
	if c.post(`{"jsonrpc":"2.0","id":"p","method":"ping"}`); c.next().ID != `"p"` {
		t.Error("ping was not answered next")
	}
}

func TestSSEClientsCannotCancelEachOther(t *testing.T) {
	t.Parallel()
	for _, e := range eras {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			p := newProbes()
			srv, _ := newTestServer(t, p)
			s := startHTTP(t, srv, HTTPOptions{})
			victim, attacker := startSSE(t, s), startSSE(t, s)
			victim.greet()
			attacker.greet()
			victim.post(e.call("7", "block"))
			await(t, "the call to start", p.started)
			attacker.post(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7,"_meta":` + e.meta("") + `}}`)
			attacker.post(e.call("7", "echo"))
			if got := attacker.next(); got.ID != "7" || got.Result == nil {
				t.Errorf("same id by another client: %+v", got)
			}
			p.release <- struct{}{}
			if got := victim.next(); got.ID != "7" || got.Result == nil {
				t.Errorf("the victim's answer: %+v", got)
			}
		})
	}
}

func TestSSEStreamsAreBounded(t *testing.T) {
	t.Parallel()
	streams := newSSEStreams()
	var last string
	for range maxEventStreams {
		if last = streams.add(nil); last == "" {
			t.Fatal("a stream within the limit was refused")
		}
	}
	if streams.add(nil) != "" {
		t.Error("a stream over the limit was taken")
	}
	streams.remove(last)
	if streams.add(nil) == "" {
		t.Error("a stream that has ended leaves no room")
	}
}

func TestSSESessionsCannotBeGuessed(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	s := startHTTP(t, srv, HTTPOptions{})
	a, b := startSSE(t, s), startSSE(t, s)
	if a.endpoint == b.endpoint || len(a.endpoint) < len("/message?sessionId=")+26 {
		t.Errorf("endpoints %q and %q", a.endpoint, b.endpoint)
	}
}
