package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	sshkeys "golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// sshKey is a key of a person or a host, in all forms that are used.
type sshKey struct {
	private     crypto.PrivateKey
	public      ssh.PublicKey
	fingerprint string
}

func newSSHKey(t testing.TB) sshKey {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return asSSHKey(t, private, public)
}

func asSSHKey(t testing.TB, private crypto.PrivateKey, public crypto.PublicKey) sshKey {
	t.Helper()
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return sshKey{private, key, ssh.FingerprintSHA256(key)}
}

func (k sshKey) line() string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.public))) }

// file writes the private key to a file, with a passphrase unless it is empty.
func (k sshKey) file(t testing.TB, passphrase string) string {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(k.private, "a comment")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(k.private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// agentWith is an SSH agent with keys.
func agentWith(t testing.TB, keys ...sshKey) (socket string) {
	t.Helper()
	ring := sshkeys.NewKeyring()
	for _, key := range keys {
		if err := ring.Add(sshkeys.AddedKey{PrivateKey: key.private, Comment: "mine"}); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "a") // short enough for the address of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket = filepath.Join(dir, "agent.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = sshkeys.ServeAgent(ring, conn)
			_ = conn.Close()
		}
	}()
	return socket
}

// knowsHosts writes the known_hosts file of the person.
func (c *cli) knowsHosts(lines ...string) {
	c.t.Helper()
	dir := filepath.Join(filepath.Dir(c.home), "user", ".ssh")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "known_hosts"), []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func TestSSHGrantTakesTheKeyOfTheAgentAndTheKnownHost(t *testing.T) {
	t.Parallel()
	mine, host, other := newSSHKey(t), newSSHKey(t), newSSHKey(t)
	c := newGrantCLI(t, newService(t))
	c.env = append(c.env, "SSH_AUTH_SOCK="+agentWith(t, mine))
	c.knowsHosts("# a comment", "no line", "git.example.com "+host.line(), "other.example.com "+other.line(), "@revoked * "+other.line(), "git.example.com "+other.line())
	got := c.run("grant", "ssh:Git.example.com:22")
	got.expect(t, 0, "GRANT         ssh:git.example.com\n", "key           ssh-ed25519 "+mine.fingerprint, "from          the SSH agent, which keeps it",
		"host keys     from "+filepath.Join(filepath.Dir(c.home), "user", ".ssh", "known_hosts"), host.fingerprint, "!"+other.fingerprint,
		"signs for     git.example.com port 22", "drawbridge grant allow ssh:git.example.com")
	stored, err := c.store("").Get(t.Context(), "ssh:git.example.com")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"key": mine.line(), "fingerprint": mine.fingerprint, "host_keys": host.line()}
	if diff := cmp.Diff(want, stored.Metadata); diff != "" || len(stored.Values) != 0 {
		t.Errorf("stored %d secrets, (-want +got)\n%s", len(stored.Values), diff)
	}
	c.run("grant", "ssh:git.example.com").expect(t, 0, "in place of the earlier grant")
	c.run("grant", "list").expect(t, 0, "ssh:git.example.com", " ok ")
	c.run("grant", "show", "ssh:git.example.com").expect(t, 0, "private key   in the SSH agent", host.fingerprint)
	c.run("grant", "allow", "ssh:git.example.com:22").expect(t, 0, "ssh:git.example.com: agents may use it")
	c.run("revoke", "--yes", "ssh:git.example.com").expect(t, 0)
	c.expectNotStored("ssh:git.example.com")
}

