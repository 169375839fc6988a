package sshagent

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/drawbridge-mcp/drawbridge/manager/access/sshagent/sshdtest"
)

func TestOpenSSHLogsInToAGrantedHost(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		for _, where := range []string{"in an agent", "in memory"} {
			t.Run(kind+" "+where, func(t *testing.T) {
				t.Parallel()
				key := newKey(t, kind)
				server := sshdtest.Start(t, key.public())
				grant, upstream := grantFor(server, key.public()), ""
				if where == "in memory" {
					grant = key.stored(t, grant)
				} else {
					upstream = personsAgent(t, newKey(t, ""), key)
				}
				s := serve(t, upstream, grant)
				out, err := s.ssh(server, "echo in")
				if err != nil || out != "in\n" {
					t.Errorf("got %q, %v", out, err)
				}
				if diff := cmp.Diff([]string{"signed"}, s.outcome()); diff != "" {
					t.Fatalf("(-want +got)\n%s", diff)
				}
				want := Event{Grant: grant.Name, Host: "127.0.0.1", Port: server.Port, User: server.User, Fingerprint: ssh.FingerprintSHA256(key.public())}
				got := s.events[0]
				got.Time, got.Duration = want.Time, want.Duration
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("recorded (-want +got)\n%s", diff)
				}
			})
		}
	}
}

// The client trusts whoever answers: what stands in the way is the agent.
func TestOpenSSHDoesNotLogInElsewhere(t *testing.T) {
	t.Parallel()
	key := newKey(t, "")
	granted, other := sshdtest.Start(t, key.public()), sshdtest.Start(t, key.public())
	upstream := personsAgent(t, key)
	s := serve(t, upstream, grantFor(granted, key.public()))
	if out, err := sshWith(t, upstream, other, "echo in"); err != nil {
		t.Fatalf("with the person's own agent: %q, %v", out, err)
	}
	out, err := s.ssh(other, "echo in")
	if err == nil || !strings.Contains(out, "Permission denied") || other.Logins() != 1 {
		t.Errorf("got %q, %v", out, err)
	}
	if got := s.outcome(); len(got) == 0 || got[0] != errHost.Error() {
		t.Errorf("recorded %q", got)
	}
}

func TestOpenSSHDoesNotLogInToAHostWithAnotherKey(t *testing.T) {
	t.Parallel()
	key := newKey(t, "")
	server := sshdtest.Start(t, key.public())
	grant := grantFor(server, key.public())
	grant.HostKeys = []ssh.PublicKey{newKey(t, "").public()}
	s := serve(t, "", key.stored(t, grant))
	if out, err := s.ssh(server, "echo in"); err == nil || server.Logins() != 0 {
		t.Errorf("got %q, %v", out, err)
	}
	if got := s.outcome(); len(got) == 0 || got[0] != errHost.Error() {
		t.Errorf("recorded %q", got)
	}
}

// Each host has the key of its own grant, and none of another's.
func TestKeysAreOfferedToTheirHostsOnly(t *testing.T) {
	t.Parallel()
	keys := []keyPair{newKey(t, ""), newKey(t, "")}
	both := []ssh.PublicKey{keys[0].public(), keys[1].public()}
	servers := []*sshdtest.Server{sshdtest.Start(t, both...), sshdtest.Start(t, both...)}
	s := serve(t, "", keys[0].stored(t, grantFor(servers[0], nil)), keys[1].stored(t, grantFor(servers[1], nil)))
	for i, server := range servers {
		if out, err := s.ssh(server, "true"); err != nil {
			t.Errorf("server %d: %q, %v", i, out, err)
		}
		for j, key := range keys {
			used := strings.Contains(server.Log(), ssh.FingerprintSHA256(key.public()))
			if used != (i == j) {
				t.Errorf("server %d has seen key %d: %v", i, j, used)
			}
		}
	}
}

