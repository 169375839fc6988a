package proxy

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// cloud is what stands behind a provider: a stored grant, AWS, and a clock.
type cloud struct {
	mu      sync.Mutex
	at      time.Time
	version string
	revoked bool
	fails   error
	begun   int
	hold    chan struct{} // if there is one, sessions wait for its end
	waiting chan struct{} // gets one for each session that waits
	life    time.Duration
}

func newCloud() *cloud {
	return &cloud{at: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), version: "1", life: time.Hour, waiting: make(chan struct{}, 16)}
}

func (c *cloud) provider() *AWSCredentialProvider {
	return NewAWSCredentialProvider(AWSOptions{
		Grant: "aws", Token: "t0ken", RoleARN: "arn:aws:iam::123456789012:role/agents", Region: "eu-central-1", SessionName: "drawbridge-run_1", SessionDuration: c.life,
		Role: c.role, Now: c.now,
	})
}

func (c *cloud) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *cloud) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

func (c *cloud) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.begun
}

func (c *cloud) role(context.Context) (AWSRole, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.revoked {
		return AWSRole{}, &AWSError{Status: http.StatusForbidden, Code: "revoked", Message: "the grant aws was revoked", IsRefused: true}
	}
	return AWSRole{Version: c.version, Assume: c.assume}, nil
}

func (c *cloud) assume(ctx context.Context) (AWSCredentials, error) {
	c.mu.Lock()
	c.begun++
	n, hold, fails, end := c.begun, c.hold, c.fails, c.at.Add(c.life)
	c.mu.Unlock()
	if hold != nil {
		c.waiting <- struct{}{}
		select {
		case <-hold:
		case <-ctx.Done():
			return AWSCredentials{}, ctx.Err()
		}
	}
	if fails != nil {
		return AWSCredentials{}, fails
	}
	return AWSCredentials{
		AccessKeyID: fmt.Sprintf("ASIA%d", n), SecretAccessKey: credential.NewSecret(fmt.Sprintf("s3cret/Key+0123456789-%d", n)),
		SessionToken: credential.NewSecret(fmt.Sprintf("T0ken//abcdefghijklmnop+qrs==%d", n)), Expires: end,
	}, nil
}

func (c *cloud) expect(t *testing.T, p *AWSCredentialProvider, what, id string, calls int) {
	t.Helper()
	got, err := p.Credentials(t.Context())
	if err != nil || got.AccessKeyID != id || c.count() != calls {
		t.Errorf("%s: got %s and %v after %d calls, want %s after %d", what, got.AccessKeyID, err, c.count(), id, calls)
	}
}

func TestCredentialsAreKeptAndReplacedBeforeTheyExpire(t *testing.T) {
	t.Parallel()
	for life, fresh := range map[time.Duration]time.Duration{time.Hour: 40 * time.Minute, 15 * time.Minute: 7*time.Minute + 30*time.Second} {
		c := newCloud()
		c.life = life
		p := c.provider()
		c.expect(t, p, "first", "ASIA1", 1)
		c.expect(t, p, "again", "ASIA1", 1)
		c.set(func() { c.at = c.at.Add(fresh - time.Second) })
		c.expect(t, p, "while there is time", "ASIA1", 1)
		c.set(func() { c.at = c.at.Add(time.Second) })
		c.expect(t, p, "near the end", "ASIA2", 2)
		c.expect(t, p, "then", "ASIA2", 2)
	}
}

func TestFailureIsAnsweredWithWhatStillLasts(t *testing.T) {
	t.Parallel()
	c := newCloud()
	p := c.provider()
	c.expect(t, p, "first", "ASIA1", 1)
	down := errors.New("down")
	c.set(func() { c.at, c.fails = c.at.Add(45*time.Minute), down })
	c.expect(t, p, "after a failure", "ASIA1", 2)
	c.expect(t, p, "soon after", "ASIA1", 2)
	c.set(func() { c.at = c.at.Add(failurePause) })
	c.expect(t, p, "later", "ASIA1", 3)
	c.set(func() { c.at = c.at.Add(14*time.Minute + time.Second) }) // less than a minute is left
	for range 2 {
		if got, err := p.Credentials(t.Context()); !errors.Is(err, down) || got.AccessKeyID != "" || c.count() != 4 {
			t.Errorf("at the end: %+v, %v after %d calls", got, err, c.count())
		}
	}
	c.set(func() { c.at, c.fails = c.at.Add(failurePause), nil })
	c.expect(t, p, "when it is up again", "ASIA5", 5)
}

