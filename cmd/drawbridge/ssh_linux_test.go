package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	sshkeys "golang.org/x/crypto/ssh/agent"

	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/sshagent/sshdtest"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// sshWorld is a person with an SSH key, and two servers that let it in.
type sshWorld struct {
	*cli
	private        ed25519.PrivateKey
	key            ssh.PublicKey
	keyFile        string
	granted, other *sshdtest.Server
	repository     string // a bare one, on the granted server
}

func newSSHWorld(t *testing.T) *sshWorld {
	t.Helper()
	for _, program := range []string{"git", "ssh", "ssh-agent"} {
		if _, err := exec.LookPath(program); err != nil {
			runtimetest.Missing(t, "this machine has no %s: %v", program, err)
		}
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &sshWorld{cli: newNativeCLI(t), private: private}
	if w.key, err = ssh.NewPublicKey(public); err != nil {
		t.Fatal(err)
	}
	w.granted, w.other = sshdtest.Start(t, w.key), sshdtest.Start(t, w.key)
	dir := t.TempDir()
	w.keyFile, w.repository = filepath.Join(dir, "id"), filepath.Join(dir, "origin.git")
	if err := os.WriteFile(w.keyFile, sshdtest.PEM(t, private), 0o600); err != nil {
		t.Fatal(err)
	}
	w.env = append(w.env, "DRAWBRIDGE_KEYRING=file", "SSH_AUTH_SOCK="+personsSSHAgent(t, private))
	w.git("init", "--quiet", "--bare", "--initial-branch=main", w.repository)
	return w
}

// personsSSHAgent is ssh-agent with a key.
func personsSSHAgent(t *testing.T, private ed25519.PrivateKey) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "a") // short enough for the address of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket = filepath.Join(dir, "agent.sock")
	cmd := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			err = sshkeys.NewClient(conn).Add(sshkeys.AddedKey{PrivateKey: private})
			_ = conn.Close()
		}
		if err == nil {
			return socket
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func (w *sshWorld) git(args ...string) string {
	w.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func grantName(s *sshdtest.Server) string { return fmt.Sprintf("ssh:%s:%d", policy.HostName, s.Port) }

func hostKeyLine(s *sshdtest.Server) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.HostKey)))
}

// signatures are what the record of a run has of them, and its tunnels.
func (w *sshWorld) trace(run string) (signatures, tunnels []proxy.Entry) {
	w.t.Helper()
	for line := range strings.Lines(w.must("trace", "--output", "json", run)) {
		var e proxy.Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			w.t.Fatal(err)
		}
		switch e.Kind {
		case proxy.KindSignature:
			signatures = append(signatures, e)
		default:
			tunnels = append(tunnels, e)
		}
	}
	return signatures, tunnels
}

// Git clones and pushes over SSH from a sandbox that has no key, with the agent of
// the person or a key that is stored.
func TestGitOverSSHFromASandbox(t *testing.T) {
	t.Parallel()
	for _, kept := range []string{"in the agent", "in the grant"} {
		t.Run(kept, func(t *testing.T) {
			t.Parallel()
			w := newSSHWorld(t)
			args := []string{"grant", grantName(w.granted), "--host-key", hostKeyLine(w.granted)}
			if kept == "in the grant" {
				args = append(args, "--key", w.keyFile)
			}
			w.must(args...)
			url := fmt.Sprintf("ssh://%s@%s:%d%s", w.granted.User, policy.HostName, w.granted.Port, w.repository)
			script := `set -e
				git clone --quiet ` + url + ` /tmp/clone 2>&1
				cd /tmp/clone
				echo made inside >file
				git add file
				git -c user.name=Run -c user.email=run@example.com commit --quiet --message made
				git push --quiet origin HEAD:main
				ssh-add -l
				env
				find / -xdev -type f \( -path '/run/*' -o -path '/tmp/*' -o -path '/home/*' -o -path '/root/*' \) -exec cat {} + 2>/dev/null || true`
			got := w.run("run", "--name", "pusher", "--grant", grantName(w.granted), "--", "bash", "-c", script)
			t.Cleanup(func() { w.cli.run("destroy", "pusher") })
			if got.code != 0 {
				t.Fatalf("got %+v", got)
			}
			if log := w.git("--git-dir", w.repository, "show", "main:file"); log != "made inside\n" {
				t.Errorf("pushed %q", log)
			}
			if want := ssh.FingerprintSHA256(w.key); !strings.Contains(got.out, want) {
				t.Errorf("ssh-add does not list %s:\n%s", want, got.out)
			}
			body := strings.Split(string(sshdtest.PEM(t, w.private)), "\n")[3] // the line with most of the key
			for _, form := range append(formsOf(string(w.private.Seed())), body) {
				if strings.Contains(got.out+got.err, form) {
					t.Error("the sandbox has seen the key")
				}
			}
			signatures, tunnels := w.trace("pusher")
			if len(signatures) != 2 || len(tunnels) != 2 {
				t.Fatalf("recorded %+v and %+v", signatures, tunnels)
			}
			for _, e := range signatures {
				if e.Decision != proxy.Allowed || e.Grant != grantName(w.granted) || e.User != w.granted.User || e.Key != ssh.FingerprintSHA256(w.key) || e.Port != int(w.granted.Port) {
					t.Errorf("recorded %+v", e)
				}
			}
			if shown := w.must("trace", "pusher"); !strings.Contains(shown, "SIGN "+w.granted.User+"@"+policy.HostName) {
				t.Errorf("the trace shows\n%s", shown)
			}
		})
	}
}

