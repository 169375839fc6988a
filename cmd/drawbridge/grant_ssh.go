package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/sshagent"
)

// sshFlags are the flags of grant that are for SSH only.
type sshFlags struct {
	fingerprint string
	keyFile     string
	hostKeys    []string
}

func (f sshFlags) isSet() bool { return f.fingerprint != "" || f.keyFile != "" || len(f.hostKeys) > 0 }

// maxKnownHosts bounds what is read of a known_hosts file, in bytes.
const maxKnownHosts = 16 << 20

// checkSSHFlags refuses flags that would do nothing.
func checkSSHFlags(name string, f grantFlags) error {
	isSSH := sshagent.IsGrant(name)
	switch {
	case !isSSH && f.ssh.isSet():
		return usagef("leave them out, or name a grant such as ssh:github.com", "--fingerprint, --key and --host-key are for SSH grants")
	case isSSH && (f.from != "" || len(f.set) > 0 || f.noVerify):
		return usagef("leave them out; --key and --fingerprint say which key it is", "--from, --set and --no-verify are not for SSH grants")
	case f.ssh.fingerprint != "" && f.ssh.keyFile != "":
		return usagef("leave one of them out", "--fingerprint names a key of the agent, and --key a file")
	}
	return nil
}

// grantSSH makes and stores a grant for a host of SSH.
func (a *app) grantSSH(ctx context.Context, g *grants, name string, f sshFlags) error {
	grant, err := sshagent.ParseName(name)
	if err != nil {
		return usagef("e.g. `drawbridge grant ssh:github.com`", "%v", err)
	}
	old, err := g.earlier(ctx, credential.Grant(grant.Name))
	if err != nil {
		return err
	}
	hostsFrom, err := addHostKeys(&grant, f.hostKeys)
	if err != nil {
		return err
	}
	keyFrom := "the SSH agent, which keeps it"
	if f.keyFile != "" {
		keyFrom = f.keyFile + ", stored encrypted"
		err = a.addKeyFile(ctx, &grant, f.keyFile)
	} else {
		grant.Key, err = agentKey(ctx, f.fingerprint)
	}
	if err != nil {
		return err
	}
	if err := g.store.Put(ctx, grant.Credential()); err != nil {
		return err
	}
	return a.printSSHStored(g, grant, keyFrom, hostsFrom, old)
}

func (a *app) printSSHStored(g *grants, grant sshagent.Grant, keyFrom, hostsFrom string, replaced bool) error {
	t := facts{table{header: []string{"GRANT", grant.Name}}}
	t.add("profile", g.store.Profile())
	if replaced {
		keyFrom += "; in place of the earlier grant"
	}
	t.add("key", grant.Key.Type()+" "+ssh.FingerprintSHA256(grant.Key))
	t.add("from", keyFrom)
	t.add("host keys", "from "+hostsFrom)
	for _, key := range grant.HostKeys {
		t.add("", key.Type()+" "+ssh.FingerprintSHA256(key))
	}
	t.addSSHUse(grant)
	agents, err := g.agentsText(credential.Grant(grant.Name))
	if err != nil {
		return err
	}
	t.add("agents", agents)
	return t.write(a.out)
}

// addSSHUse adds what a run can do with an SSH grant.
func (f *facts) addSSHUse(grant sshagent.Grant) {
	f.add("signs for", fmt.Sprintf("%s port %d", grant.Host, grant.Port))
	f.addEach("sandbox sees", []string{"$SSH_AUTH_SOCK, an agent that has the public key", "$GIT_SSH_COMMAND, ~/.ssh/config, ~/.ssh/known_hosts"})
}

