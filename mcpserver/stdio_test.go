package mcpserver

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// startEra starts a conversation that is ready for calls of the era.
func startEra(t *testing.T, e era, change ...func(*Config)) (*peer, *probes) {
	t.Helper()
	p := newProbes()
	srv, _ := newTestServer(t, p, change...)
	client := startStdio(t, srv)
	if !e.modern {
		client.greet()
	}
	return client, p
}

func TestStdioNotificationsPrecedeTheAnswer(t *testing.T) {
	t.Parallel()
	for _, e := range eras {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			client, _ := startEra(t, e)
			for i := range 200 {
				client.send(e.call(fmt.Sprint(i), "notify") + "\n")
				for step := range 3 {
					if got := client.next(); got.Method != "notifications/progress" || got.Params["progress"] != float64(step) {
						t.Fatalf("call %d: message %d is %+v, want progress %d", i, step, got, step)
					}
				}
				if got := client.next(); got.ID != fmt.Sprint(i) || got.Result == nil {
					t.Fatalf("call %d: want its answer, got %+v", i, got)
				}
			}
		})
	}
}

func TestStdioCancelReachesAQueuedCall(t *testing.T) {
	t.Parallel()
	for _, e := range eras {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			client, p := startEra(t, e, func(c *Config) { c.MaxRunningCalls = 1 })
			client.send(e.call("1", "block") + "\n")
			await(t, "the first call to start", p.started)
			client.send(e.call("2", "block") + "\n")
			client.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}` + "\n")
			client.send(e.call("3", "block") + "\n")
			// When a later message is answered, the earlier ones have been read.
			client.send(e.call("4", "nosuch") + "\n")
			if got := client.next(); got.ID != "4" {
				t.Fatalf("first answer %+v, want that of call 4", got)
			}
			p.release <- struct{}{}
			await(t, "the third call to start", p.started)
			p.release <- struct{}{}
			_ = client.in.Close()
			var ids []string
			for _, answer := range client.rest() {
				ids = append(ids, answer.ID)
			}
			// The cancelled call never ran and is not answered. The slot is free before
			// the first answer is written, so the two may change places.
			slices.Sort(ids)
			if diff := cmp.Diff([]string{"1", "3"}, ids); diff != "" {
				t.Errorf("answered ids (-want +got):\n%s", diff)
			}
			if extra := len(p.started); extra != 0 {
				t.Errorf("%d more calls started", extra)
			}
		})
	}
}

func TestStdioCancelEndsARunningCall(t *testing.T) {
	t.Parallel()
	for _, e := range eras {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			client, p := startEra(t, e)
			client.send(e.call(`"a"`, "block") + "\n")
			await(t, "the call to start", p.started)
			client.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a"}}` + "\n")
			if cause := await(t, "the cancellation", p.canceled); !errors.Is(cause, errCancelledByClient) {
				t.Errorf("cause %v", cause)
			}
		})
	}
}

func TestStdioStaysResponsiveWhileManyCallsRun(t *testing.T) {
	t.Parallel()
	client, p := startEra(t, eras[0])
	const calls = 150 // more than mcp-go's pool of workers
	for i := range calls {
		client.send(eras[0].call(fmt.Sprint(i), "block") + "\n")
	}
	for range calls {
		await(t, "a call to start", p.started)
	}
	client.send(`{"jsonrpc":"2.0","id":"ping","method":"ping"}` + "\n")
	if got := client.next(); got.ID != `"ping"` {
		t.Errorf("first answer %+v, want the ping's", got)
	}
}

func TestStdioRefusesMoreThanTheLimitInFlight(t *testing.T) {
	t.Parallel()
	client, _ := startEra(t, eras[0], func(c *Config) { c.MaxRunningCalls = 1 })
	for i := range maxInFlightPerSession + 1 {
		client.send(eras[0].call(fmt.Sprint(i), "block") + "\n")
	}
	got := client.next()
	if got.ID != fmt.Sprint(maxInFlightPerSession) || got.Error == nil || got.Error.Code != codeServerBusy {
		t.Errorf("answer %+v, want a refusal of the last call", got)
	}
}