func TestSSHGrantStoresAKeyThatItIsGiven(t *testing.T) {
	t.Parallel()
	host := newSSHKey(t)
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, mine := range map[string]sshKey{"ed25519": newSSHKey(t), "ecdsa": asSSHKey(t, private, private.Public())} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newGrantCLI(t, newService(t))
			file := mine.file(t, "")
			got := c.run("grant", "ssh:git.example.com:2222", "--key", file, "--host-key", host.line()+" a comment")
			got.expect(t, 0, "GRANT         ssh:git.example.com:2222", mine.fingerprint, file+", stored encrypted", "from --host-key", "port 2222")
			stored, err := c.store("").Get(t.Context(), "ssh:git.example.com:2222")
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(file)
			if err != nil || stored.Values["private_key"].Reveal() != strings.TrimSpace(string(data)) || stored.Source != credential.SourceLogin {
				t.Errorf("stored %+v, %v", stored, err)
			}
			c.run("grant", "list").expect(t, 0, "git.example.com:2222")
			shown := c.run("grant", "show", "ssh:git.example.com:2222")
			shown.expect(t, 0, "private key   in the grant, encrypted", "!PRIVATE")
			c.expectSecret(string(bytes.Split(data, []byte("\n"))[1]), got.out, shown.out)
		})
	}
}

func TestPassphraseOfAKeyIsAskedForAndNotStored(t *testing.T) {
	t.Parallel()
	mine, host := newSSHKey(t), newSSHKey(t)
	c := newGrantCLI(t, newService(t))
	file := mine.file(t, "correct horse")
	args := []string{"grant", "ssh:git.example.com", "--key", file, "--host-key", host.line()}
	c.run(args...).expect(t, 1, "it has a passphrase", "ssh-add")
	term := c.atTerminal(args...)
	term.typed("Passphrase of "+file+": ", "wrong"+enter)
	term.end().expect(t, 1, "the passphrase is not the right one", "!wrong")
	c.expectNotStored("ssh:git.example.com")
	term = c.atTerminal(args...)
	term.typed("Passphrase of "+file+": ", "correct horse"+enter)
	term.end().expect(t, 0, mine.fingerprint, "!horse")
	stored, err := c.store("").Get(t.Context(), "ssh:git.example.com")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ssh.ParsePrivateKey([]byte(stored.Values["private_key"].Reveal() + "\n")); err != nil {
		t.Errorf("the stored key: %v", err)
	}
}

func TestSSHGrantsThatCannotBeMadeSayWhy(t *testing.T) {
	t.Parallel()
	first, second, host := newSSHKey(t), newSSHKey(t), newSSHKey(t)
	c := newGrantCLI(t, newService(t))
	one, two, none := agentWith(t, first), agentWith(t, first, second), agentWith(t)
	public := filepath.Join(t.TempDir(), "id.pub")
	if err := os.WriteFile(public, []byte(first.line()), 0o600); err != nil {
		t.Fatal(err)
	}
	c.knowsHosts("known.example.com "+host.line(), "@cert-authority *.example.org "+host.line(), "weak.example.com ssh-dss AAAAB3NzaC1kc3MAAAAA")
	for name, test := range map[string]struct {
		socket string
		args   []string
		code   int
		want   []string
	}{
		"no host":                  {one, []string{"ssh"}, 2, []string{"it names no host", "ssh:github.com"}},
		"a user":                   {one, []string{"ssh:git@known.example.com"}, 2, []string{"ssh:HOST"}},
		"a host that is not known": {one, []string{"ssh:new.example.com"}, 1, []string{"no key of new.example.com is in ", "--host-key"}},
		"another port":             {one, []string{"ssh:known.example.com:2222"}, 1, []string{"no key of [known.example.com]:2222 is in "}},
		"an authority":             {one, []string{"ssh:a.example.org"}, 1, []string{"no key of a.example.org"}},
		"a weak key":               {one, []string{"ssh:weak.example.com"}, 1, []string{"no key of weak.example.com"}},
		"a bad host key":           {one, []string{"ssh:new.example.com", "--host-key", "SHA256:abc"}, 2, []string{"TYPE and BASE64"}},
		"host keys in one":         {one, []string{"ssh:new.example.com", "--host-key", host.line() + "\n" + first.line()}, 2, []string{"several lines"}},
		"no agent":                 {"", []string{"ssh:known.example.com"}, 1, []string{"$SSH_AUTH_SOCK does not name one", "--key FILE"}},
		"an agent that is gone":    {one + ".gone", []string{"ssh:known.example.com"}, 1, []string{"ask the SSH agent", "--key FILE"}},
		"no key in the agent":      {none, []string{"ssh:known.example.com"}, 1, []string{"ssh-add"}},
		"several keys":             {two, []string{"ssh:known.example.com"}, 1, []string{"has several", first.fingerprint, second.fingerprint, "mine", "--fingerprint"}},
		"a key that is not there":  {one, []string{"ssh:known.example.com", "--fingerprint", second.fingerprint}, 1, []string{"none with the fingerprint", first.fingerprint}},
		"a file that is not there": {one, []string{"ssh:known.example.com", "--key", public + ".none"}, 1, []string{"no such file"}},
		"a public key":             {one, []string{"ssh:known.example.com", "--key", public}, 1, []string{"give the file of a private key"}},
		"two keys":                 {one, []string{"ssh:known.example.com", "--key", public, "--fingerprint", "x"}, 2, []string{"leave one of them out"}},
		"flags of others":          {one, []string{"ssh:known.example.com", "--from", "env"}, 2, []string{"not for SSH grants"}},
		"flags for others":         {one, []string{"openai", "--host-key", "x"}, 2, []string{"for SSH grants"}},
	} {
		t.Run(name, func(t *testing.T) {
			own := *c
			own.t, own.env = t, append(append([]string{}, c.env...), "SSH_AUTH_SOCK="+test.socket)
			own.run(append([]string{"grant"}, test.args...)...).expect(t, test.code, test.want...)
		})
	}
	c.run("grant", "list").expect(t, 0, "no grants")
	c.env = append(c.env, "SSH_AUTH_SOCK="+two)
	c.run("grant", "ssh:known.example.com", "--fingerprint", second.fingerprint).expect(t, 0, second.fingerprint, "!"+first.fingerprint)
	c.run("grant", "ssh:known.example.com", "--fingerprint", strings.TrimPrefix(first.fingerprint, "SHA256:")).expect(t, 0, first.fingerprint)
}