// addHostKeys adds the keys that the host is known by: those that are given, or
// those of this machine's known_hosts files. A host that is not known is never
// asked for its key: whoever answers would be trusted.
func addHostKeys(grant *sshagent.Grant, given []string) (from string, err error) {
	for _, line := range given {
		key, err := sshagent.ParseKey(line)
		if err != nil {
			return "", usagef(`write e.g. --host-key "ssh-ed25519 AAAA..."`, "--host-key: %v", err)
		}
		grant.HostKeys = append(grant.HostKeys, key)
	}
	if len(given) > 0 {
		return "--host-key", nil
	}
	files := []string{"/etc/ssh/ssh_known_hosts"}
	if home, err := os.UserHomeDir(); err == nil {
		files = append([]string{filepath.Join(home, ".ssh", "known_hosts")}, files...)
	}
	var read []string
	for _, file := range files {
		keys, err := knownKeys(file, net.JoinHostPort(grant.Host, strconv.Itoa(int(grant.Port))))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("read the keys of %s in %s: %w", grant.Host, file, err)
		}
		if len(keys) > 0 {
			grant.HostKeys, read = append(grant.HostKeys, keys...), append(read, file)
		}
	}
	if len(grant.HostKeys) == 0 {
		return "", mended("connect to it once with `ssh`, and compare its key with what its operator says; or give --host-key with a key that you know",
			fmt.Errorf("make the grant %s: no key of %s is in %s", grant.Name, grant.Address(), strings.Join(files, " or ")))
	}
	return strings.Join(read, " and "), nil
}

// knownKeys returns the keys of a host in a known_hosts file. Lines that are no
// such, and keys that cannot be used, are left out, as OpenSSH does.
func knownKeys(file, address string) ([]ssh.PublicKey, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxKnownHosts {
		return nil, fmt.Errorf("it has more than %d bytes", maxKnownHosts)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var usable, revoked [][]byte
	for line := range bytes.Lines(data) {
		marker, _, key, _, _, err := ssh.ParseKnownHosts(line)
		switch {
		case err != nil:
		case marker == "revoked":
			revoked = append(revoked, key.Marshal())
		case marker == "" && sshagent.CheckKey(key) == nil:
			usable = append(usable, line)
		}
	}
	keys, err := matching(usable, address)
	var known []ssh.PublicKey
	for _, key := range keys {
		if !containsKey(revoked, key) {
			known = append(known, key)
		}
	}
	return known, err
}

func containsKey(blobs [][]byte, key ssh.PublicKey) bool {
	for _, blob := range blobs {
		if bytes.Equal(blob, key.Marshal()) {
			return true
		}
	}
	return false
}

// matching returns the keys of the lines that are about a host.
func matching(lines [][]byte, address string) ([]ssh.PublicKey, error) {
	if len(lines) == 0 {
		return nil, nil
	}
	dir, err := os.MkdirTemp("", "drawbridge-known-hosts-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(file, bytes.Join(lines, []byte("\n")), 0o600); err != nil {
		return nil, err
	}
	check, err := knownhosts.New(file)
	if err != nil {
		return nil, err
	}
	// Asked about a key that nobody has, it tells those that it wants.
	nobody, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		return nil, err
	}
	wanted, ok := errors.AsType[*knownhosts.KeyError](check(address, &net.TCPAddr{}, nobody))
	if !ok {
		return nil, nil
	}
	var keys []ssh.PublicKey
	for _, known := range wanted.Want {
		keys = append(keys, known.Key)
	}
	return keys, nil
}

// agentKey chooses the key of a fingerprint in the agent of the person, or the only
// one.
func agentKey(ctx context.Context, fingerprint string) (ssh.PublicKey, error) {
	keys, err := sshagent.AgentKeys(ctx, os.Getenv("SSH_AUTH_SOCK"))
	if err != nil {
		return nil, mended("start one and `ssh-add` the key, or store the key itself with --key FILE", err)
	}
	var described []string
	var chosen ssh.PublicKey
	for _, key := range keys {
		own := ssh.FingerprintSHA256(key.Key)
		described = append(described, oneLine(fmt.Sprintf("%s (%s %s)", own, key.Key.Type(), key.Comment)))
		if own == fingerprint || own == "SHA256:"+fingerprint || fingerprint == "" && len(keys) == 1 {
			chosen = key.Key
		}
	}
	switch {
	case chosen != nil:
		return chosen, nil
	case len(keys) == 0:
		return nil, mended("run `ssh-add`, or store the key itself with --key FILE", errors.New("choose a key: the SSH agent has none that can be used"))
	case fingerprint == "":
		return nil, mended("name one with --fingerprint: "+strings.Join(described, ", "), errors.New("choose a key: the SSH agent has several"))
	}
	return nil, mended("name one of "+strings.Join(described, ", "), fmt.Errorf("choose a key: the SSH agent has none with the fingerprint %.80s", fingerprint))
}

