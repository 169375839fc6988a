package daemon

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/access/awsrole"
	"github.com/drawbridge-mcp/drawbridge/manager/access/awsrole/ststest"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
)

const testRole = "arn:aws:iam::123456789012:role/agents"

func (w *world) credentials() *credential.Store {
	w.Helper()
	store, err := credential.Open(credential.Dir(w.home), credential.Options{Backend: credential.BackendFile})
	if err != nil {
		w.Fatal(err)
	}
	return store
}

// storeAWS stores a grant whose sessions are begun at a server.
func (w *world) storeAWS(name string, s *ststest.Server, change ...func(map[string]string)) {
	w.Helper()
	fields := map[string]string{awsrole.FieldRole: testRole, awsrole.FieldRegion: "eu-central-1", awsrole.FieldEndpoint: s.URL}
	for _, c := range change {
		c(fields)
	}
	g, err := awsrole.New(name, fields, awsrole.Keys{AccessKeyID: credential.NewSecret(ststest.AccessKeyID), SecretAccessKey: credential.NewSecret(ststest.SecretAccessKey)})
	if err == nil {
		err = w.credentials().Put(w.Context(), g.Credential(credential.SourceStdin))
	}
	if err != nil {
		w.Fatal(err)
	}
}

// newAWSWorld is a home whose daemons trust the server.
func newAWSWorld(t *testing.T, s *ststest.Server) *world {
	w := newWorld(t, stays)
	w.client.Close()
	w.client = NewClient(w.home, []string{"/usr/bin/env", rootsVariable + "=" + s.File, os.Args[0], asDaemon, w.home, stays})
	return w
}

