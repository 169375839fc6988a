package mcpserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// loginFor returns the session that the era needs.
func loginFor(s *site, client *http.Client, e era) string {
	if e.modern {
		return ""
	}
	return s.login(client)
}

func TestHTTPNotificationsPrecedeTheAnswer(t *testing.T) {
	t.Parallel()
	for _, e := range eras {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			srv, _ := newTestServer(t, newProbes())
			s := startHTTP(t, srv, HTTPOptions{})
			client := httpClient(t)
			session := loginFor(s, client, e)
			if !e.modern {
				// With a GET stream open, notifications must stay with their request.
				listen(t, s, client, session)
			}
			for i := range 200 {
				status, got := s.do(client, s.request(http.MethodPost, session, e, e.call(fmt.Sprint(i), "notify")))
				if status != http.StatusOK || len(got) != 4 {
					t.Fatalf("call %d: status %d, messages %+v", i, status, got)
				}
				for step := range 3 {
					if got[step].Params["progress"] != float64(step) {
						t.Fatalf("call %d: message %d is %+v", i, step, got[step])
					}
				}
				if got[3].ID != fmt.Sprint(i) || got[3].Result == nil {
					t.Fatalf("call %d: answer %+v", i, got[3])
				}
			}
		})
	}
}

// listen opens the GET stream of a session and keeps it open for the test.
func listen(t *testing.T, s *site, client *http.Client, session string) *http.Response {
	t.Helper()
	response, err := client.Do(s.request(http.MethodGet, session, era{}, ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	if response.StatusCode != http.StatusOK {
		t.Fatalf("GET: status %d", response.StatusCode)
	}
	return response
}

func TestHTTPClientsCannotCancelEachOther(t *testing.T) {
	t.Parallel()
	for _, e := range eras {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			p := newProbes()
			srv, _ := newTestServer(t, p)
			s := startHTTP(t, srv, HTTPOptions{})
			victim, attacker := httpClient(t), httpClient(t)
			victimSession, attackerSession := loginFor(s, victim, e), loginFor(s, attacker, e)
			answer := make(chan incoming, 1)
			go func() {
				_, got := s.do(victim, s.request(http.MethodPost, victimSession, e, e.call("7", "block")))
				answer <- got[0]
			}()
			await(t, "the call to start", p.started)
			cancel := `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7,"_meta":` + e.meta("") + `}}`
			if status, _ := s.do(attacker, s.request(http.MethodPost, attackerSession, e, cancel)); status != http.StatusAccepted {
				t.Errorf("cancel by another client: status %d", status)
			}
			// The same id of another client is another request.
			if _, got := s.do(attacker, s.request(http.MethodPost, attackerSession, e, e.call("7", "echo"))); got[0].Result == nil {
				t.Errorf("same id by another client: %+v", got)
			}
			p.release <- struct{}{}
			if got := await(t, "the answer", answer); got.Result == nil {
				t.Errorf("the victim's answer: %+v", got)
			}
		})
	}
}