// A clock that is far ahead does not make each question one to AWS.
func TestCredentialsThatHaveExpiredAreAFailure(t *testing.T) {
	t.Parallel()
	c := newCloud()
	p := c.provider()
	c.life = leastLeft - time.Second
	for range 2 {
		got, err := p.Credentials(t.Context())
		if why, ok := errors.AsType[*AWSError](err); !ok || why.Code != "clock_skew" || got.AccessKeyID != "" || c.count() != 1 {
			t.Errorf("got %+v, %v after %d calls", got, err, c.count())
		}
	}
}

func TestCallersAtTheSameTimeShareOneCall(t *testing.T) {
	t.Parallel()
	c := newCloud()
	c.hold = make(chan struct{})
	p := c.provider()
	const callers = 32
	ids := make(chan string, callers)
	ask := func() {
		got, err := p.Credentials(t.Context())
		ids <- fmt.Sprint(got.AccessKeyID, err)
	}
	go ask()
	<-c.waiting
	for range callers - 1 {
		go ask()
	}
	close(c.hold) // some wait for the call now, others come after it
	for range callers {
		if id := <-ids; id != "ASIA1<nil>" {
			t.Errorf("got %s", id)
		}
	}
	if c.count() != 1 {
		t.Errorf("%d calls", c.count())
	}
}

// A caller that is gone leaves no failure to those who have waited with it.
func TestCallerThatIsGoneCostsTheOthersNothing(t *testing.T) {
	t.Parallel()
	c := newCloud()
	c.hold = make(chan struct{})
	p := c.provider()
	ctx, leave := context.WithCancel(t.Context())
	first, second := make(chan error), make(chan string)
	go func() {
		_, err := p.Credentials(ctx)
		first <- err
	}()
	<-c.waiting
	go func() {
		got, err := p.Credentials(t.Context())
		second <- fmt.Sprint(got.AccessKeyID, err)
	}()
	leave()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the one who left got %v", err)
	}
	<-c.waiting
	close(c.hold)
	if got := <-second; got != "ASIA2<nil>" {
		t.Errorf("the other one got %s", got)
	}
}

// Each hand-out asks for the grant as it is stored.
func TestRevokedAndReplacedGrantsCountAtOnce(t *testing.T) {
	t.Parallel()
	c := newCloud()
	p := c.provider()
	c.expect(t, p, "first", "ASIA1", 1)
	c.set(func() { c.version = "2" })
	c.expect(t, p, "after another `grant aws`", "ASIA2", 2)
	c.set(func() { c.version, c.fails = "3", errors.New("denied") })
	if got, err := p.Credentials(t.Context()); err == nil {
		t.Errorf("what another grant got is handed out: %+v", got)
	}
	c.set(func() { c.version, c.fails = "4", nil })
	c.expect(t, p, "a failure of another grant", "ASIA4", 4)
	c.set(func() { c.revoked = true })
	if got, err := p.Credentials(t.Context()); err == nil || c.count() != 4 {
		t.Errorf("revoked: %+v, %v", got, err)
	}
	c.set(func() { c.revoked = false })
	c.expect(t, p, "granted anew", "ASIA5", 5)
}

