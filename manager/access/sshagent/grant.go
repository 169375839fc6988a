package sshagent

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// Provider is what the names of SSH grants begin with: "ssh:HOST", or
// "ssh:HOST:PORT" where the port is not 22.
const Provider = "ssh"

const (
	defaultPort = 22
	minRSA      = 2048 // bits; what has less is not taken any more by OpenSSH either
)

// What a stored grant holds.
const (
	fieldKey         = "key"         // the public key, as in authorized_keys
	fieldFingerprint = "fingerprint" // of it
	fieldHostKeys    = "host_keys"   // lines of TYPE and BASE64
	fieldPrivateKey  = "private_key" // secret; absent where the key is in an agent
)

// ErrKey says that a key cannot be used.
var ErrKey = errors.New("the key cannot be used")

// Grant lets a run log in to one host with one key.
type Grant struct {
	Name     string // of the grant
	Host     string
	Port     uint16
	HostKeys []ssh.PublicKey // that the host may have; at least one
	Key      ssh.PublicKey
	// Private is the key itself, nil where an agent has it.
	Private ssh.AlgorithmSigner
	pem     credential.Secret
}

// IsGrant reports whether a name is that of an SSH grant.
func IsGrant(name string) bool { return strings.HasPrefix(name, Provider+":") || name == Provider }

// ParseName returns a grant without keys for "ssh:HOST" or "ssh:HOST:PORT", under
// its canonical name.
func ParseName(name string) (Grant, error) {
	rest, ok := strings.CutPrefix(name, Provider+":")
	if !ok || rest == "" {
		return Grant{}, fmt.Errorf("use grant %.80q: it names no host; write ssh:HOST or ssh:HOST:PORT, e.g. ssh:github.com", name)
	}
	target, err := policy.ParseTarget(rest, defaultPort)
	if err != nil {
		return Grant{}, fmt.Errorf("use grant %.80q: %w; write ssh:HOST or ssh:HOST:PORT, e.g. ssh:github.com", name, err)
	}
	if addr, is := target.Host.Addr(); is && addr.Is6() {
		return Grant{}, fmt.Errorf("use grant %.80q: an IPv6 address cannot be part of a name; use a name of the host", name)
	}
	g := Grant{Name: Provider + ":" + target.Host.String(), Host: target.Host.String(), Port: target.Port}
	if g.Port != defaultPort {
		g.Name += ":" + strconv.Itoa(int(g.Port))
	}
	if _, err := credential.ParseGrant(g.Name); err != nil {
		return Grant{}, err
	}
	return g, nil
}

// Address returns the host and port as known_hosts files have them.
func (g Grant) Address() string {
	return knownhosts.Normalize(net.JoinHostPort(g.Host, strconv.Itoa(int(g.Port))))
}

// KnownHosts returns lines of a known_hosts file for the host.
func (g Grant) KnownHosts() string {
	var b strings.Builder
	for _, key := range g.HostKeys {
		b.WriteString(knownhosts.Line([]string{g.Address()}, key) + "\n")
	}
	return b.String()
}

// SetPrivate gives the grant a private key, in any PEM form without a passphrase.
func (g *Grant) SetPrivate(pem credential.Secret) error {
	signer, err := ssh.ParsePrivateKey([]byte(pem.Reveal() + "\n"))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	private, ok := signer.(ssh.AlgorithmSigner)
	if !ok {
		return fmt.Errorf("%w: it is of type %s", ErrKey, signer.PublicKey().Type())
	}
	g.Private, g.Key, g.pem = private, signer.PublicKey(), pem
	return CheckKey(g.Key)
}

// CheckKey refuses keys, of users and of hosts, that are not used here: certificates,
// DSA, and RSA of less than 2048 bits.
func CheckKey(key ssh.PublicKey) error {
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		if k, ok := key.(ssh.CryptoPublicKey); ok {
			if public, ok := k.CryptoPublicKey().(*rsa.PublicKey); ok && public.N.BitLen() >= minRSA {
				return nil
			}
		}
		return fmt.Errorf("%w: an RSA key has to have %d bits at least", ErrKey, minRSA)
	}
	return fmt.Errorf("%w: keys of type %s are not supported; use ed25519, ecdsa or rsa", ErrKey, key.Type())
}

