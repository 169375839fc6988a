// Package sshdtest is OpenSSH's server on loopback, for tests: with host keys and
// users' keys of its own, nothing of the machine's configuration, and sessions of
// the test's own user.
package sshdtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// Server is a running server.
type Server struct {
	Port    uint16 // on 127.0.0.1
	User    string // who can log in
	HostKey ssh.PublicKey

	program, config string

	mu  sync.Mutex
	log bytes.Buffer // guarded by mu
}

// Start starts a server that lets these keys in. It ends with the test, which is
// skipped where there is no sshd.
func Start(t testing.TB, authorized ...ssh.PublicKey) *Server {
	t.Helper()
	s := &Server{program: Program(t, "sshd"), config: filepath.Join(t.TempDir(), "sshd_config")}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s.User = me.Username
	if os.Geteuid() == 0 {
		// Where root's sshd has a part of it without privileges.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { //nolint:gosec // as its package makes it
			t.Fatal(err)
		}
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if s.HostKey, err = ssh.NewPublicKey(public); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(s.config)
	var keys []byte
	for _, key := range authorized {
		keys = append(keys, ssh.MarshalAuthorizedKey(key)...)
	}
	for name, content := range map[string][]byte{
		"host_key":        PEM(t, private),
		"authorized_keys": keys,
		// A shell at the second level does not read what its user has written for the
		// first one, which may print.
		"sshd_config": fmt.Appendf(nil, `HostKey %[1]s/host_key
AuthorizedKeysFile %[1]s/authorized_keys
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowAgentForwarding yes
LogLevel VERBOSE
SetEnv SHLVL=1
`, dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.listen(t)
	return s
}

// listen starts a server for each connection, as inetd does: so the port is never
// somebody else's.
func (s *Server) listen(t testing.TB) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s.Port = l.Addr().(*net.TCPAddr).AddrPort().Port()
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.AcceptTCP()
			if err != nil {
				return
			}
			serving.Go(func() { s.serve(ctx, conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		cancel()
		serving.Wait()
		if t.Failed() {
			t.Logf("sshd on port %d:\n%s", s.Port, s.Log())
		}
	})
}

func (s *Server) serve(ctx context.Context, conn *net.TCPConn) {
	socket, err := conn.File()
	_ = conn.Close()
	if err != nil {
		return
	}
	defer socket.Close()
	cmd := exec.CommandContext(ctx, s.program, "-i", "-e", "-f", s.config)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = socket, socket, (*logWriter)(s)
	_ = cmd.Run() // its log says why it failed
}

// Log returns what the server logged.
func (s *Server) Log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// Logins counts the logins that succeeded.
func (s *Server) Logins() int { return strings.Count(s.Log(), "Accepted publickey") }

type logWriter Server

func (w *logWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

// Program returns the path of a program of OpenSSH. Without it the test is skipped.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	// Where the PATH of an ordinary user does not look. sshd insists on a whole path.
	if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
		runtimetest.Missing(t, "this machine has no %s: %v", name, err)
	}
	return path
}

// PEM returns a private key as OpenSSH writes it.
func PEM(t testing.TB, private crypto.PrivateKey) []byte {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block)
}
