package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mark3labs/mcp-go/mcp"
)

// raw calls a tool and returns all that it answers, as it came.
func (a *agent) raw(tool string, args map[string]any) string {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	request := mcp.CallToolRequest{}
	request.Params.Name, request.Params.Arguments = tool, args
	result, err := a.mcp.CallTool(ctx, request)
	var text []byte
	if err == nil {
		text, err = json.Marshal(result)
	}
	if err != nil || result.IsError {
		a.t.Fatalf("%s: %v %s", tool, err, text)
	}
	return string(text)
}

// The secrets of a project reach the run that the person makes, and that of an agent where
// the person has named them; whoever makes it is told that the run can read them, and
// nobody reads them in an answer.
func TestSecretsOfAProjectReachItsRuns(t *testing.T) {
	t.Parallel()
	c := newNativeCLI(t)
	value := "sk-test-" + strings.Repeat("9fQz", 6)
	c.env = append(c.env, "DRAWBRIDGE_KEYRING=file", "KEY_OF_THE_TEST="+value)
	if err := os.WriteFile(filepath.Join(c.workspace, "moat.yaml"), []byte("secrets: {API_KEY: env://KEY_OF_THE_TEST}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	unseen := func(where, text string) {
		t.Helper()
		for _, form := range []string{value, base64.StdEncoding.EncodeToString([]byte(value))[:28]} {
			if strings.Contains(text, form) {
				t.Errorf("%s shows it: %s", where, text)
			}
		}
	}
	const script = `[ ${#API_KEY} = 32 ] && echo complete; env; printf '%s' "$API_KEY" | base64; echo "$API_KEY" >&2`
	got := c.run("run", "--name", "mine", "--workspace", c.workspace, "--", "sh", "-c", script)
	unseen("run", got.out+got.err)
	if got.code != 0 || !strings.Contains(got.out, "complete") || !strings.Contains(got.out, "API_KEY="+strings.Repeat("*", len(value))) ||
		!strings.Contains(got.err, "everything in the run can read the secrets in its environment: API_KEY") {
		t.Errorf("run: %+v", got)
	}
	if text := c.must("inspect", "mine"); !strings.Contains(text, "API_KEY from env://KEY_OF_THE_TEST") {
		t.Errorf("inspect shows %s", text)
	}
	unseen("logs and inspect", c.must("logs", "mine")+c.must("inspect", "mine", "--output", "json"))
	c.must("destroy", "mine")

	wish := map[string]any{"workspace": c.workspace, "command": []any{"sh", "-c", script + "; sleep 3600"}, "start": true, "name": "theirs"}
	refused, err := c.stdioAgent("--runtime", "native").try("create_run", wish)
	if err != nil || refused.Error == nil || refused.Error.Code != "policy_denied" || !strings.Contains(refused.Error.Next, "`drawbridge serve --allow-secret env://KEY_OF_THE_TEST`") {
		t.Errorf("an agent that may not: %+v, %v", refused, err)
	}
	server := c.stdioAgent("--runtime", "native", "--allow-secret", "env://KEY_OF_THE_TEST")
	made := server.raw("create_run", wish)
	if !strings.Contains(made, "secrets_note") || !strings.Contains(made, "Everything in the run can read these variables") {
		t.Errorf("create_run answers %s", made)
	}
	waited := server.raw("wait", map[string]any{"run": "theirs", "match": "^API_KEY=[*]+$", "wait_seconds": 60})
	for tool, args := range map[string]map[string]any{
		"logs": {"run": "theirs"}, "resolve": {"run": "theirs"}, "list_runs": {}, "network_log": {"run": "theirs"},
		"exec": {"run": "theirs", "command": []any{"sh", "-c", `echo "exec $API_KEY"; env`}},
	} {
		answer := server.raw(tool, args)
		unseen(tool, answer)
		if tool == "exec" && !strings.Contains(answer, "exec "+strings.Repeat("*", len(value))) {
			t.Errorf("exec answers %s", answer)
		}
	}
	unseen("create_run and wait", made+waited)
	c.expectNowhere(value)
	c.must("destroy", "--force", "theirs")

	if got := c.run("serve", "--allow", "secrets"); got.code != exitUsage || !strings.Contains(got.err, "--allow-secret REFERENCE") {
		t.Errorf("serve --allow secrets: %+v", got)
	}
	if got := c.run("serve", "--allow-secret", "env://*"); got.code != exitUsage || !strings.Contains(got.err, "name each variable") {
		t.Errorf("serve --allow-secret env://*: %+v", got)
	}
}
