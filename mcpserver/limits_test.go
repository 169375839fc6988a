package mcpserver

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"
)

// sized is a call whose message has exactly so many bytes.
func sized(e era, size int) string {
	body := e.call("7", "echo")
	return body[:len(body)-1] + strings.Repeat(" ", size-len(body)) + "}"
}

func TestMessageOfTheLargestSizeIsServedAndOneByteMoreIsNot(t *testing.T) {
	t.Parallel()
	const limit = 2000
	for _, e := range eras {
		srv, _ := newTestServer(t, newProbes(), func(c *Config) { c.MaxMessageBytes = limit })
		stdio, s, client := startStdio(t, srv), startHTTP(t, srv, HTTPOptions{}), httpClient(t)
		if !e.modern {
			stdio.greet()
		}
		session := loginFor(s, client, e)
		for size, served := range map[int]bool{limit: true, limit + 1: false} {
			body := sized(e, size)
			stdio.send(body + "\n")
			if got := stdio.next(); got.ID != "7" || (got.Result != nil) != served {
				t.Errorf("%s, stdio, %d bytes: %+v", e.name, size, got)
			}
			_, got := s.do(client, s.request(http.MethodPost, session, e, body))
			if got[0].ID != "7" || (got[0].Result != nil) != served {
				t.Errorf("%s, http, %d bytes: %+v", e.name, size, got[0])
			}
		}
	}
}

func TestOwnLimitOfHTTPBodies(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	s, client := startHTTP(t, srv, HTTPOptions{MaxBodyBytes: 1000}), httpClient(t)
	for size, want := range map[int]int{1000: http.StatusOK, 1001: http.StatusRequestEntityTooLarge} {
		r := s.request(http.MethodPost, "", eras[1], sized(eras[1], size))
		if status, _ := s.do(client, r); status != want {
			t.Errorf("%d bytes: status %d, want %d", size, status, want)
		}
		// The same when the client does not say how much it sends.
		r = s.request(http.MethodPost, "", eras[1], sized(eras[1], size))
		r.ContentLength = -1
		if status, _ := s.do(client, r); status != want {
			t.Errorf("%d bytes of unknown length: status %d, want %d", size, status, want)
		}
	}
}

func TestBodyThatDoesNotArriveIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	srv.timings.body = 100 * time.Millisecond
	s := startHTTP(t, srv, HTTPOptions{})
	reader, writer := io.Pipe()
	defer func() { _ = writer.Close() }()
	go func() { _, _ = io.WriteString(writer, `{"jsonrpc":"2.0","id":1,`) }()
	r := s.request(http.MethodPost, "", eras[1], "")
	r.Body, r.ContentLength = reader, -1
	if status, got := s.do(httpClient(t), r); status != http.StatusBadRequest || got[0].Error.Code != -32700 {
		t.Errorf("status %d, %+v", status, got)
	}
}

func TestCallMayTakeLongerThanItsBodyMay(t *testing.T) {
	t.Parallel()
	p := newProbes()
	srv, _ := newTestServer(t, p)
	srv.timings.body = 100 * time.Millisecond
	s, client := startHTTP(t, srv, HTTPOptions{}), httpClient(t)
	answer := make(chan []incoming, 1)
	go func() {
		_, got := s.do(client, s.request(http.MethodPost, "", eras[1], eras[1].call("1", "block")))
		answer <- got
	}()
	await(t, "the call to start", p.started)
	select { // that nothing happens can only be seen by waiting a little
	case cause := <-p.canceled:
		t.Fatalf("the call was cancelled: %v", cause)
	case <-time.After(3 * srv.timings.body):
	}
	p.release <- struct{}{}
	if got := await(t, "the answer", answer); len(got) != 1 || got[0].Result == nil {
		t.Errorf("answer %+v", got)
	}
}