func TestHostKeysAreFoundAsOpenSSHDoes(t *testing.T) {
	t.Parallel()
	a, b := newSSHKey(t), newSSHKey(t)
	for name, test := range map[string]struct {
		lines, address string
		want           []string
	}{
		"by name":           {"git.example.com,192.0.2.1 " + a.line(), "git.example.com:22", []string{a.fingerprint}},
		"several":           {"git.example.com " + a.line() + "\ngit.example.com " + b.line(), "git.example.com:22", []string{a.fingerprint, b.fingerprint}},
		"hashed":            {knownhosts.HashHostname("git.example.com") + " " + a.line(), "git.example.com:22", []string{a.fingerprint}},
		"hashed, of others": {knownhosts.HashHostname("git.example.org") + " " + a.line(), "git.example.com:22", nil},
		"by pattern":        {"*.example.com,!bad.example.com " + a.line(), "git.example.com:22", []string{a.fingerprint}},
		"but not that":      {"*.example.com,!bad.example.com " + a.line(), "bad.example.com:22", nil},
		"with a port":       {"[git.example.com]:2222 " + a.line(), "git.example.com:2222", []string{a.fingerprint}},
		"of another port":   {"[git.example.com]:2222 " + a.line(), "git.example.com:22", nil},
		"revoked":           {"git.example.com " + a.line() + "\n@revoked git.example.com " + a.line(), "git.example.com:22", nil},
		"beside nonsense":   {"x\n\x00\n# git.example.com " + b.line() + "\ngit.example.com " + a.line() + "\ngit.example.com ssh-ed25519 AAAA", "git.example.com:22", []string{a.fingerprint}},
		"an empty file":     {"", "git.example.com:22", nil},
	} {
		file := filepath.Join(t.TempDir(), "known_hosts")
		if err := os.WriteFile(file, []byte(test.lines), 0o600); err != nil {
			t.Fatal(err)
		}
		keys, err := knownKeys(file, test.address)
		var got []string
		for _, key := range keys {
			got = append(got, ssh.FingerprintSHA256(key))
		}
		if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v, (-want +got)\n%s", name, err, diff)
		}
	}
}