func TestStdioRefusesAnIDThatIsInUse(t *testing.T) {
	t.Parallel()
	client, p := startEra(t, eras[0])
	client.send(eras[0].call("1", "block") + "\n" + eras[0].call("1", "block") + "\n")
	if got := client.next(); got.ID != "1" || got.Error == nil || !strings.Contains(got.Error.Message, "in use") {
		t.Errorf("answer %+v, want a refusal", got)
	}
	p.release <- struct{}{}
	if got := client.next(); got.ID != "1" || got.Result == nil {
		t.Errorf("answer %+v, want the first call's result", got)
	}
	// An id is free again as soon as its answer was read.
	for range 100 {
		client.send(eras[0].call("1", "echo") + "\n")
		if got := client.next(); got.Result == nil {
			t.Fatalf("answer %+v, want a result", got)
		}
	}
}

func TestStdioAnswersCallsInFlightAtTheEndOfInput(t *testing.T) {
	t.Parallel()
	client, p := startEra(t, eras[0])
	client.send(eras[0].call("1", "block") + "\n")
	await(t, "the call to start", p.started)
	_ = client.in.Close()
	select { // that nothing happens can only be seen by waiting a little
	case cause := <-p.canceled:
		t.Fatalf("the call was cancelled at the end of input: %v", cause)
	case <-time.After(200 * time.Millisecond):
	}
	p.release <- struct{}{}
	got := client.rest()
	if len(got) != 1 || got[0].ID != "1" || got[0].Result == nil {
		t.Errorf("answers after the end of input: %+v", got)
	}
	if err := client.finish(); err != nil {
		t.Errorf("ServeStdio: %v", err)
	}
}

func TestStdioReadsALastLineWithoutNewline(t *testing.T) {
	t.Parallel()
	for range 100 { // what a script pipes in at once must never lose an answer
		srv, _ := newTestServer(t, newProbes())
		client := startStdio(t, srv)
		client.send(initialize + "\n" + `{"jsonrpc":"2.0","method":"notifications/initialized"}` + "\n" + eras[0].call("1", "notify"))
		_ = client.in.Close()
		got := client.rest()
		if len(got) != 5 || got[4].ID != "1" || got[4].Result == nil {
			t.Fatalf("messages %+v, want the handshake's answer, three notifications and an answer", got)
		}
	}
}

func TestStdioCancelsCallsThatOutlastTheEndOfInput(t *testing.T) {
	t.Parallel()
	p := newProbes()
	srv, _ := newTestServer(t, p)
	srv.timings.drainAtEOF = 50 * time.Millisecond
	client := startStdio(t, srv)
	client.greet()
	client.send(eras[0].call("1", "block") + "\n")
	await(t, "the call to start", p.started)
	_ = client.in.Close()
	if cause := await(t, "the cancellation", p.canceled); !errors.Is(cause, errSessionEnded) {
		t.Errorf("cause %v", cause)
	}
	if err := client.finish(); err != nil {
		t.Errorf("ServeStdio: %v", err)
	}
}

func TestStdioCancelsCallsWhenNobodyReadsAnymore(t *testing.T) {
	t.Parallel()
	client, p := startEra(t, eras[0])
	client.send(eras[0].call("1", "block") + "\n")
	await(t, "the call to start", p.started)
	_ = client.out.Close()
	_ = client.in.Close()
	await(t, "the cancellation", p.canceled)
	if err := client.finish(); err != nil {
		t.Errorf("ServeStdio: %v", err)
	}
}

func TestStdioEndsWithItsContext(t *testing.T) {
	t.Parallel()
	client, p := startEra(t, eras[0])
	client.send(eras[0].call("1", "block") + "\n")
	await(t, "the call to start", p.started)
	begin := time.Now()
	client.stop()
	if err := client.finish(); err != nil {
		t.Errorf("ServeStdio: %v", err)
	}
	await(t, "the cancellation", p.canceled)
	if took := time.Since(begin); took > drainAtEOF/2 {
		t.Errorf("took %v, as at the end of input; clients kill after two seconds", took)
	}
}

func TestStdioEndsWhenOutputBreaks(t *testing.T) {
	t.Parallel()
	client, _ := startEra(t, eras[0])
	_ = client.out.Close()
	client.send(eras[0].call("1", "echo") + "\n")
	if err := client.finish(); err != nil {
		t.Errorf("ServeStdio: %v", err)
	}
}

