package manager

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/sshagent"
	"github.com/drawbridge-mcp/drawbridge/manager/access/sshagent/sshdtest"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Where a sandbox cannot connect to the gate's socket, a relay is between, and
// everything else is as ever.
func TestRunReachesTheGateByARelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	if w.kind != runtime.TypeDocker {
		t.Skip("a relay is of Docker sandboxes")
	}
	first := w.manager(throughTheEngine)
	named, other := service(t), service(t)
	run := w.create(first, Options{
		Cmd:          fetch("http://"+named+"/yes", "http://"+named+"/no", "http://"+other+"/other"),
		NetworkRules: []string{named + " allow GET /yes"},
	})
	driver, err := first.drivers.get(w.kind)
	if err != nil {
		t.Fatal(err)
	}
	roles := map[string]int{}
	objects, err := driver.List(t.Context(), map[string]string{runtime.LabelRun: run.ID, runtime.LabelHome: runtime.HomeHash(w.home)})
	for _, object := range objects {
		roles[object.Role]++
	}
	if err != nil || len(objects) != 3 || roles[runtime.RoleSandbox] != 1 || roles[runtime.RoleNetwork] != 1 || roles[runtime.RoleRelay] != 1 {
		t.Errorf("the run has %+v, %v", roles, err)
	}
	// Whoever comes next goes on with it.
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := w.manager(throughTheEngine)
	if err := second.Start(t.Context(), run.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	run = w.ended(second, run.ID)
	text := output(t, second, run.ID)
	if !strings.Contains(text, "served /yes") || strings.Count(text, "served") != 1 || strings.Count(text, "failed") != 2 {
		t.Errorf("the run printed %q", text)
	}
	if r := run.Requested; r == nil || r.Requests != 3 || r.Refused != 2 {
		t.Errorf("summed up as %+v", r)
	}
}

// What a crash leaves of a run beside its sandbox is swept as that is.
func TestNetworkAndRelayWithoutARunAreSwept(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	if w.kind != runtime.TypeDocker {
		t.Skip("a relay is of Docker sandboxes")
	}
	m := w.manager(throughTheEngine)
	run := w.create(m, Options{Cmd: shell("true")})
	driver, err := m.drivers.get(w.kind)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := driver.List(t.Context(), map[string]string{runtime.LabelRun: run.ID})
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		if object.Role == runtime.RoleSandbox {
			err = driver.Remove(t.Context(), object.Handle)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.gate.client.Unregister(t.Context(), run.ID), m.store.DeleteRun(t.Context(), run.ID)); err != nil {
		t.Fatal(err)
	}
	if err := m.Reconcile(t.Context()); err != nil {
		t.Error(err)
	}
	if left, err := driver.List(t.Context(), map[string]string{runtime.LabelRun: run.ID}); err != nil || len(left) != 0 {
		t.Errorf("left behind: %+v, %v", left, err)
	}
}

