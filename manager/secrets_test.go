package manager

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/client"

	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/secret/ssmtest"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest/gateprog/plan"
)

// What the secrets of these tests are. None is in their source as it is looked for.
var (
	tokenSecret = "tok-" + strings.Repeat("7Yq", 4) + "/+&=\"<x"
	vaultSecret = "vault-" + strings.Repeat("Zk1", 5)
	paramSecret = "postgres://app:" + strings.Repeat("pW9", 4) + "@db/main"
	keySecret   = "-----BEGIN A KEY-----\n" + strings.Repeat("QmFzZTY0", 8) + "\n" + strings.Repeat("c2VjcmV0", 8) + "\n-----END A KEY-----"
	allSecrets  = map[string]string{"TOKEN": tokenSecret, "VAULT": vaultSecret, "PARAM": paramSecret, "KEY": keySecret}
)

// traces are the parts of what a secret looks like anywhere: each alone would tell of it.
func traces() []string {
	var all []string
	for _, value := range allSecrets {
		for part := range strings.SplitSeq(value, "\n") {
			quoted, _ := json.Marshal(part)
			all = append(all, part, strings.Trim(string(quoted), `"`), url.QueryEscape(part), hex.EncodeToString([]byte(part)))
		}
		for before := range 3 { // wherever base64 has it
			encoded := base64.RawStdEncoding.EncodeToString(append(make([]byte, before), value...))
			all = append(all, encoded[4:24])
		}
	}
	return all
}

