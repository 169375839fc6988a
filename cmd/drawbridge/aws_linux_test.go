package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/awsrole/ststest"
	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// awsWorld is a person with keys for AWS, and a workspace with a program that uses AWS.
type awsWorld struct {
	*cli
	aws     *ststest.Server
	service string // URL of AWS for sandboxes
}

func newAWSWorld(t *testing.T) *awsWorld {
	t.Helper()
	w := &awsWorld{cli: newNativeCLI(t), aws: ststest.Start(t, policy.HostName)}
	w.env = append(w.env, "DRAWBRIDGE_KEYRING=file", "DRAWBRIDGE_EXTRA_CA="+w.aws.File)
	w.service = "https://" + policy.HostName + ":" + w.aws.Port
	program := runtimetest.Build(t, "./runtime/runtimetest/awsprog", "awsprog")
	if err := copyProgram(program, filepath.Join(w.workspace, "awsprog")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(w.workspace, "awsprog"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.grantAWS("aws")
	return w
}

func (w *awsWorld) grantAWS(name string) {
	w.t.Helper()
	fields := fmt.Sprintf("access_key_id=%s\nsecret_access_key=%s\nregion=eu-central-1\nsts_endpoint=%s\n", ststest.AccessKeyID, ststest.SecretAccessKey, w.aws.URL)
	if got := w.runInput(fields, "grant", name, "--set", "role_arn=arn:aws:iam::123456789012:role/agents"); got.code != 0 || !strings.Contains(got.out, "AWS lets it be assumed") {
		w.t.Fatalf("grant: %+v", got)
	}
}

// trace are the requests of a run.
func (w *awsWorld) trace(run string) (handed, others []proxy.Entry) {
	w.t.Helper()
	for line := range strings.Lines(w.must("trace", "--output", "json", run)) {
		var e proxy.Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			w.t.Fatal(err)
		}
		if e.Kind == proxy.KindCredentials {
			handed = append(handed, e)
		} else {
			others = append(others, e)
		}
	}
	return handed, others
}

// A program with AWS's own SDK gets credentials and uses them, through the gate that
// reads each request; what they were made with is nowhere.
func TestRunActsInTheRoleOfItsGrant(t *testing.T) {
	t.Parallel()
	w := newAWSWorld(t)
	script := `set -e
		./awsprog whoami ` + w.service + `
		env
		find / -xdev -type f \( -path '/run/*' -o -path '/tmp/*' -o -path '/home/*' -o -path '/root/*' \) -exec cat {} + 2>/dev/null || true`
	allow := fmt.Sprintf("%s:%s allow POST /", policy.HostName, w.aws.Port)
	got := w.run("run", "--name", "worker", "--workspace", w.workspace, "--grant", "aws", "--allow", allow, "--", "bash", "-c", script)
	t.Cleanup(func() { w.cli.run("destroy", "worker") })
	if got.code != 0 {
		t.Fatalf("got %+v", got)
	}
	sessions := w.aws.Sessions()
	if len(sessions) != 2 || sessions[0].Name != "drawbridge-grant" || !strings.HasPrefix(sessions[1].Name, "drawbridge-run_") {
		t.Fatalf("sessions %+v", sessions)
	}
	if want := "in eu-central-1 as arn:aws:sts::123456789012:assumed-role/agents/" + sessions[1].Name + "\n"; !strings.Contains(got.out, want) || !slices.Equal(w.aws.Identities(), []string{sessions[1].Name}) {
		t.Errorf("it printed\n%s\nwithout %q", got.out, want)
	}
	handed, others := w.trace("worker")
	if len(handed) != 1 || handed[0].Grant != "aws" || handed[0].Decision != proxy.Allowed || len(others) != 1 || others[0].Status != 200 || others[0].Method != "POST" {
		t.Errorf("recorded %+v and %+v", handed, others)
	}
	w.expectNowhere(got, "the key of the person", ststest.SecretAccessKey, ststest.AccessKeyID)
	w.expectNowhere(got, "what was handed out", sessions[1].Secret, sessions[1].Token)
	if inspected := w.must("inspect", "--output", "json", "worker"); !strings.Contains(inspected, `"aws"`) {
		t.Errorf("inspect: %s", inspected)
	}
}

// expectNowhere fails where a secret is in what a run printed, or in a file of the home.
func (w *awsWorld) expectNowhere(got result, what string, secrets ...string) {
	w.t.Helper()
	texts := map[string]string{"its output": got.out + got.err}
	err := filepath.WalkDir(w.home, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		texts[path] = string(data)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	for where, text := range texts {
		for _, secret := range secrets {
			for _, form := range formsOf(secret) {
				if strings.Contains(text, form) {
					w.t.Errorf("%s has %s", where, what)
				}
			}
		}
	}
}

// ready waits until a run has printed a text.
func (w *awsWorld) ready(run, text string) string {
	w.t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if logs := w.run("logs", run); strings.Contains(logs.out, text) {
			return logs.out
		}
		if time.Now().After(end) {
			w.t.Fatalf("logs: %+v", w.run("logs", run))
		}
	}
}

// Neither another run nor one without a grant gets credentials. A run that is up gets
// them from the next daemon too, and none any more when the grant is revoked.
func TestCredentialsOfARoleAreForTheRunOfTheGrant(t *testing.T) {
	t.Parallel()
	w := newAWSWorld(t)
	script := `./awsprog ask; echo "token $AWS_CONTAINER_AUTHORIZATION_TOKEN"; echo ready
		while ! test -e again; do sleep 0.1; done; ./awsprog ask; echo asked
		while ! test -e revoked; do sleep 0.1; done; ./awsprog ask`
	w.must("run", "--detach", "--name", "first", "--workspace", w.workspace, "--grant", "aws", "--", "bash", "-c", script)
	t.Cleanup(func() { w.cli.run("destroy", "--force", "first") })
	logs := w.ready("first", "ready\n")
	_, rest, _ := strings.Cut(logs, "token ")
	token, _, _ := strings.Cut(rest, "\n")
	if !strings.HasPrefix(logs, "answered 200 true\n") || len(token) != 64 {
		t.Fatalf("the first run printed %s", logs)
	}
	w.killDaemon()
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"another run":     {[]string{"--grant", "aws"}, "answered 401 true\nanswered 200 true\n"},
		"without a grant": {nil, "answered 404 true\nanswered 404 true\n"},
	} {
		args := append(append([]string{"run", "--rm", "--workspace", w.workspace}, test.args...), "--", "sh", "-c", "./awsprog ask "+token+"; ./awsprog ask")
		if got := w.run(args...); got.out != test.want { // the first of them starts the daemon again
			t.Errorf("%s: %+v", name, got)
		}
	}
	w.touch("again")
	if logs := w.ready("first", "asked\n"); !strings.HasSuffix(logs, "ready\nanswered 200 true\nasked\n") {
		t.Errorf("after the daemon's end the first run printed %s", logs)
	}
	begun := len(w.aws.Sessions())
	w.must("revoke", "--yes", "aws")
	w.touch("revoked")
	if got := w.run("wait", "first"); got.code != 0 {
		t.Errorf("wait: %+v", got)
	}
	if logs := w.run("logs", "first").out; !strings.HasSuffix(logs, "asked\nanswered 403 true\n") {
		t.Errorf("after the grant was revoked the first run printed %s", logs)
	}
	if after := len(w.aws.Sessions()); after != begun {
		t.Errorf("%d sessions were begun after it was revoked", after-begun)
	}
	handed, _ := w.trace("first")
	var decisions []string
	for _, e := range handed {
		decisions = append(decisions, e.Decision+" "+e.Grant)
	}
	if want := []string{"allowed aws", "allowed aws", "refused "}; !slices.Equal(decisions, want) {
		t.Errorf("recorded %q, want %q", decisions, want)
	}
	if rules := w.run("policy", "suggest", "first"); rules.out != "" {
		t.Errorf("suggested %s", rules.out)
	}
}

func (w *awsWorld) touch(name string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.workspace, name), nil, 0o644); err != nil {
		w.t.Fatal(err)
	}
}