func TestStdioSkipsAnOversizedLineAndGoesOn(t *testing.T) {
	t.Parallel()
	const limit = 64 << 10
	tests := map[string]struct{ before, after, id string }{
		"id before":  {`{"jsonrpc":"2.0","id":12345678901234567890,"method":"tools/call","params":{"name":"echo","arguments":{"text":"`, `"}}}`, "12345678901234567890"},
		"id after":   {`{"jsonrpc":"2.0","method":"tools/call","params":{"name":"echo","id":1,"arguments":{"text":"`, `"}},"id":"last"}`, `"last"`},
		"no id":      {`{"jsonrpc":"2.0","method":"notifications/x","params":{"text":"`, `"}}`, "null"},
		"not closed": {`{"jsonrpc":"2.0","id":4,"params":"`, ``, "4"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, _ := startEra(t, eras[0], func(c *Config) { c.MaxMessageBytes = limit })
			client.send(test.before + strings.Repeat("x", 3*limit) + test.after + "\n")
			client.send(eras[0].call("2", "echo") + "\n")
			if got := client.next(); got.ID != test.id || got.Error == nil || !strings.Contains(got.Error.Message, "larger than 65536 bytes") {
				t.Errorf("answer to the oversized line: %+v", got)
			}
			if got := client.next(); got.ID != "2" || got.Result == nil {
				t.Errorf("answer to the next line: %+v", got)
			}
		})
	}
}

// Not parallel: it looks at the memory of the process.
func TestStdioMemoryIsBoundedByTheMessageLimit(t *testing.T) {
	client, _ := startEra(t, eras[0])
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	client.send(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"`)
	chunk := strings.Repeat("x", 1<<20)
	const sent = 32
	for range sent {
		client.send(chunk)
	}
	client.send("\"}}\n")
	if got := client.next(); got.ID != "1" || got.Error == nil {
		t.Fatalf("answer %+v", got)
	}
	runtime.ReadMemStats(&after)
	// What was allocated, garbage included: a buffer that grows to 4 MiB costs
	// about four times that.
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 24<<20 {
		t.Errorf("allocated %d MiB for a refused message of %d MiB", allocated>>20, sent)
	}
}

func TestStdioKeepsIDsExactly(t *testing.T) {
	t.Parallel()
	for _, e := range eras {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			client, _ := startEra(t, e)
			for _, id := range []string{"0", "-1", "9007199254740993", "123456789012345678901234567890", "1.50", "1e3", `""`, `"9007199254740993"`, `"ü<&>"`} {
				for tool, ok := range map[string]bool{"echo": true, "nosuch": false} {
					client.send(e.call(id, tool) + "\n")
					got := client.next()
					// json.Marshal escapes < and >; the string is the same.
					if want := strings.NewReplacer("<", `\u003c`, ">", `\u003e`, "&", `\u0026`).Replace(id); got.ID != id && got.ID != want {
						t.Errorf("id %s came back as %s", id, got.ID)
					}
					if (got.Result != nil) != ok {
						t.Errorf("tool %s: %+v", tool, got)
					}
				}
			}
		})
	}
}

func TestStdioSkipsEmptyLines(t *testing.T) {
	t.Parallel()
	client, _ := startEra(t, eras[0])
	client.send("\n  \r\n\t\n" + eras[0].call("1", "echo") + "\r\n")
	if got := client.next(); got.ID != "1" || got.Result == nil {
		t.Errorf("first answer %+v", got)
	}
}

func TestStdioLegacyCallsNeedInitialize(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	client := startStdio(t, srv)
	client.send(`{"jsonrpc":"2.0","id":1,"method":"ping"}` + "\n")
	if got := client.next(); got.Result == nil {
		t.Errorf("ping before initialize: %+v", got)
	}
	client.send(eras[1].call("2", "echo") + "\n")
	if got := client.next(); got.Result == nil {
		t.Errorf("modern call: %+v", got)
	}
	// A modern request is no handshake for the legacy era.
	client.send(eras[0].call("3", "echo") + "\n")
	if got := client.next(); got.Error == nil || got.Error.Code != -32600 || !strings.Contains(got.Error.Message, "send initialize first") {
		t.Errorf("legacy call before initialize: %+v", got)
	}
	client.greet()
	client.send(eras[0].call("4", "echo") + "\n")
	if got := client.next(); got.Result == nil {
		t.Errorf("legacy call after initialize: %+v", got)
	}
}