// Credential returns what is stored of the grant.
func (g Grant) Credential() credential.Credential {
	hostKeys := make([]string, len(g.HostKeys))
	for i, key := range g.HostKeys {
		hostKeys[i] = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	}
	c := credential.Credential{
		Grant: credential.Grant(g.Name), Provider: Provider, Source: credential.SourceLogin, // what the person uses already
		Metadata: map[string]string{
			fieldKey:         strings.TrimSpace(string(ssh.MarshalAuthorizedKey(g.Key))),
			fieldFingerprint: ssh.FingerprintSHA256(g.Key),
			fieldHostKeys:    strings.Join(hostKeys, "\n"),
		},
	}
	if g.Private != nil {
		c.Values = map[string]credential.Secret{fieldPrivateKey: g.pem}
	}
	return c
}

// FromCredential returns the grant that is stored.
func FromCredential(c credential.Credential) (Grant, error) {
	g, err := ParseName(string(c.Grant))
	if err != nil {
		return Grant{}, err
	}
	if err := g.read(c); err != nil {
		return Grant{}, fmt.Errorf("use grant %s: %w; run `drawbridge grant %s` again", g.Name, err, g.Name)
	}
	return g, nil
}

// read takes the keys of a credential.
func (g *Grant) read(c credential.Credential) error {
	var err error
	if g.Key, err = ParseKey(c.Metadata[fieldKey]); err != nil {
		return fmt.Errorf("its key: %w", err)
	}
	for line := range strings.Lines(c.Metadata[fieldHostKeys]) {
		key, err := ParseKey(line)
		if err != nil {
			return fmt.Errorf("a key of the host: %w", err)
		}
		g.HostKeys = append(g.HostKeys, key)
	}
	if len(g.HostKeys) == 0 {
		return errors.New("it has no key of the host")
	}
	if pem, has := c.Values[fieldPrivateKey]; has {
		public := g.Key.Marshal()
		if err := g.SetPrivate(pem); err != nil {
			return fmt.Errorf("its private key: %w", err)
		}
		if !bytes.Equal(g.Key.Marshal(), public) {
			return errors.New("its private key is not that of the public key")
		}
	}
	return nil
}

// ParseKey reads a public key of TYPE and BASE64, with or without a comment.
func ParseKey(line string) (ssh.PublicKey, error) {
	line = strings.TrimSpace(line)
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err == nil && (len(options) > 0 || strings.ContainsAny(line, "\r\n")) {
		err = errors.New("it has options, or several lines")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: want TYPE and BASE64, e.g. ssh-ed25519 AAAA...: %w", ErrKey, err)
	}
	return key, CheckKey(key)
}

// sign signs with the private key, or has the agent at a socket do it.
func (g Grant) sign(ctx context.Context, socket string, data []byte, algorithm string) (*ssh.Signature, error) {
	if g.Private != nil {
		signature, err := g.Private.SignWithAlgorithm(rand.Reader, data, algorithm)
		if err != nil {
			return nil, errors.New("the key of the grant does not sign")
		}
		return signature, nil
	}
	var flags agent.SignatureFlags
	switch algorithm {
	case ssh.KeyAlgoRSASHA256:
		flags = agent.SignatureFlagRsaSha256
	case ssh.KeyAlgoRSASHA512:
		flags = agent.SignatureFlagRsaSha512
	}
	var signature *ssh.Signature
	err := withAgent(ctx, socket, func(a agent.ExtendedAgent) (err error) {
		signature, err = a.SignWithFlags(g.Key, data, flags)
		return err
	})
	if err != nil {
		// The text is for whoever reads the record; in it nothing of the host's
		// paths.
		return nil, errors.New("the SSH agent on the host does not sign: it is gone, has the key no longer, or somebody has declined")
	}
	return signature, nil
}

// withAgent calls do with the agent at a socket. When ctx ends, the call fails.
func withAgent(ctx context.Context, socket string, do func(agent.ExtendedAgent) error) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	return do(agent.NewClient(conn))
}

const listTimeout = 10 * time.Second

// AgentKey is a key that an agent has.
type AgentKey struct {
	Key     ssh.PublicKey
	Comment string // may hold anything
}

// AgentKeys returns the keys that the agent at a socket has, of those that can be
// used here.
func AgentKeys(ctx context.Context, socket string) ([]AgentKey, error) {
	if socket == "" {
		return nil, errors.New("ask the SSH agent for its keys: $SSH_AUTH_SOCK does not name one")
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	var usable []AgentKey
	err := withAgent(ctx, socket, func(a agent.ExtendedAgent) error {
		keys, err := a.List()
		for _, key := range keys {
			if parsed, err := ssh.ParsePublicKey(key.Blob); err == nil && CheckKey(parsed) == nil {
				usable = append(usable, AgentKey{parsed, key.Comment})
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask the SSH agent at %s for its keys: %w", socket, err)
	}
	return usable, nil
}