// A message that is larger than the budget for all would wait for ever.
func TestMessageLimitStaysWithinTheBudget(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes(), func(c *Config) { c.MaxMessageBytes = 1 << 40 })
	h, err := srv.newHTTPHandler(HTTPOptions{MaxBodyBytes: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if srv.maxMessage != maxInFlightBytes || h.maxBody != maxInFlightBytes {
		t.Errorf("limits are %d and %d", srv.maxMessage, h.maxBody)
	}
}

func TestBytesInFlightAreBounded(t *testing.T) {
	t.Parallel()
	const size = 1000
	p := newProbes()
	srv, _ := newTestServer(t, p)
	srv.bytes = semaphore.NewWeighted(size + size/2)
	srv.timings.body = 100 * time.Millisecond
	client := startStdio(t, srv)
	client.greet()
	block := func(id string) string {
		body := eras[0].call(id, "block")
		return body[:len(body)-1] + strings.Repeat(" ", size-len(body)) + "}\n"
	}
	client.send(block("1") + block("2") + eras[0].call("3", "echo") + "\n")
	await(t, "the first call", p.started)
	// The second has no room, and the third is not even read.
	s := startHTTP(t, srv, HTTPOptions{MaxBodyBytes: size})
	r := s.request(http.MethodPost, "", eras[1], sized(eras[1], size))
	if status, got := s.do(httpClient(t), r); status != http.StatusServiceUnavailable || got[0].Error.Code != codeServerBusy {
		t.Errorf("while there is no room: status %d, %+v", status, got)
	}
	if len(p.started) != 0 {
		t.Error("a call was begun while there was no room for its bytes")
	}
	p.release <- struct{}{}
	if got := client.next(); got.ID != "1" {
		t.Errorf("first answer %+v", got)
	}
	await(t, "the second call", p.started)
	if got := client.next(); got.ID != "3" {
		t.Errorf("second answer %+v", got)
	}
	p.release <- struct{}{}
	if got := client.next(); got.ID != "2" {
		t.Errorf("third answer %+v", got)
	}
}

func TestBodyOfUnknownLengthCountsAsTheLargest(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	srv.timings.body = 100 * time.Millisecond
	srv.bytes = semaphore.NewWeighted(999)
	s := startHTTP(t, srv, HTTPOptions{MaxBodyBytes: 1000})
	for length, want := range map[int64]int{500: http.StatusOK, -1: http.StatusServiceUnavailable} {
		r := s.request(http.MethodPost, "", eras[1], sized(eras[1], 500))
		r.ContentLength = length
		if status, got := s.do(httpClient(t), r); status != want {
			t.Errorf("length %d: status %d, %+v", length, status, got)
		}
	}
}

func TestHTTPRequestsAtOnceAreBounded(t *testing.T) {
	t.Parallel()
	p := newProbes()
	srv, _ := newTestServer(t, p)
	h, err := srv.newHTTPHandler(HTTPOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if !h.posts.TryAcquire(maxConcurrentPosts) {
		t.Fatal("there are fewer places than there should be")
	}
	s := startHTTP(t, srv, HTTPOptions{}) // for its requests
	post := func() *recorder {
		w := newRecorder()
		h.ServeHTTP(w, s.request(http.MethodPost, "", eras[1], eras[1].call("1", "echo")))
		return w
	}
	if w := post(); w.status != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("status %d, header %v", w.status, w.Header())
	}
	h.posts.Release(1)
	for range 3 { // a place is given back
		if w := post(); w.status != http.StatusOK {
			t.Errorf("status %d: %s", w.status, w.body.Bytes())
		}
	}
	if !srv.bytes.TryAcquire(maxInFlightBytes) {
		t.Error("bytes were not given back")
	}
}

func TestHTTPSessionRefusesMoreThanTheLimitInFlight(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	of := srv.newSession("test")
	defer of.close()
	begin := func(id string) (*inFlight, int, error) {
		_, entry, code, err := of.begin(t.Context(), message{id: []byte(id), method: "ping"})
		return entry, code, err
	}
	var last *inFlight
	for i := range maxInFlightPerSession {
		entry, _, err := begin(fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		entry.finish()
		last = entry
	}
	if _, code, err := begin(`"over"`); err == nil || code != codeServerBusy {
		t.Errorf("code %d, error %v", code, err)
	}
	last.settle()
	entry, _, err := begin(`"room"`)
	if err != nil {
		t.Fatal(err)
	}
	entry.finish()
}

func TestSubscriptionsAreBounded(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	of := srv.newSession("test")
	defer of.close()
	for i := range maxSubscriptions {
		if err := of.SubscribeToResourceErr(fmt.Sprint("run://", i)); err != nil {
			t.Fatal(err)
		}
	}
	if of.SubscribeToResourceErr("run://over") == nil || of.IsSubscribedToResource("run://over") {
		t.Error("a subscription over the limit was taken")
	}
	of.UnsubscribeFromResource("run://0")
	if err := of.SubscribeToResourceErr("run://room"); err != nil {
		t.Error(err)
	}
}