// valueOf is that of a variable of a sandbox.
func valueOf(env []string, name string) string {
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

// askAWS asks a run's gate for credentials, and returns the key that it gets.
func (w *world) askAWS(r RegisterRequest, guest, token string) (status int, key string) {
	w.Helper()
	conn, err := dial(w.Context(), filepath.Join(r.GateDir, SocketFile))
	if err != nil {
		w.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(conn, "%sGET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\n\r\n", proxy.Preamble(guest), proxy.AWSPath, SandboxGate, token)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	var got struct{ AccessKeyID string }
	if err == nil {
		err = json.Unmarshal(content, &got)
	}
	if err != nil {
		w.Fatalf("%v in %q", err, content)
	}
	return resp.StatusCode, got.AccessKeyID
}

const tokenVariable = "AWS_CONTAINER_AUTHORIZATION_TOKEN"

// A run gets credentials by its own token at its own socket; the daemon may be killed
// in between.
func TestRunWithAGrantForAWSGetsCredentials(t *testing.T) {
	t.Parallel()
	s := ststest.Start(t)
	w := newAWSWorld(t, s)
	w.storeAWS("aws", s)
	first, second := w.request(1), w.request(2)
	first.Grants, second.Grants = []string{"aws"}, []string{"aws"}
	one, two := w.register(first), w.register(second)
	want := &AWSRole{RoleARN: testRole, Region: "eu-central-1", SessionName: "drawbridge-run_000000000001", Duration: awsrole.DefaultDuration}
	if diff := cmp.Diff(want, one.AWS); diff != "" {
		t.Errorf("registered (-want +got)\n%s", diff)
	}
	for name, want := range map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:3128/aws/credentials", "AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "eu-central-1"} {
		if got := valueOf(one.Env, name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	token, other := valueOf(one.Env, tokenVariable), valueOf(two.Env, tokenVariable)
	if len(token) != 64 || token == other || strings.Contains(strings.Join(one.Env, " "), one.Token) {
		t.Errorf("the sandboxes get %v and %v", one.Env, two.Env)
	}
	for _, end := range []syscall.Signal{0, syscall.SIGKILL, syscall.SIGTERM} {
		if end != 0 {
			w.kill(end)
			first.Token = one.Token
			if again := w.register(first); !slices.Equal(again.Env, one.Env) {
				t.Errorf("after %v the sandbox would get %v, not %v", end, again.Env, one.Env)
			}
		}
		for range 2 {
			if status, key := w.askAWS(first, one.Token, token); status != 200 || key != s.Sessions()[len(s.Sessions())-1].ID {
				t.Errorf("after %v got %d and %q", end, status, key)
			}
		}
		for what, bad := range map[string]string{"no token": "", "that of another run": other, "that of the guest": one.Token} {
			if status, key := w.askAWS(first, one.Token, bad); status != 401 || key != "" {
				t.Errorf("%s after %v: got %d and %q", what, end, status, key)
			}
		}
		if status, _ := w.askAWS(second, one.Token, other); status != 407 {
			t.Errorf("the socket of another run: got %d", status)
		}
	}
	// One session for each daemon: the run asked twice.
	var names []string
	for _, c := range s.Calls() {
		names = append(names, c.SessionName)
	}
	if diff := cmp.Diff(slices.Repeat([]string{"drawbridge-run_000000000001"}, 3), names); diff != "" {
		t.Errorf("sessions (-want +got)\n%s", diff)
	}
	text := fmt.Sprintf("%+v", w.entries(first))
	for _, session := range s.Sessions() {
		if strings.Contains(text, session.Secret) || strings.Contains(text, session.Token) || strings.Contains(text, token) {
			t.Errorf("recorded %s", text)
		}
	}
	if n := strings.Count(text, "Grant:aws"); n != 6 {
		t.Errorf("%d hand-outs are recorded: %s", n, text)
	}
}

func TestRevokedGrantForAWSIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	s := ststest.Start(t)
	w := newAWSWorld(t, s)
	w.storeAWS("aws:prod", s)
	r := w.request(1)
	r.Grants = []string{"aws:prod"}
	got := w.register(r)
	token := valueOf(got.Env, tokenVariable)
	if status, key := w.askAWS(r, got.Token, token); status != 200 || key == "" {
		t.Fatalf("got %d and %q", status, key)
	}
	if err := w.credentials().Delete(t.Context(), "aws:prod"); err != nil {
		t.Fatal(err)
	}
	if status, key := w.askAWS(r, got.Token, token); status != 403 || key != "" {
		t.Errorf("revoked: got %d and %q", status, key)
	}
	entries := w.entries(r)
	if e := entries[len(entries)-1]; e.Decision != proxy.Refused || !strings.Contains(e.Error, "revoked") {
		t.Errorf("recorded %+v", e)
	}
	w.storeAWS("aws:prod", s)
	if status, key := w.askAWS(r, got.Token, token); status != 200 || key != s.Sessions()[1].ID {
		t.Errorf("granted anew: got %d and %q", status, key)
	}
	// What AWS refuses is told as AWS says it, without its words.
	s.Answer(ststest.Fail(403, "AccessDenied", "User: arn:aws:iam::1:user/me"))
	w.storeAWS("aws:prod", s)
	if status, _ := w.askAWS(r, got.Token, token); status != 403 {
		t.Errorf("denied: got %d", status)
	}
	entries = w.entries(r)
	if e := entries[len(entries)-1]; e.Decision != proxy.Allowed || !strings.Contains(e.Error, "AccessDenied") || strings.Contains(e.Error, "user/me") {
		t.Errorf("recorded %+v", e)
	}
}

// The hosts of the grant are reachable by HTTPS, others are not, and rules of the run's
// own stay the whole of it where they are about requests.
func TestHostsOfAGrantForAWS(t *testing.T) {
	t.Parallel()
	g, err := awsrole.New("aws", map[string]string{awsrole.FieldRole: testRole, awsrole.FieldRegion: "eu-central-1", awsrole.FieldHosts: "s3.eu-central-1.amazonaws.com *.eu-central-1.api.aws"},
		awsrole.Keys{AccessKeyID: credential.NewSecret(ststest.AccessKeyID), SecretAccessKey: credential.NewSecret("x")})
	if err != nil {
		t.Fatal(err)
	}
	all := resolved{aws: &g}
	own, err := ParseRules("strict", []string{"s3.eu-central-1.amazonaws.com allow GET /bucket/**"})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		rules int
		want  []string
	}{
		"by themselves": {0, []string{"s3.eu-central-1.amazonaws.com:443 allow * /**", "*.eu-central-1.api.aws:443 allow * /**"}},
		"beside a rule": {1, []string{"*.eu-central-1.api.aws:443 allow * /**"}},
	} {
		rules, err := proxy.GrantRules(all.awsHosts(), own[:test.rules])
		var got []string
		for _, rule := range rules {
			got = append(got, rule.String())
		}
		if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v, (-want +got)\n%s", name, err, diff)
		}
	}
	if hosts := (&resolved{}).awsHosts(); hosts != nil {
		t.Errorf("without a grant: %v", hosts)
	}
}

func TestRunActsInOneRole(t *testing.T) {
	t.Parallel()
	s := ststest.Start(t)
	w := newAWSWorld(t, s)
	w.storeAWS("aws", s)
	w.storeAWS("aws:prod", s)
	r := w.request(1)
	r.Grants = []string{"aws", "aws:prod"}
	if _, err := w.client.Register(t.Context(), r); err == nil || !strings.Contains(err.Error(), "use one of them") {
		t.Errorf("got %v", err)
	}
	grants, err := w.client.Grants(t.Context(), "")
	if err != nil || len(grants) != 2 || !slices.Contains(grants[0].Hosts, "*.eu-central-1.amazonaws.com") || grants[1].Name != "aws:prod" {
		t.Errorf("listed %+v, %v", grants, err)
	}
}
