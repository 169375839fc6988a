package daemon

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/sshagent"
)

// storeSSH stores a grant, with its private key or without, and returns it.
func (w *world) storeSSH(name string, withKey bool) sshagent.Grant {
	w.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		w.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		w.Fatal(err)
	}
	g, err := sshagent.ParseName(name)
	if err == nil {
		err = g.SetPrivate(credential.NewSecret(strings.TrimSpace(string(pem.EncodeToMemory(block)))))
	}
	if err != nil {
		w.Fatal(err)
	}
	g.HostKeys = []ssh.PublicKey{g.Key} // any will do
	if !withKey {
		g.Private = nil
	}
	store, err := credential.Open(credential.Dir(w.home), credential.Options{Backend: credential.BackendFile})
	if err == nil {
		err = store.Put(w.Context(), g.Credential())
	}
	if err != nil {
		w.Fatal(err)
	}
	return g
}

// offered are the fingerprints of the keys that the agent of a run offers.
func (w *world) offered(r RegisterRequest) []string {
	w.Helper()
	var got []string
	err := withShortPath(filepath.Join(r.GateDir, AgentFile), func(path string) error {
		conn, err := net.Dial("unix", path)
		if err != nil {
			return err
		}
		defer conn.Close()
		keys, err := agent.NewClient(conn).List()
		for _, key := range keys {
			got = append(got, ssh.FingerprintSHA256(key))
		}
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	return got
}

func TestRunWithSSHGrantsHasAnAgentThatSurvivesTheDaemon(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stays)
	first, second := w.storeSSH("ssh:git.example.com", true), w.storeSSH("ssh:host.test:2222", true)
	r := w.request(1)
	r.Grants = []string{first.Name, second.Name}
	got := w.register(r)
	keys := []string{ssh.FingerprintSHA256(first.Key), ssh.FingerprintSHA256(second.Key)}
	if diff := cmp.Diff(keys, got.SSHKeys); diff != "" {
		t.Errorf("registered (-want +got)\n%s", diff)
	}
	for _, want := range []string{"SSH_AUTH_SOCK=/run/drawbridge/gate/ssh-agent.sock", "GIT_SSH_COMMAND=ssh -F /run/drawbridge/gate/home/.ssh/config"} {
		if !slices.Contains(got.Env, want) {
			t.Errorf("the sandbox gets %v", got.Env)
		}
	}
	for file, want := range map[string]string{
		sshKnownHosts: first.KnownHosts() + second.KnownHosts(),
		sshConfig:     "ProxyCommand /run/drawbridge/guest connect %h %p",
	} {
		text, err := os.ReadFile(filepath.Join(r.GateDir, HomeDir, file))
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s is %q, %v", file, text, err)
		}
	}
	for _, end := range []syscall.Signal{0, syscall.SIGKILL, syscall.SIGTERM} {
		if end != 0 {
			w.kill(end)
			r.Token = got.Token
			w.register(r)
		}
		if diff := cmp.Diff(keys, w.offered(r)); diff != "" {
			t.Errorf("after %v (-want +got)\n%s", end, diff)
		}
	}
	if err := w.client.Unregister(t.Context(), r.RunID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(r.GateDir, AgentFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// The hosts of SSH grants can be reached on their ports, and not on others.
func TestHostsOfSSHGrantsAreReachedOnTheirPorts(t *testing.T) {
	t.Parallel()
	all := resolved{}
	for _, name := range []string{"ssh:git.example.com", "ssh:host.test:2222", "ssh:192.0.2.1"} {
		g, err := sshagent.ParseName(name)
		if err != nil {
			t.Fatal(err)
		}
		all.ssh = append(all.ssh, g)
	}
	rules, err := all.sshRules()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, rule := range rules {
		got = append(got, rule.String())
	}
	if diff := cmp.Diff([]string{"git.example.com:22", "host.test:2222", "192.0.2.1:22"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestKeyThatIsNotThereIsToldWhenARunIsRegistered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stays)
	g := w.storeSSH("ssh:git.example.com", false)
	r := w.request(1)
	r.Grants, r.SSHAuthSock = []string{g.Name}, filepath.Join(w.home, "none.sock")
	if _, err := w.client.Register(t.Context(), r); err == nil || !strings.Contains(err.Error(), "drawbridge grant ssh:git.example.com --key FILE") {
		t.Errorf("got %v", err)
	}
	// A run that was served already is served on: the key may come back.
	r.Token = "of an earlier registration"
	w.register(r)
	conn, err := dial(t.Context(), filepath.Join(r.GateDir, AgentFile))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := agent.NewClient(conn).Sign(g.Key, []byte("x")); err == nil {
		t.Error("signed")
	}
	entries := w.entries(r)
	if len(entries) != 1 || entries[0].Kind != proxy.KindSignature || entries[0].Decision != proxy.Refused || entries[0].Host != unknownHost || entries[0].Error == "" {
		t.Errorf("recorded %+v", entries)
	}
}