func TestHTTPLegacyCancelInTheSameSession(t *testing.T) {
	t.Parallel()
	p := newProbes()
	srv, _ := newTestServer(t, p)
	s := startHTTP(t, srv, HTTPOptions{})
	client := httpClient(t)
	session := s.login(client)
	status := make(chan int, 1)
	go func() {
		code, _ := s.do(client, s.request(http.MethodPost, session, era{}, eras[0].call("7", "block")))
		status <- code
	}()
	await(t, "the call to start", p.started)
	s.do(client, s.request(http.MethodPost, session, era{}, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}`))
	if cause := await(t, "the cancellation", p.canceled); !errors.Is(cause, errCancelledByClient) {
		t.Errorf("cause %v", cause)
	}
	if code := await(t, "the response", status); code != http.StatusAccepted {
		t.Errorf("cancelled request: status %d", code)
	}
}

func TestHTTPDisconnectCancelsTheCall(t *testing.T) {
	t.Parallel()
	for _, e := range eras {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			p := newProbes()
			srv, _ := newTestServer(t, p)
			s := startHTTP(t, srv, HTTPOptions{})
			client := httpClient(t)
			session := loginFor(s, client, e)
			ctx, disconnect := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = client.Do(s.request(http.MethodPost, session, e, e.call("7", "block")).WithContext(ctx))
			}()
			await(t, "the call to start", p.started)
			disconnect()
			await(t, "the cancellation", p.canceled)
			<-done
		})
	}
}

func TestHTTPSessions(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	s := startHTTP(t, srv, HTTPOptions{})
	client := httpClient(t)
	session, other := s.login(client), s.login(client)
	if session == other || len(session) < 26 { // 128 bits in base 32
		t.Fatalf("sessions %q and %q are not two that nobody can guess", session, other)
	}
	list := `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`
	post := func(session string) (int, incoming) {
		status, got := s.do(client, s.request(http.MethodPost, session, era{}, list))
		return status, got[0]
	}
	if status, got := post(session); status != http.StatusOK || got.Result == nil {
		t.Errorf("own session: status %d, %+v", status, got)
	}
	if status, got := post(""); status != http.StatusBadRequest || got.ID != "1" || !strings.Contains(got.Error.Message, "Mcp-Session-Id is missing") {
		t.Errorf("no session: status %d, %+v", status, got)
	}
	for name, id := range map[string]string{"invented": "0192f5c4-0000-7000-8000-000000000000", "changed": session + "x"} {
		if status, got := post(id); status != http.StatusNotFound || got.Error.Code != codeSessionNotFound || !strings.Contains(got.Error.Message, "initialize again") {
			t.Errorf("%s session: status %d, %+v", name, status, got)
		}
	}
	if status, _ := s.do(client, s.request(http.MethodDelete, session, era{}, "")); status != http.StatusNoContent {
		t.Errorf("DELETE: status %d", status)
	}
	for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete} {
		if status, _ := s.do(client, s.request(method, session, era{}, list)); status != http.StatusNotFound {
			t.Errorf("%s with a session that has ended: status %d", method, status)
		}
	}
	if status, got := post(other); status != http.StatusOK || got.Result == nil {
		t.Errorf("the other session: status %d, %+v", status, got)
	}
}

func TestHTTPFailedInitializeLeavesNoSession(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	handler, err := srv.newHTTPHandler(HTTPOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer handler.close()
	s := startHTTP(t, srv, HTTPOptions{})
	r := s.request(http.MethodPost, "", era{}, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":7}}`)
	w := newRecorder()
	handler.ServeHTTP(w, r)
	if got := decode(t, w.body.Bytes()); got.Error == nil {
		t.Errorf("answer %+v, want an error", got)
	}
	if n := handler.sessions.count(); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

func TestSessionTableExpiresUnusedSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := newTestServer(t, newProbes())
		table := newSessionTable(time.Hour, 10)
		idle, used, held := table.add(srv.newSession("http")), table.add(srv.newSession("http")), table.add(srv.newSession("http"))
		table.leave(idle)
		table.leave(used)
		for range 3 {
			time.Sleep(40 * time.Minute)
			if table.use(used.publicID) == nil {
				t.Fatal("a session in use has expired")
			}
			table.leave(used)
		}
		if table.use(idle.publicID) != nil {
			t.Error("an unused session did not expire")
		}
		if table.use(held.publicID) == nil {
			t.Error("a session with an open request has expired")
		}
		select {
		case <-idle.ended:
		default:
			t.Error("the expired session was not closed")
		}
		table.close()
	})
}

func TestSessionTableMakesRoomAtItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := newTestServer(t, newProbes())
		table := newSessionTable(time.Hour, 2)
		older, newer := table.add(srv.newSession("http")), table.add(srv.newSession("http"))
		table.leave(older)
		time.Sleep(time.Second)
		table.leave(newer)
		third := table.add(srv.newSession("http"))
		if third == nil || table.use(older.publicID) != nil || table.use(newer.publicID) == nil {
			t.Error("the session that was unused for longest did not make room")
		}
		if table.add(srv.newSession("http")) != nil {
			t.Error("a session was added while all others are in use")
		}
		table.close()
	})
}

func TestHTTPGetStreamCarriesUpdatesAndIsTakenOver(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	s := startHTTP(t, srv, HTTPOptions{})
	client := httpClient(t)
	session := s.login(client)
	first := listen(t, s, client, session)
	second := listen(t, s, client, session)
	if rest, err := io.ReadAll(first.Body); err != nil || len(rest) != 0 {
		t.Errorf("the first stream: %q, %v; want its end", rest, err)
	}
	s.do(client, s.request(http.MethodPost, session, era{}, `{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"test://broken"}}`))
	srv.ResourceUpdated("test://broken")
	lines := bufio.NewScanner(second.Body)
	lines.Scan() // event: message
	lines.Scan()
	if got := s.messages("text/event-stream", lines.Bytes()); len(got) != 1 || got[0].Method != "notifications/resources/updated" {
		t.Errorf("on the second stream: %q", lines.Text())
	}
	s.do(client, s.request(http.MethodDelete, session, era{}, ""))
	for lines.Scan() { // returns at the stream's end, which DELETE brings
	}
}