// A forwarded agent would let whoever is at the other end sign, also for a host
// that is granted.
func TestForwardedAgentIsOfNoUse(t *testing.T) {
	t.Parallel()
	key := newKey(t, "")
	first, second := sshdtest.Start(t, key.public()), sshdtest.Start(t, key.public())
	upstream := personsAgent(t, key)
	onwards := strings.Join(append([]string{sshdtest.Program(t, "ssh")}, append(sshOptions(second), "echo", "further")...), " ")
	if out, err := sshWith(t, upstream, first, "-A", onwards); err != nil || out != "further\n" {
		t.Fatalf("with the person's own agent: %q, %v", out, err)
	}
	s := serve(t, upstream, grantFor(first, key.public()), grantFor(second, key.public()))
	out, err := s.ssh(first, "-A", onwards)
	if err == nil || !strings.Contains(out, "Permission denied") || second.Logins() != 1 {
		t.Errorf("got %q, %v", out, err)
	}
	got := s.outcome()
	if len(got) < 2 || got[0] != "signed" || got[1] != errForward.Error() || strings.Count(strings.Join(got, "\n"), "signed") != 1 {
		t.Errorf("recorded %q", got)
	}
	if out, err := s.ssh(first, "-A", sshdtest.Program(t, "ssh-add")+" -l"); err == nil || !strings.Contains(out, "no identities") {
		t.Errorf("the forwarded agent lists %q, %v", out, err)
	}
}

// Clients that do not bind, such as older ones, do not get a signature.
func TestClientThatDoesNotBindGetsNoSignature(t *testing.T) {
	t.Parallel()
	key := newKey(t, "")
	server := sshdtest.Start(t, key.public())
	s := serve(t, "", key.stored(t, grantFor(server, nil)))
	client := agent.NewClient(s.dial())
	_, err := ssh.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(server.Port))), &ssh.ClientConfig{
		User: server.User, Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(client.Signers)}, HostKeyCallback: ssh.FixedHostKey(server.HostKey),
	})
	if err == nil || server.Logins() != 0 {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff([]string{errUnbound.Error()}, s.outcome()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestAgentOfThePersonMayComeAndGo(t *testing.T) {
	t.Parallel()
	key := newKey(t, "")
	server := sshdtest.Start(t, key.public())
	upstream := personsAgent(t, key)
	s := serve(t, upstream, grantFor(server, key.public()))
	away := upstream + ".away"
	for _, isThere := range []bool{true, false, true} {
		if isThere {
			_ = os.Rename(away, upstream) // at first it is in its place
		} else if err := os.Rename(upstream, away); err != nil {
			t.Fatal(err)
		}
		if out, err := s.ssh(server, "true"); (err == nil) != isThere {
			t.Errorf("got %q, %v with an agent: %v", out, err, isThere)
		}
	}
	if got := s.outcome(); len(got) != 3 || !strings.Contains(got[1], "does not sign") || strings.Contains(got[1], upstream) {
		t.Errorf("recorded %q", got)
	}
}

func TestAgentChangesNothing(t *testing.T) {
	t.Parallel()
	key := newKey(t, "")
	upstream := personsAgent(t, key)
	s := serve(t, upstream, Grant{Name: "ssh:a", Host: "a", Port: 22, HostKeys: []ssh.PublicKey{newKey(t, "").public()}, Key: key.public()})
	client := agent.NewClient(s.dial())
	extension := func() error {
		_, err := client.Extension("query", nil)
		return err
	}
	for name, err := range map[string]error{
		"add": client.Add(agent.AddedKey{PrivateKey: newKey(t, "").private}), "remove": client.Remove(key.public()), "remove all": client.RemoveAll(),
		"lock": client.Lock([]byte("x")), "unlock": client.Unlock([]byte("x")), "an extension": extension(),
	} {
		if err == nil {
			t.Errorf("%s: done", name)
		}
	}
	if got := s.outcome(); len(got) != 6 {
		t.Errorf("recorded %q", got)
	}
	keys, err := AgentKeys(t.Context(), upstream)
	if err != nil || len(keys) != 1 {
		t.Errorf("the person's agent has %v, %v", keys, err)
	}
	if _, err := AgentKeys(t.Context(), ""); err == nil {
		t.Error("an agent without a name")
	}
	if _, err := AgentKeys(t.Context(), upstream+".none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an agent that is not there: %v", err)
	}
}