// useSecrets puts the secrets where they come from: this process's environment, a
// parameter store, and a program that stands for the CLI of 1Password, which cannot sign in
// here.
func useSecrets(t *testing.T) {
	t.Helper()
	t.Setenv("SECRET_TOKEN_OF_THE_TEST", tokenSecret)
	t.Setenv("SECRET_KEY_OF_THE_TEST", keySecret)
	ssmtest.Start(t, map[string]string{"/prod/db": paramSecret}).Use(t)
	bin := t.TempDir()
	script := "#!/bin/sh\n[ \"$3\" = op://Dev/vault/token ] && printf " + vaultSecret + "\n"
	if err := os.WriteFile(filepath.Join(bin, "op"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
}

const secretsOfAll = `secrets:
  TOKEN: env://SECRET_TOKEN_OF_THE_TEST
  KEY: env://SECRET_KEY_OF_THE_TEST
  VAULT: op://Dev/vault/token
  PARAM: ssm:///prod/db
`

// project makes a workspace with a moat.yaml.
func project(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "moat.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func allowSecrets(opts *ManagerOptions) {
	opts.ForAgents = true
	opts.AllowSecrets = []string{"env://SECRET_TOKEN_OF_THE_TEST", "env://SECRET_KEY_OF_THE_TEST", "op://Dev/*", "ssm:///prod/*"}
}

// expectNoSecret fails where a text has a secret in any form.
func expectNoSecret(t *testing.T, where, text string) {
	t.Helper()
	for _, form := range traces() {
		if at := strings.Index(text, form); at >= 0 {
			t.Errorf("%s has %q: …%q", where, form, text[max(0, at-40):min(len(text), at+len(form)+40)])
			return
		}
	}
}

// expectNoSecretLeft looks at everything on the host that a run leaves or has.
func (w *world) expectNoSecretLeft(run *Run) {
	w.t.Helper()
	err := filepath.WalkDir(w.home, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil //nolint:nilerr // it has just gone
		}
		data, err := os.ReadFile(path)
		if err == nil {
			expectNoSecret(w.t, path, string(data))
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if answer, err := json.Marshal(run.Secrets); err == nil {
		expectNoSecret(w.t, "the run", string(answer)+run.Error+strings.Join(run.Command, " "))
	}
	if w.kind == runtime.TypeDocker && run.ContainerID != "" {
		engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
		if err != nil {
			w.t.Fatal(err)
		}
		defer engine.Close()
		_, inspected, err := engine.ContainerInspectWithRaw(w.t.Context(), run.ContainerID, true)
		if cerrdefs.IsNotFound(err) && run.State.Terminal() {
			err = nil // it is removed after the end
		}
		if err != nil {
			w.t.Fatal(err)
		}
		expectNoSecret(w.t, "docker inspect", string(inspected))
	}
	expectNoSecret(w.t, "the command lines of this machine", commandLines(w.t))
}

// commandLines returns those of all processes but this one.
func commandLines(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		data, _ := os.ReadFile(file) // it may have ended
		all.Write(data)
	}
	return all.String()
}

// Everything a run prints, in pieces and in the forms of other programs, comes out without
// its secrets, and the host has them nowhere, before the start, while it runs, and after
// its end.
func TestSecretsAreInTheRunAndNowhereElse(t *testing.T) {
	useSecrets(t)
	withoutGVisor := []bool{true}
	if testedRuntime() == runtime.TypeNative {
		withoutGVisor = []bool{false, true} // an engine need not have it
	}
	for _, noSandbox := range withoutGVisor {
		t.Run("without gVisor: "+strconv.FormatBool(noSandbox), func(t *testing.T) {
			testSecretsOf(t, func(opts *ManagerOptions) {
				allowSecrets(opts)
				opts.NoSandbox = &noSandbox
			})
		})
	}
}

func testSecretsOf(t *testing.T, options func(*ManagerOptions)) {
	w := newWorld(t).withGate()
	m := w.manager(options)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	workspace := project(t, secretsOfAll)
	script := `
		[ ${#TOKEN} = ` + strconv.Itoa(len(tokenSecret)) + ` ] && [ "$PARAM" = "$(cat /workspace/expected)" ] && echo they are all there
		env; echo "$KEY" | grep -i c2vj; printf '%s' "$TOKEN" | base64; printf 'ab%s' "$TOKEN" | base64; echo "$KEY" | base64
		echo "to standard error: $VAULT" >&2
		printf '%s' "$VAULT" | cut -c1-9 | tr -d '\n'; printf '%s' "$VAULT" | cut -c10- ; echo "after $PARAM."
		while [ ! -e /workspace/go ]; do sleep 0.1; done
		echo "late $TOKEN"; printf 'unfinished %s' "$TOKEN"`
	if err := os.WriteFile(filepath.Join(workspace, "expected"), []byte(paramSecret), 0o644); err != nil {
		t.Fatal(err)
	}
	run, err := m.Create(ctx, Options{Project: true, Workspace: workspace, Cmd: shell(script)})
	if err != nil {
		t.Fatal(err)
	}
	w.expectNoSecretLeft(run)
	// Whoever starts it need not be who made it.
	m = w.manager(options)
	if err := m.Start(ctx, run.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first output", func() bool { return strings.Contains(output(t, m, run.ID), "after ") })
	run = w.get(m, run.ID)
	w.expectNoSecretLeft(run)
	w.expectMaskedExec(ctx, m, run.ID)
	if err := os.WriteFile(filepath.Join(workspace, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	run = w.ended(m, run.ID)
	text := output(t, m, run.ID)
	expectNoSecret(t, "the log", text)
	for _, want := range []string{"they are all there", "TOKEN=***", "to standard error: ***", "after ***", "late ***", "unfinished ***"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log has no %q:\n%s", want, text)
		}
	}
	if _, err := os.Stat(run.Store.SecretsFile()); !os.IsNotExist(err) {
		t.Errorf("after the end there is the file of secrets: %v", err)
	}
	w.expectNoSecretLeft(run)
}

// expectMaskedExec runs further commands, which have the secrets too.
func (w *world) expectMaskedExec(ctx context.Context, m *Manager, id string) {
	w.t.Helper()
	for _, tty := range []bool{false, true} {
		var stdout, stderr bytes.Buffer
		result, err := m.ExecAttached(ctx, id, runtime.ExecSpec{
			Command: shell(`env; echo "$KEY"; printf '%s' "$VAULT" >&2; i=0; while [ $i -lt 2000 ]; do printf '%s' "$TOKEN"; i=$((i+1)); done; echo; echo done`),
			TTY:     tty, Stdout: &stdout, Stderr: &stderr,
		})
		if err != nil || result.Code != 0 {
			w.t.Fatalf("exec: %+v, %v", result, err)
		}
		text := stdout.String() + stderr.String()
		expectNoSecret(w.t, "the output of exec", text)
		if n := strings.Count(text, "*"); !strings.Contains(text, "VAULT=***") || !strings.Contains(text, "done") || n < 2000*len(tokenSecret) {
			w.t.Errorf("exec has %d asterisks in %q", n, text[:min(len(text), 2000)])
		}
	}
	var stdout bytes.Buffer
	if _, err := m.ExecAttached(ctx, id, runtime.ExecSpec{Command: []string{tokenSecret}, Stdout: &stdout}); err == nil || strings.Contains(err.Error(), "SECRET") {
		w.t.Errorf("a command that is not there: %v", err)
	}
}

// A terminal turns the ends of lines into others, and is attached to live.
func TestSecretsAreMaskedOnATerminal(t *testing.T) {
	useSecrets(t)
	w := newWorld(t)
	m := w.manager()
	run := w.create(m, Options{Config: parseConfig(t, secretsOfAll), TTY: true, Cmd: shell(`env; echo "$KEY"; printf 'prompt %s> ' "$VAULT"; read line; echo "got $line"`)})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var screen bytes.Buffer
	if err := m.StartAttached(ctx, run.ID, strings.NewReader("hello\n"), &screen, &screen); err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{"the screen": screen.String(), "the log": output(t, m, run.ID)} {
		expectNoSecret(t, where, text)
		if !strings.Contains(text, "prompt *****") || !strings.Contains(text, "got hello") {
			t.Errorf("%s shows %q", where, text)
		}
	}
	w.expectNoSecretLeft(w.get(m, run.ID))
}

// What the caller sets wins over a secret, which is not fetched then, and a secret over
// what the person's own file sets.
func TestCallerSetsAVariableInPlaceOfASecret(t *testing.T) {
	useSecrets(t)
	w := newWorld(t)
	if err := os.MkdirAll(w.home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.home, "config.yaml"), []byte("env: {TOKEN: from the home, OTHER: from the home}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := w.manager()
	workspace := project(t, "secrets: {TOKEN: env://SECRET_TOKEN_OF_THE_TEST, VAULT: op://Prod/none/none}\n")
	run := w.started(m, Options{Project: true, Workspace: workspace, Env: []string{"VAULT=by the caller"}, Cmd: shell(`echo "$TOKEN, $VAULT, $OTHER"`)})
	run = w.ended(m, run.ID)
	if text := output(t, m, run.ID); !strings.Contains(text, strings.Repeat("*", len(tokenSecret))+", by the caller, from the home") {
		t.Errorf("it printed %q", text)
	}
	if len(run.Secrets) != 1 || run.Secrets["TOKEN"] != "env://SECRET_TOKEN_OF_THE_TEST" {
		t.Errorf("its secrets are %v", run.Secrets)
	}
}

// An agent can write moat.yaml. What it asks for there it gets if the person has named it,
// and a run that gets none leaves nothing.
func TestSecretsOfAProjectNeedPermission(t *testing.T) {
	useSecrets(t)
	w := newWorld(t)
	refused := func(m *Manager, opts Options, want ...string) {
		t.Helper()
		opts.Cmd = []string{"true"}
		_, err := m.Create(t.Context(), opts)
		if err == nil {
			t.Fatalf("it is made: %+v", opts)
		}
		for _, part := range want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q does not say %q", err, part)
			}
		}
		expectNoSecret(t, "the error", err.Error())
		if left := w.left(m); left != "" {
			t.Errorf("it left %s", left)
		}
	}
	denied := w.manager(func(o *ManagerOptions) { o.ForAgents = true })
	refused(denied, Options{Project: true, Workspace: project(t, "name: x\nsecrets:\n  TOKEN: env://SECRET_TOKEN_OF_THE_TEST\n")},
		"moat.yaml:3", "put the secret env://SECRET_TOKEN_OF_THE_TEST into the variable TOKEN", "`drawbridge serve --allow-secret env://SECRET_TOKEN_OF_THE_TEST`")
	refused(denied, Options{Secrets: map[string]string{"TOKEN": "env://SECRET_TOKEN_OF_THE_TEST"}}, "not allowed", "--allow-secret")
	m := w.manager(allowSecrets)
	refused(m, Options{Project: true, Workspace: project(t, "secrets: {TOKEN: env://SECRET_TOKEN_OF_THE_TEST, OTHER: 'op://Prod Vault/a/b'}\n")},
		"put the secret op://Prod Vault/a/b", "--allow-secret 'op://Prod Vault/a/b'")
	refused(m, Options{Project: true, Workspace: project(t, "secrets: {HOME_OF_THE_SERVER: env://HOME}\n")}, "--allow-secret env://HOME")
	refused(m, Options{Project: true, Workspace: project(t, "secrets: {VAULT: op://Dev/none/token, PARAM: ssm:///prod/none}\n")},
		"op://Dev/none/token for VAULT: 1Password does not give it", "ssm:///prod/none for PARAM: AWS has no such parameter")
}

// What is asked for with a secret in its path is recorded without it, also by a daemon
// that was started after the run was registered.
func TestSecretsAreNotInTheNetworkLog(t *testing.T) {
	useSecrets(t)
	certificate, roots := authority(t)
	w := newWorld(t).withGate(roots)
	service := serveEcho(t, certificate)
	m := w.manager()
	name := policy.HostName
	host := net.JoinHostPort(name, service.port)
	to := func(path string) plan.Step {
		return plan.Step{Name: path, Connect: host, TLS: &name, Send: get(path, "Host: "+host)}
	}
	run := w.attackRun(m, Options{Config: parseConfig(t, secretsOfAll), NetworkRules: []string{host + " allow * /**"}}, []plan.Step{
		to("/raw/" + vaultSecret), to("/base64/" + base64.RawURLEncoding.EncodeToString([]byte(vaultSecret))), to("/escaped/" + url.QueryEscape(tokenSecret)),
	})
	watcher := daemon.NewClient(w.home, nil)
	defer watcher.Close()
	health, err := watcher.Health(t.Context())
	if err == nil {
		err = syscall.Kill(health.PID, syscall.SIGKILL)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context(), run.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	run = w.ended(m, run.ID)
	if answers := results(t, m, run); len(answers) != 3 {
		t.Errorf("the run got %+v", answers)
	}
	page, err := m.NetworkLog(t.Context(), run.ID, NetworkQuery{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(page)
	if err != nil {
		t.Fatal(err)
	}
	expectNoSecret(t, "the network log", string(text))
	for _, want := range []string{"/raw/*****", "/base64/*****", "/escaped/*****"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the network log has no %s: %s", want, text)
		}
	}
	if status := service.credential("/raw/" + vaultSecret); status == "nothing came" {
		t.Error("the service was not asked with the secret")
	}
	w.expectNoSecretLeft(run)
}