func TestProviderOfASnapshotHasNoCredentials(t *testing.T) {
	t.Parallel()
	if got, err := (&AWSCredentialProvider{RoleARN: "arn"}).Credentials(t.Context()); err == nil || got != (AWSCredentials{}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// askAWS asks the gate itself, as an SDK does.
func (w *world) askAWS(method, path, token string) (*http.Response, string) {
	w.t.Helper()
	conn := w.dial(w.run.Token)
	defer conn.Close()
	authorization := ""
	if token != "" {
		authorization = "Authorization: " + token + "\r\n"
	}
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:3128\r\n%s\r\n", method, path, authorization)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp, string(content)
}

func TestSandboxAsksTheGateForCredentials(t *testing.T) {
	t.Parallel()
	c := newCloud()
	w := newWorld(t, policy.Strict)
	w.run.AWS = c.provider()
	resp, content := w.askAWS("GET", AWSPath, "t0ken")
	var got map[string]string
	if err := json.Unmarshal([]byte(content), &got); err != nil {
		t.Fatalf("%v in %q", err, content)
	}
	want := map[string]string{
		"AccessKeyId": "ASIA1", "SecretAccessKey": "s3cret/Key+0123456789-1", "Token": "T0ken//abcdefghijklmnop+qrs==1",
		"Expiration": "2030-01-02T04:04:05Z", "RoleArn": "arn:aws:iam::123456789012:role/agents",
	}
	if diff := cmp.Diff(want, got); diff != "" || resp.StatusCode != http.StatusOK || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v (-want +got)\n%s", resp.Header, diff)
	}
	e := w.entry(0)
	if e.Kind != KindCredentials || e.Decision != Allowed || e.Grant != "aws" || e.Status != 200 || e.Path != AWSPath || e.Method != "GET" || e.Received == 0 || e.Error != "" {
		t.Errorf("recorded %+v", e)
	}
}

func TestGateRefusesWhatIsNoRequestForCredentials(t *testing.T) {
	t.Parallel()
	c := newCloud()
	w := newWorld(t, policy.Permissive)
	w.run.AWS = c.provider()
	other := newCloud().provider()
	other.token = "of another run"
	for _, test := range []struct {
		method, path, token string
		status              int
		code                string
	}{
		{"GET", AWSPath, "", 401, codeToken},
		{"GET", AWSPath, "t0ke", 401, codeToken},
		{"GET", AWSPath, "Bearer t0ken", 401, codeToken},
		{"GET", AWSPath, other.token, 401, codeToken},
		{"GET", AWSPath, "t0ken\r\nAuthorization: t0ken", 401, codeToken},
		{"POST", AWSPath, "t0ken", 405, codeBadRequest},
		{"DELETE", AWSPath, "t0ken", 405, codeBadRequest},
		{"GET", AWSPath + "/", "t0ken", 404, codeNotFound},
		{"GET", AWSPath + "?x", "t0ken", 404, codeNotFound},
		{"GET", "/aws/", "t0ken", 404, codeNotFound},
		{"GET", "/aws/%63redentials", "t0ken", 404, codeNotFound},
		{"GET", "/aws/../aws/credentials", "t0ken", 404, codeNotFound},
		{"GET", "/", "t0ken", 400, codeBadRequest},
		{"GET", "//aws/credentials", "t0ken", 400, codeBadRequest},
		{"GET", "http://127.0.0.1:3128" + AWSPath, "t0ken", 403, codePolicy}, // it is a request to another
	} {
		before := w.count()
		resp, content := w.askAWS(test.method, test.path, test.token)
		if code := resp.Header.Get("X-Drawbridge-Refused"); resp.StatusCode != test.status || code != test.code || strings.Contains(content, "ASIA") {
			t.Errorf("%s %s with %q got %d %s: %s", test.method, test.path, test.token, resp.StatusCode, code, content)
		}
		if e := w.entry(before); e.Decision != Refused || e.Status != test.status || e.Grant != "" || e.Error == "" && e.Rule == "" {
			t.Errorf("%s %s with %q is recorded as %+v", test.method, test.path, test.token, e)
		}
	}
	if c.count() != 0 {
		t.Errorf("AWS was asked %d times", c.count())
	}
}

// count is how many entries there are.
func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.entries)
}

func TestRunWithoutAGrantForAWSHasNoCredentials(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	for _, token := range []string{"", "t0ken"} {
		resp, content := w.askAWS("GET", AWSPath, token)
		if resp.StatusCode != http.StatusNotFound || !strings.Contains(content, "the run has no grant for AWS") {
			t.Errorf("got %d, %s", resp.StatusCode, content)
		}
	}
}

