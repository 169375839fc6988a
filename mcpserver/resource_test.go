package mcpserver

import (
	"net/http"
	"testing"
)

// asker sends a request on some transport and returns its answer.
type asker func(request string) incoming

// askers are the transports, each with a client of the era that has begun.
func askers(t *testing.T, srv *Server, e era) map[string]asker {
	t.Helper()
	stdio, site := startStdio(t, srv), startHTTP(t, srv, HTTPOptions{})
	sse, client := startSSE(t, site), httpClient(t)
	if !e.modern {
		stdio.greet()
		sse.greet()
	}
	session := loginFor(site, client, e)
	return map[string]asker{
		"stdio": func(request string) incoming {
			stdio.send(request + "\n")
			return stdio.next()
		},
		"sse": func(request string) incoming {
			sse.post(request)
			return sse.next()
		},
		"http": func(request string) incoming {
			status, got := site.do(client, site.request(http.MethodPost, session, e, request))
			if want := httpStatus(e, got[0]); status != want {
				t.Errorf("status %d, want %d", status, want)
			}
			return got[0]
		},
	}
}

// httpStatus is that of an answer to a read: the modern era shows what is wrong
// with a request to proxies too.
func httpStatus(e era, answer incoming) int {
	if e.modern && answer.Error != nil && answer.Error.Code == -32602 {
		return http.StatusBadRequest
	}
	return http.StatusOK
}

func TestResourceThatIsNotThereIsNotFound(t *testing.T) {
	t.Parallel()
	for _, e := range eras {
		srv, logs := newTestServer(t, newProbes())
		notFound := -32002
		if e.modern {
			notFound = -32602
		}
		for transport, ask := range askers(t, srv, e) {
			// What a handler does not find is answered as what no handler serves.
			for uri, code := range map[string]int{"run://gone": notFound, "other://gone": notFound, "run://unread": -32603} {
				got := ask(e.read("9007199254740993", uri))
				if got.ID != "9007199254740993" || got.Error == nil || got.Error.Code != code {
					t.Errorf("%s, %s: %s: %+v", e.name, transport, uri, got)
					continue
				}
				if uri == "run://gone" && (got.Error.Message != "read run: resource not found" || got.Error.Data["uri"] != uri) {
					t.Errorf("%s, %s: error %+v", e.name, transport, *got.Error)
				}
			}
		}
		// Only what failed for a reason of ours is for the log.
		for _, entry := range logs.FilterMessage("resource could not be read").All() {
			if entry.ContextMap()["uri"] != "run://unread" {
				t.Errorf("logged %v", entry.ContextMap())
			}
		}
		if n := logs.FilterMessage("resource could not be read").Len(); n != 3 {
			t.Errorf("%d reads were logged, want 3", n)
		}
	}
}