// The key is good for a second host too; the run is not granted that one.
func TestSSHToAnotherHostIsRefused(t *testing.T) {
	t.Parallel()
	w := newSSHWorld(t)
	w.must("grant", grantName(w.granted), "--host-key", hostKeyLine(w.granted))
	other := net.JoinHostPort(policy.HostName, strconv.Itoa(int(w.other.Port)))
	script := fmt.Sprintf("$GIT_SSH_COMMAND -o StrictHostKeyChecking=no -p %d %s@%s echo in", w.other.Port, w.other.User, policy.HostName)
	for name, test := range map[string]struct {
		allow []string
		want  string
	}{
		"the gate does not connect": {nil, "policy_denied"},
		"the agent does not sign":   {[]string{"--allow", other}, "Permission denied"},
	} {
		t.Run(name, func(t *testing.T) {
			run := strings.ReplaceAll(name, " ", "-")
			got := w.run(append(append([]string{"run", "--name", run, "--grant", grantName(w.granted)}, test.allow...), "--", "bash", "-c", script)...)
			t.Cleanup(func() { w.cli.run("destroy", run) })
			if got.code == 0 || !strings.Contains(got.out+got.err, test.want) {
				t.Errorf("got %+v", got)
			}
			signatures, _ := w.trace(run)
			for _, e := range signatures {
				if e.Decision != proxy.Refused {
					t.Errorf("recorded %+v", e)
				}
			}
			if (len(signatures) > 0) != (test.allow != nil) {
				t.Errorf("recorded %+v", signatures)
			}
		})
	}
	if n := w.other.Logins(); n != 0 {
		t.Errorf("%d logins", n)
	}
	// A key of the host that the grant does not know is refused by the client
	// already.
	w.must("grant", grantName(w.other), "--host-key", hostKeyLine(w.granted))
	script = fmt.Sprintf("$GIT_SSH_COMMAND -p %d %s@%s echo in", w.other.Port, w.other.User, policy.HostName)
	if got := w.run("run", "--rm", "--grant", grantName(w.other), "--", "bash", "-c", script); got.code == 0 || !strings.Contains(got.out+got.err, "Host key verification failed") {
		t.Errorf("another host key: %+v", got)
	}
}

// killDaemon ends the daemon of the home as a crash would, and waits until it is gone.
func (c *cli) killDaemon() {
	c.t.Helper()
	client := daemon.NewClient(c.home, nil)
	defer client.Close()
	health, err := client.Health(c.t.Context())
	if err == nil {
		err = syscall.Kill(health.PID, syscall.SIGKILL)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	for !errors.Is(err, daemon.ErrNotRunning) {
		_, err = client.Health(c.t.Context())
	}
}

// Restarting the gate does not end what a run may do, and a key that is not there
// is told before the run is made.
func TestSSHGrantsOutliveTheDaemonAndMissingKeysAreTold(t *testing.T) {
	t.Parallel()
	w := newSSHWorld(t)
	w.must("grant", grantName(w.granted), "--host-key", hostKeyLine(w.granted))
	login := fmt.Sprintf("$GIT_SSH_COMMAND -p %d %s@%s echo in", w.granted.Port, w.granted.User, policy.HostName)
	script := login + "; echo ready; while ! test -e /workspace/go; do sleep 0.1; done; for i in 1 2 3 4 5 6 7 8 9; do " + login + " && exit; sleep 1; done"
	w.must("run", "--detach", "--name", "stays", "--workspace", w.workspace, "--grant", grantName(w.granted), "--", "bash", "-c", script)
	t.Cleanup(func() { w.cli.run("destroy", "--force", "stays") })
	for end := time.Now().Add(time.Minute); !strings.Contains(w.run("logs", "stays").out, "ready"); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("logs: %+v", w.run("logs", "stays"))
		}
	}
	w.killDaemon()
	// Whoever asks next starts it again.
	w.env = append(w.env, "SSH_AUTH_SOCK="+filepath.Join(t.TempDir(), "none"))
	if got := w.run("run", "--rm", "--grant", grantName(w.granted), "--", "true"); got.code == 0 || !strings.Contains(got.err, "--key FILE") {
		t.Errorf("a run whose key is not there: %+v", got)
	}
	if err := os.WriteFile(filepath.Join(w.workspace, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := w.run("wait", "stays"); got.code != 0 {
		t.Errorf("wait: %+v", got)
	}
	if got := w.run("logs", "stays"); strings.Count(got.out, "in\n") != 2 {
		t.Errorf("logs: %+v", got)
	}
}