// Whoever has no token of the guest's does not get so far.
func TestCredentialsNeedTheGuestOfTheRun(t *testing.T) {
	t.Parallel()
	c := newCloud()
	w := newWorld(t, policy.Strict)
	w.run.AWS = c.provider()
	conn := w.dial("another")
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: t0ken\r\n\r\n", AWSPath)
	resp, why := readAnswer(t, bufio.NewReader(conn))
	if resp.StatusCode != http.StatusProxyAuthRequired || why.Code != codeIdentity || c.count() != 0 {
		t.Errorf("got %d %+v", resp.StatusCode, why)
	}
}

func TestWhatKeepsCredentialsAwayIsToldAndRecorded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change   func(*cloud)
		status   int
		decision string
		want     string
	}{
		"revoked": {func(c *cloud) { c.revoked = true }, 403, Refused, "the grant aws was revoked"},
		"denied":  {func(c *cloud) { c.fails = &AWSError{Status: 403, Code: "AccessDenied", Message: "AWS does not let it"} }, 403, Allowed, "AccessDenied"},
		"down":    {func(c *cloud) { c.fails = errors.New("s3cr3t") }, 503, Allowed, "no credentials for AWS at the moment"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCloud()
			test.change(c)
			w := newWorld(t, policy.Strict)
			w.run.AWS = c.provider()
			resp, content := w.askAWS("GET", AWSPath, "t0ken")
			var why struct{ Code, Message string } // as SDKs read it
			if err := json.Unmarshal([]byte(content), &why); err != nil || why.Code == "" || why.Message == "" {
				t.Errorf("%q: %v", content, err)
			}
			if resp.StatusCode != test.status || !strings.Contains(content, test.want) || strings.Contains(content, "s3cr3t") {
				t.Errorf("got %d: %s", resp.StatusCode, content)
			}
			if e := w.entry(0); e.Kind != KindCredentials || e.Decision != test.decision || e.Grant != "" || e.Error != why.Message {
				t.Errorf("recorded %+v", e)
			}
		})
	}
}

func TestCredentialsAreNotHandedOutWithoutARecord(t *testing.T) {
	t.Parallel()
	c := newCloud()
	w := newWorld(t, policy.Strict)
	w.run.AWS, w.run.CanRecord = c.provider(), func() error { return errors.New("the disk is full") }
	resp, content := w.askAWS("GET", AWSPath, "t0ken")
	if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(content, codeUnrecorded) || c.count() != 0 {
		t.Errorf("got %d: %s after %d calls", resp.StatusCode, content, c.count())
	}
	if e := w.entry(0); e.Decision != Refused || e.Grant != "" {
		t.Errorf("recorded %+v", e)
	}
}

// What was handed out is not written down, also after it was replaced.
func TestCredentialsAreNotInTheRecord(t *testing.T) {
	t.Parallel()
	c := newCloud()
	w := newWorld(t, policy.Strict)
	w.run.AWS = c.provider()
	for n := range 2 {
		w.askAWS("GET", AWSPath, "t0ken")
		c.set(func() { c.at = c.at.Add(45 * time.Minute) })
		if c.count() != n+1 {
			t.Fatalf("%d calls", c.count())
		}
	}
	c.set(func() { c.at = c.at.Add(-40 * time.Minute) })
	for n := range 2 {
		token, key := fmt.Sprintf("T0ken//abcdefghijklmnop+qrs==%d", n+1), fmt.Sprintf("s3cret/Key+0123456789-%d", n+1)
		for _, form := range []string{url.PathEscape(token), url.QueryEscape(key), key, base64.RawURLEncoding.EncodeToString([]byte(token))} {
			before := w.count()
			w.raw("GET http://other.test/" + form + "/x HTTP/1.1\r\n\r\n")
			if e := w.entry(before); !strings.HasSuffix(e.Path, "/x") || !strings.Contains(e.Path, "***") || strings.Contains(e.Path, form) {
				t.Errorf("recorded %q", e.Path)
			}
		}
	}
}