// grantSSH stores a grant to log in to a server, with a new key, which it returns with
// the name of the grant.
func (w *world) grantSSH(s *sshdtest.Server, key ed25519.PrivateKey) (name, fingerprint string) {
	w.t.Helper()
	g, err := sshagent.ParseName(fmt.Sprintf("ssh:%s:%d", policy.HostName, s.Port))
	if err == nil {
		g.HostKeys = []ssh.PublicKey{s.HostKey}
		err = g.SetPrivate(credential.NewSecret(strings.TrimSpace(string(sshdtest.PEM(w.t, key)))))
	}
	if err == nil {
		err = os.MkdirAll(w.home, 0o700)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	store, err := credential.Open(credential.Dir(w.home), credential.Options{Backend: credential.BackendFile})
	if err == nil {
		stored := g.Credential()
		stored.Source = credential.SourceStdin
		err = store.Put(w.t.Context(), stored)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return g.Name, ssh.FingerprintSHA256(g.Key)
}

// openSSH returns mounts by which a sandbox of the test image has clients of OpenSSH,
// which are this machine's: the programs, the libraries that they need, and an account.
func openSSH(t *testing.T) []runtime.MountConfig {
	t.Helper()
	dir := t.TempDir()
	copied := func(from, to string) {
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, to), data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	loader := ""
	for _, name := range []string{"ssh", "ssh-add"} {
		program := sshdtest.Program(t, name)
		copied(program, name+".program")
		needed, err := exec.Command("ldd", program).Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(needed)) {
			for word := range strings.FieldsSeq(line) {
				if filepath.IsAbs(word) {
					copied(word, filepath.Base(word))
				}
				if filepath.IsAbs(word) && strings.HasPrefix(filepath.Base(word), "ld-") {
					loader = filepath.Base(word)
				}
			}
		}
		script := fmt.Sprintf("#!/bin/sh\nexec /opt/ssh/%s --library-path /opt/ssh /opt/ssh/%s.program \"$@\"\n", loader, name)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	accounts := filepath.Join(t.TempDir(), "passwd")
	var lines strings.Builder
	for _, id := range []int{workspaceOwner, os.Getuid()} {
		fmt.Fprintf(&lines, "user%d:x:%d:%d::/tmp:/bin/sh\n", id, id, id)
	}
	if err := os.WriteFile(accounts, []byte(lines.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return []runtime.MountConfig{{Source: dir, Target: "/opt/ssh", ReadOnly: true}, {Source: accounts, Target: "/etc/passwd", ReadOnly: true}}
}

// An SSH agent is as good by a relay as by its own socket: it signs for the host of its
// grant, for nobody else, and every signature is recorded.
func TestSSHGrantsWorkByARelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	if w.kind != runtime.TypeDocker {
		t.Skip("a relay is of Docker sandboxes")
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	granted, other := sshdtest.Start(t, public), sshdtest.Start(t, public)
	grant, fingerprint := w.grantSSH(granted, key)
	m := w.manager(throughTheEngine)
	login := func(s *sshdtest.Server) string {
		return fmt.Sprintf("/opt/ssh/ssh -F /run/drawbridge/gate/home/.ssh/config -o StrictHostKeyChecking=no -o UserKnownHostsFile=/tmp/known -p %d %s@%s echo logged in to %[1]d 2>&1 || echo refused by %[1]d", s.Port, s.User, policy.HostName)
	}
	strict := strings.Replace(login(granted), " -o StrictHostKeyChecking=no -o UserKnownHostsFile=/tmp/known", "", 1)
	run := w.started(m, Options{
		Cmd:    shell("echo agent at $SSH_AUTH_SOCK; /opt/ssh/ssh-add -l; " + strict + "; " + login(other)),
		Mounts: openSSH(t), Grants: []string{grant},
		NetworkRules: []string{fmt.Sprintf("%s:%d", policy.HostName, other.Port)},
	})
	run = w.ended(m, run.ID)
	text := output(t, m, run.ID)
	for _, want := range []string{"agent at " + runtime.RelayedAgent, fingerprint, fmt.Sprintf("logged in to %d", granted.Port), fmt.Sprintf("refused by %d", other.Port)} {
		if !strings.Contains(text, want) {
			t.Errorf("the run printed no %q:\n%s", want, text)
		}
	}
	if granted.Logins() != 1 || other.Logins() != 0 {
		t.Errorf("%d and %d logins", granted.Logins(), other.Logins())
	}
	page, err := m.NetworkLog(t.Context(), run.ID, NetworkQuery{})
	if err != nil {
		t.Fatal(err)
	}
	signed, refused := 0, 0
	for _, e := range page.Entries {
		switch {
		case e.Kind == proxy.KindSignature && e.Decision == proxy.Allowed && e.Grant == grant && e.Key == fingerprint:
			signed++
		case e.Kind == proxy.KindSignature && e.Decision == proxy.Refused:
			refused++
		}
	}
	if signed != 1 || refused == 0 {
		t.Errorf("%d signatures and %d refusals are recorded: %+v", signed, refused, page.Entries)
	}

	// The mirror: without a grant there is no agent.
	without := w.started(m, Options{Cmd: shell("echo agent at $SSH_AUTH_SOCK.; ls -a /tmp")})
	w.ended(m, without.ID)
	if text := output(t, m, without.ID); !strings.Contains(text, "agent at .") || strings.Contains(text, filepath.Base(runtime.RelayedAgent)) {
		t.Errorf("without a grant the run printed %q", text)
	}
	if _, err := os.Stat(filepath.Join(without.Store.GateDir(), "ssh-agent.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a grant: %v", err)
	}
}