func TestHTTPAcceptHeaderChoosesTheResponse(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	s := startHTTP(t, srv, HTTPOptions{})
	client := httpClient(t)
	tests := map[string]struct {
		accept   string
		tool     string
		status   int
		kind     string
		messages int
	}{
		"both":             {"application/json, text/event-stream", "echo", 200, "application/json", 1},
		"both, notifies":   {"application/json, text/event-stream", "notify", 200, "text/event-stream", 4},
		"anything":         {"*/*", "notify", 200, "text/event-stream", 4},
		"json only":        {"application/json", "notify", 200, "application/json", 1},
		"events only":      {"text/event-stream", "echo", 200, "text/event-stream", 1},
		"json refused":     {"application/json;q=0, text/event-stream", "echo", 200, "text/event-stream", 1},
		"neither":          {"text/html", "echo", 406, "application/json", 1},
		"weights":          {"text/event-stream;q=0.5, application/json;q=0.9", "echo", 200, "application/json", 1},
		"broken and valid": {";;;, application/json", "echo", 200, "application/json", 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			response, err := client.Do(s.request(http.MethodPost, "", eras[1], eras[1].call("1", test.tool), "Accept", test.accept))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = response.Body.Close() }()
			body, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			kind := response.Header.Get("Content-Type")
			got := []any{response.StatusCode, kind, len(s.messages(kind, body))}
			if diff := cmp.Diff([]any{test.status, test.kind, test.messages}, got); diff != "" {
				t.Errorf("status, content type, messages (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHTTPRefusesBadRequests(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	s := startHTTP(t, srv, HTTPOptions{MaxBodyBytes: 10_000})
	client := httpClient(t)
	session := s.login(client)
	large := `{"jsonrpc":"2.0","id":12,"method":"tools/call","params":{"name":"` + strings.Repeat("x", 10_000) + `"}}`
	tests := map[string]struct {
		request *http.Request
		status  int
		id      string
		code    int
	}{
		"content type":     {s.request("POST", session, era{}, `{}`, "Content-Type", "text/plain"), 415, "null", -32600},
		"not JSON":         {s.request("POST", session, era{}, `{`), 400, "null", -32700},
		"batch":            {s.request("POST", session, era{}, `[]`), 400, "null", -32600},
		"null id":          {s.request("POST", session, era{}, `{"jsonrpc":"2.0","id":null,"method":"ping"}`), 400, "null", -32600},
		"too large":        {s.request("POST", session, era{}, large), 413, "12", -32600},
		"stray response":   {s.request("POST", session, era{}, `{"jsonrpc":"2.0","id":99,"result":{}}`), 400, "null", -32600},
		"unknown version":  {s.request("POST", session, era{}, `{"jsonrpc":"2.0","id":3,"method":"ping"}`, "Mcp-Protocol-Version", "1999-01-01"), 400, "3", -32600},
		"put":              {s.request("PUT", session, era{}, `{}`), 405, "null", -32600},
		"modern get":       {s.request("GET", "", eras[1], ``), 405, "null", -32600},
		"modern delete":    {s.request("DELETE", "", eras[1], ``), 405, "null", -32600},
		"wrong name":       {s.request("POST", "", eras[1], eras[1].call("4", "echo"), "Mcp-Name", "block"), 400, "4", -32020},
		"wrong method":     {s.request("POST", "", eras[1], eras[1].call("4", "echo"), "Mcp-Method", "ping"), 400, "4", -32020},
		"versions differ":  {s.request("POST", "", eras[1], eras[1].call("4", "echo"), "Mcp-Protocol-Version", "2025-11-25"), 400, "4", -32020},
		"resumed":          {s.request("POST", "", eras[1], eras[1].call("4", "echo"), "Last-Event-Id", "1"), 400, "4", -32020},
		"no version":       {s.request("POST", "", eras[1], eras[0].call("4", "echo")), 400, "4", -32602},
		"modern response":  {s.request("POST", "", eras[1], `{"jsonrpc":"2.0","id":1,"result":{}}`), 400, "1", -32600},
		"unknown method":   {s.request("POST", "", eras[1], `{"jsonrpc":"2.0","id":5,"method":"no/such","params":{"_meta":`+eras[1].meta("")+`}}`), 404, "5", -32601},
		"listen, no type":  {s.request("GET", session, era{}, ``, "Accept", "application/json"), 406, "null", -32600},
		"unknown sse":      {newRequest(t, "POST", s.url+"/message?sessionId=nope", `{}`), 404, "null", codeSessionNotFound},
		"post to sse":      {newRequest(t, "POST", s.url+"/sse", `{}`), 405, "null", -32600},
		"get message":      {newRequest(t, "GET", s.url+"/message", ``), 405, "null", -32600},
		"delete healthz":   {newRequest(t, "DELETE", s.url+"/healthz", ``), 405, "null", -32600},
		"future version":   {s.request("POST", "", eras[1], strings.ReplaceAll(eras[1].call("4", "echo"), "2026-07-28", "2999-01-01"), "Mcp-Protocol-Version", "2999-01-01"), 400, "4", -32022},
		"too deep for ids": {s.request("POST", "", eras[1], strings.Repeat("[", 9000)), 400, "null", -32700},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			status, got := s.do(client, test.request)
			if len(got) != 1 || got[0].Error == nil {
				t.Fatalf("status %d, messages %+v", status, got)
			}
			if diff := cmp.Diff([]any{test.status, test.id, test.code}, []any{status, got[0].ID, got[0].Error.Code}); diff != "" {
				t.Errorf("status, id, code (-want +got):\n%s\n%s", diff, got[0].Error.Message)
			}
		})
	}
}

func newRequest(t *testing.T, method, url, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	return r
}

func TestHTTPKeepsIDsExactly(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	s := startHTTP(t, srv, HTTPOptions{})
	client := httpClient(t)
	for _, e := range eras {
		session := loginFor(s, client, e)
		for _, tool := range []string{"echo", "notify"} {
			_, got := s.do(client, s.request(http.MethodPost, session, e, e.call("9007199254740993", tool)))
			if last := got[len(got)-1]; last.ID != "9007199254740993" || last.Result == nil {
				t.Errorf("%s %s: %+v", e.name, tool, last)
			}
		}
	}
}
