package sshagent

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/sshagent/sshdtest"
)

// keyPair is a key of a user or of a host.
type keyPair struct {
	private crypto.Signer
	signer  ssh.AlgorithmSigner
}

func (k keyPair) public() ssh.PublicKey { return k.signer.PublicKey() }

func newKey(t testing.TB, kind string) keyPair {
	t.Helper()
	var private crypto.Signer
	var err error
	switch kind {
	case "rsa":
		private, err = rsa.GenerateKey(rand.Reader, minRSA)
	case "ecdsa":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		_, private, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return keyPair{private, signer.(ssh.AlgorithmSigner)}
}

// stored is a grant with its key in memory.
func (k keyPair) stored(t testing.TB, g Grant) Grant {
	t.Helper()
	if err := g.SetPrivate(credential.NewSecret(strings.TrimSpace(string(sshdtest.PEM(t, k.private))))); err != nil {
		t.Fatal(err)
	}
	return g
}

// grantFor is a grant for a server, with a key that an agent has.
func grantFor(s *sshdtest.Server, key ssh.PublicKey) Grant {
	return Grant{Name: "ssh:127.0.0.1:" + strconv.Itoa(int(s.Port)), Host: "127.0.0.1", Port: s.Port, HostKeys: []ssh.PublicKey{s.HostKey}, Key: key}
}

// personsAgent is ssh-agent with these keys.
func personsAgent(t testing.TB, keys ...keyPair) (socket string) {
	t.Helper()
	socket = filepath.Join(shortDir(t), "person.sock")
	cmd := exec.Command(sshdtest.Program(t, "ssh-agent"), "-D", "-a", socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = withAgent(t.Context(), socket, func(a agent.ExtendedAgent) error {
			_, err := a.List()
			return err
		}); err == nil {
			break
		}
	}
	for _, key := range keys {
		if err == nil {
			err = withAgent(t.Context(), socket, func(a agent.ExtendedAgent) error { return a.Add(agent.AddedKey{PrivateKey: key.private}) })
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return socket
}

// shortDir is a directory whose sockets have addresses that are short enough.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "a")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// served is the agent of a run that serves.
type served struct {
	*testing.T
	*Server

	mu     sync.Mutex
	events []Event // guarded by mu
}

func serve(t *testing.T, upstream string, grants ...Grant) *served {
	t.Helper()
	s := &served{T: t}
	s.Server = New(Options{SocketPath: filepath.Join(shortDir(t), "run.sock"), Grants: grants, Upstream: upstream, Record: func(e Event) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.events = append(s.events, e)
	}})
	l, err := net.Listen("unix", s.SocketPath)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(ctx, l)
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	return s
}

// outcome is what has happened so far: "signed", or why not.
func (s *served) outcome() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []string{}
	for _, e := range s.events {
		if e.Refused == "" {
			all = append(all, "signed")
		} else {
			all = append(all, e.Refused)
		}
	}
	return all
}

func (s *served) dial() net.Conn {
	s.Helper()
	conn, err := net.Dial("unix", s.SocketPath)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ssh runs OpenSSH's client with the run's agent, which trusts the server as it is.
func (s *served) ssh(server *sshdtest.Server, arguments ...string) (string, error) {
	s.Helper()
	return sshWith(s.T, s.SocketPath, server, arguments...)
}

func sshWith(t *testing.T, socket string, server *sshdtest.Server, arguments ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, sshdtest.Program(t, "ssh"), append(sshOptions(server), arguments...)...)
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// sshOptions log in at a server with a key of the agent.
func sshOptions(server *sshdtest.Server) []string {
	return []string{
		"-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"-o", "IdentityFile=none", "-p", strconv.Itoa(int(server.Port)), server.User + "@127.0.0.1",
	}
}