func TestPanicIsAnsweredWithoutInternalsAndLoggedWithStack(t *testing.T) {
	t.Parallel()
	for where, body := range map[string]string{
		"tool panic":     eras[1].call("1", "panic"),
		"resources/read": eras[1].read("1", "test://broken"),
	} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			srv, logs := newTestServer(t, newProbes())
			client := startStdio(t, srv)
			client.send(body + "\n")
			got := client.next()
			if got.ID != "1" || got.Error == nil || got.Error.Code != -32603 ||
				strings.Contains(got.Error.Message, "secret") || !strings.Contains(got.Error.Message, "incident") {
				t.Errorf("answer %+v", got)
			}
			entries := logs.FilterMessage("panic recovered").All()
			if len(entries) != 1 {
				t.Fatalf("%d log entries", len(entries))
			}
			fields := entries[0].ContextMap()
			stack, _ := fields["stack"].(string)
			if !strings.Contains(stack, "helpers_test.go") || fields["cause"] != "secret detail" || fields["where"] != where {
				t.Errorf("log entry %v", fields)
			}
			if !strings.Contains(got.Error.Message, fields["incident"].(string)) {
				t.Errorf("answer %q does not name incident %v", got.Error.Message, fields["incident"])
			}
		})
	}
}

func TestResultThatCannotBeEncodedIsAnswered(t *testing.T) {
	t.Parallel()
	client, _ := startEra(t, eras[0])
	client.send(eras[0].call("1", "unencodable") + "\n")
	if got := client.next(); got.ID != "1" || got.Error == nil || got.Error.Code != -32603 {
		t.Errorf("answer %+v", got)
	}
}

func TestStdioReportsAReadError(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	broken := io.MultiReader(strings.NewReader(""), errorReader{})
	if err := srv.ServeStdio(t.Context(), broken, io.Discard); !errors.Is(err, os.ErrPermission) {
		t.Errorf("error %v, want the reader's", err)
	}
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, os.ErrPermission }

func TestStdioSubscriptionGetsUpdatesWithItsID(t *testing.T) {
	t.Parallel()
	srv, _ := newTestServer(t, newProbes())
	client := startStdio(t, srv)
	const id = "9007199254740993"
	client.send(`{"jsonrpc":"2.0","id":` + id + `,"method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["test://broken"]},"_meta":` + eras[1].meta("") + `}}` + "\n")
	// Compared as it is written: as a float64 it would equal its neighbour.
	tagged := `"io.modelcontextprotocol/subscriptionId":` + id
	check := func(what string) {
		t.Helper()
		line, err := client.lines.ReadString('\n')
		if err != nil || !strings.Contains(line, what) || !strings.Contains(line, tagged) {
			t.Errorf("got %s (%v), want %s with the subscription's id", line, err, what)
		}
	}
	check("notifications/subscriptions/acknowledged")
	srv.ResourceUpdated("test://other")
	srv.ResourceUpdated("test://broken")
	check("notifications/resources/updated")
	// The stream ends with the input, and is answered.
	_ = client.in.Close()
	check(`"result":`)
	if rest := client.rest(); len(rest) != 0 {
		t.Errorf("after the end: %+v", rest)
	}
}

func TestStdioLegacySubscriptionGetsUpdates(t *testing.T) {
	t.Parallel()
	p := newProbes()
	srv, _ := newTestServer(t, p)
	client := startStdio(t, srv)
	client.greet()
	client.send(`{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"test://broken"}}` + "\n")
	if got := client.next(); got.Result == nil {
		t.Fatalf("subscribe: %+v", got)
	}
	srv.ResourceUpdated("test://broken")
	if got := client.next(); got.Method != "notifications/resources/updated" || got.Params["uri"] != "test://broken" {
		t.Errorf("got %+v", got)
	}
}
