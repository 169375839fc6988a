package mcpserver

import (
	"errors"
	"net/http"
	"testing"
)

// As float64 these two are one number.
const bigID, nextBigID = "9007199254740992", "9007199254740993"

func cancellation(e era, id string) string {
	return `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":` + id + `,"_meta":` + e.meta("") + `}}`
}

// letGo lets the blocking call that is left return; it must not have been cancelled.
func letGo(t *testing.T, p *probes) {
	t.Helper()
	select {
	case p.release <- struct{}{}:
	case cause := <-p.canceled:
		t.Fatalf("a request that was not named was cancelled: %v", cause)
	}
}

func TestCancelEndsExactlyTheRequestThatItNames(t *testing.T) {
	t.Parallel()
	for _, e := range eras {
		for _, ids := range [][2]string{{bigID, nextBigID}, {nextBigID, bigID}} {
			client, p := startEra(t, e)
			named, other := ids[0], ids[1]
			for _, id := range ids {
				client.send(e.call(id, "block") + "\n")
				await(t, "the call to start", p.started)
			}
			client.send(cancellation(e, named) + "\n" + e.call("1", "echo") + "\n")
			if got := client.next(); got.ID != "1" || got.Result == nil {
				t.Errorf("%s: after the cancellation: %+v", e.name, got)
			}
			if cause := await(t, "the cancellation", p.canceled); !errors.Is(cause, errCancelledByClient) {
				t.Errorf("%s: cause %v", e.name, cause)
			}
			letGo(t, p)
			if got := client.next(); got.ID != other || got.Result == nil {
				t.Errorf("%s: the other call: %+v", e.name, got)
			}
		}
	}
}

func TestHTTPCancelEndsExactlyTheRequestThatItNames(t *testing.T) {
	t.Parallel()
	p := newProbes()
	srv, _ := newTestServer(t, p)
	s, client := startHTTP(t, srv, HTTPOptions{}), httpClient(t)
	session := s.login(client)
	answers := make(chan []incoming, 2)
	for _, id := range []string{bigID, nextBigID} {
		go func() {
			_, got := s.do(client, s.request(http.MethodPost, session, era{}, era{}.call(id, "block")))
			answers <- got
		}()
		await(t, "the call to start", p.started)
	}
	s.do(client, s.request(http.MethodPost, session, era{}, cancellation(era{}, bigID)))
	await(t, "the cancellation", p.canceled)
	if got := await(t, "the end of the cancelled request", answers); len(got) != 0 {
		t.Errorf("a cancelled request was answered: %+v", got)
	}
	letGo(t, p)
	if got := await(t, "the other answer", answers); len(got) != 1 || got[0].ID != nextBigID || got[0].Result == nil {
		t.Errorf("the other call: %+v", got)
	}
}