// addKeyFile gives the grant the private key in a file, which is stored without its
// passphrase: the store is encrypted.
func (a *app) addKeyFile(ctx context.Context, grant *sshagent.Grant, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read the key: %w", err)
	}
	if len(data) > credential.MaxPlaintext {
		return fmt.Errorf("read the key: %s has more than %d bytes", file, credential.MaxPlaintext)
	}
	var locked *ssh.PassphraseMissingError
	if _, err := ssh.ParseRawPrivateKey(data); errors.As(err, &locked) {
		if data, err = a.unlock(ctx, file, data); err != nil {
			return err
		}
	}
	if err := grant.SetPrivate(credential.NewSecret(strings.TrimSpace(string(data)))); err != nil {
		return mended("give the file of a private key, such as ~/.ssh/id_ed25519", fmt.Errorf("read the key in %s: %w", file, err))
	}
	return nil
}

// unlock asks for the passphrase of a key, and returns the key without it.
func (a *app) unlock(ctx context.Context, file string, data []byte) ([]byte, error) {
	if !terminal.Is(a.in) {
		return nil, mended("run it in a terminal to be asked, or `ssh-add` the key and leave --key out", fmt.Errorf("read the key in %s: it has a passphrase", file))
	}
	passphrase, err := a.askSecret(ctx, "Passphrase of "+file+": ")
	if err != nil {
		return nil, err
	}
	raw, err := ssh.ParseRawPrivateKeyWithPassphrase(data, []byte(passphrase))
	if err != nil {
		return nil, mended("try again", fmt.Errorf("read the key in %s: the passphrase is not the right one, or the key cannot be read", file))
	}
	return encodeKey(raw)
}

// encodeKey writes a private key as OpenSSH does, without a passphrase.
func encodeKey(raw any) ([]byte, error) {
	block, err := ssh.MarshalPrivateKey(raw, "")
	if err != nil {
		return nil, fmt.Errorf("encode the key: %w", err)
	}
	return pem.EncodeToMemory(block), nil
}

// sshView adds to a view what there is to tell of an SSH grant.
func (g *grants) sshView(ctx context.Context, v *grantView, id credential.Grant) {
	grant, err := g.sshGrant(ctx, id)
	if err != nil {
		v.State, v.Reason = stateUnusable, err.Error()
		return
	}
	v.Hosts = []string{grant.Host}
	if grant.Port != 22 {
		v.Hosts = []string{net.JoinHostPort(grant.Host, strconv.Itoa(int(grant.Port)))}
	}
}

func (g *grants) sshGrant(ctx context.Context, id credential.Grant) (sshagent.Grant, error) {
	cred, err := g.store.Get(ctx, id)
	if err != nil {
		return sshagent.Grant{}, err
	}
	return sshagent.FromCredential(cred)
}

// printSSHGrant shows an SSH grant.
func (a *app) printSSHGrant(g *grants, cred credential.Credential) error {
	f := facts{table{header: []string{"GRANT", string(cred.Grant)}}}
	grant, unusable := sshagent.FromCredential(cred)
	f.add("provider", cred.Provider)
	f.add("profile", g.store.Profile())
	if unusable != nil {
		f.add("state", stateUnusable+": "+oneLine(unusable.Error()))
	} else {
		f.add("state", string(credential.StateOK))
		f.add("key", grant.Key.Type()+" "+ssh.FingerprintSHA256(grant.Key))
		kept := "in the SSH agent"
		if grant.Private != nil {
			kept = "in the grant, encrypted"
		}
		f.add("private key", kept)
		var hostKeys []string
		for _, key := range grant.HostKeys {
			hostKeys = append(hostKeys, key.Type()+" "+ssh.FingerprintSHA256(key))
		}
		f.addEach("host keys", hostKeys)
		f.addSSHUse(grant)
	}
	f.add("created", timeText(cred.CreatedAt, time.Now()))
	agents, err := g.agentsText(cred.Grant)
	if err != nil {
		return err
	}
	f.add("agents", agents)
	return f.write(a.out)
}
