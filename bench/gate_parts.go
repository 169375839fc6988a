package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"sync"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
)

// Parts
//
// The server, the gate, each floor and each peer are processes of their own, so
// that none is measured with the garbage of another. But for the peers they are this
// program again, told apart by an environment variable. A part reads what it is from
// its standard input, writes where it listens to its standard output, and ends when
// its input does.

// partVariable makes a process of this program a part.
const partVariable = "DRAWBRIDGE_BENCH_PART"

// Names of the parts.
const (
	partServer  = "server"
	partGate    = "gate"
	partCopying = "copying"
	partReverse = "reverse"
	partTunnel  = "tunnel"
	// Of the program in bench/peers.
	partPeer      = "goproxy"
	partPeerTuned = "goproxy-tuned"
)

const (
	// serverName is an address: looking up a name would cost all the same.
	serverName       = "127.0.0.1"
	smallSize        = 64
	authorizedHeader = "X-Authorized"
	credentialValue  = "Bearer ghp_7f3a9c51e0d84b26a1c77f3a9c51e0d84b26"
	gateLogLimit     = 64 << 20
	partTimeout      = 20 * time.Second // to begin
)

// partConfig is what a part is told.
type partConfig struct {
	Part        string `json:"part"`
	Dir         string `json:"dir"`  // its own
	Runs        int    `json:"runs"` // and so sockets; the gate has one more, for tunnels
	Port        int    `json:"port"` // of the server
	Trust       []byte `json:"trust"`
	Certificate []byte `json:"certificate"` // of the server, and of floors
	Key         []byte `json:"key"`
	Credential  string `json:"credential"`
	Profile     string `json:"profile,omitempty"` // file for a CPU profile
}

// partReady is what it answers.
type partReady struct {
	Port      int      `json:"port,omitempty"`
	Sockets   []string `json:"sockets,omitempty"`
	Preamble  string   `json:"preamble,omitempty"`
	Authority []byte   `json:"authority,omitempty"` // what clients have to trust
}

// part is a process.
type part struct {
	partReady
	cmd   *exec.Cmd
	stdin io.Closer
	kill  bool // it does not end with its input, and has none
}

func (p *part) pid() int { return p.cmd.Process.Pid }

func (p *part) stop() error {
	if p.kill {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait() // it says that it was killed
		return nil
	}
	_ = p.stdin.Close()
	return p.cmd.Wait()
}

// start starts this program as a part.
func (b *gateBench) start(ctx context.Context, config partConfig) (*part, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return b.startProgram(ctx, self, config)
}

func (b *gateBench) startProgram(ctx context.Context, program string, config partConfig) (*part, error) {
	config.Dir = filepath.Join(b.w.dir, "p"+strconv.Itoa(len(b.parts)))
	if err := os.Mkdir(config.Dir, 0o700); err != nil {
		return nil, err
	}
	if b.w.profile != "" {
		config.Profile = filepath.Join(b.w.profile, fmt.Sprintf("%s-%d.pprof", config.Part, len(b.parts)))
	}
	config.Credential = credentialValue
	config.Trust, config.Certificate, config.Key = b.pair.authority, b.pair.certificate, b.pair.key
	if b.server != nil {
		config.Port = b.server.Port
	}
	config.Runs = max(config.Runs, 1)
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), partVariable+"=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &part{cmd: cmd, stdin: stdin}
	b.parts = append(b.parts, p)
	defer context.AfterFunc(ctx, func() { _ = stdin.Close() })()
	late := time.AfterFunc(partTimeout, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	if err := json.NewEncoder(stdin).Encode(config); err != nil {
		return nil, fmt.Errorf("start %s: %w", config.Part, err)
	}
	if err := json.NewDecoder(stdout).Decode(&p.partReady); err != nil {
		return nil, fmt.Errorf("start %s: %w", config.Part, err)
	}
	return p, nil
}

// buildPeer builds the peer, which has a module of its own: Drawbridge does not
// depend on it.
func (w *world) buildPeer(ctx context.Context) (string, error) {
	output := filepath.Join(w.dir, "peers")
	ctx, cancel := context.WithTimeout(ctx, buildTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-mod=readonly", "-o", output, ".")
	cmd.Dir = filepath.Join(w.root, "bench", "peers")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build bench/peers: %w: %s", err, out)
	}
	return output, nil
}

// servePart is the main function of a part.
func servePart() error {
	in := bufio.NewReader(os.Stdin)
	var config partConfig
	line, err := in.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &config)
	}
	if err != nil {
		return fmt.Errorf("read what to be: %w", err)
	}
	if config.Profile != "" {
		file, err := os.Create(config.Profile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	ready, err := config.begin()
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(ready); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// begin starts what the part is. It goes on until the process ends.
func (c *partConfig) begin() (*partReady, error) {
	switch c.Part {
	case partServer:
		return c.beginServer()
	case partGate:
		return c.beginGate()
	case partTunnel:
		return c.listen(nil, func(l net.Listener) { accept(l, tunnel) })
	}
	pair, err := tls.X509KeyPair(c.Certificate, c.Key)
	if err != nil {
		return nil, err
	}
	f := &floor{
		inner: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
		outer: &tls.Config{RootCAs: pool(c.Trust), ServerName: serverName, MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(0)},
	}
	switch c.Part {
	case partCopying:
		return c.listen(c.Trust, func(l net.Listener) { accept(l, f.copying) })
	case partReverse:
		handler := f.reverse()
		return c.listen(c.Trust, func(l net.Listener) { _ = http.Serve(l, handler) })
	}
	return nil, fmt.Errorf("there is no part %q", c.Part)
}

// listen opens the sockets of a part.
func (c *partConfig) listen(authority []byte, serve func(net.Listener)) (*partReady, error) {
	ready := &partReady{Authority: authority}
	for i := range c.Runs {
		socket := filepath.Join(c.Dir, strconv.Itoa(i))
		l, err := net.Listen("unix", socket)
		if err != nil {
			return nil, err
		}
		go serve(l)
		ready.Sockets = append(ready.Sockets, socket)
	}
	return ready, nil
}

// beginGate starts a gate with runs that have a policy of 20 rules, a record and a
// grant each. One more has none but a rule for the server: its connections are
// tunnelled.
func (c *partConfig) beginGate() (*partReady, error) {
	authority, err := proxy.OpenAuthority(filepath.Join(c.Dir, "ca"))
	if err != nil {
		return nil, err
	}
	gate := proxy.New(proxy.Options{Authority: authority, Roots: pool(c.Trust)})
	const token = "bench"
	ready, err := c.listenGate(gate, token)
	if err != nil {
		return nil, err
	}
	ready.Authority, ready.Preamble = authority.PEM(), proxy.Preamble(token)
	return ready, nil
}

func (c *partConfig) listenGate(gate *proxy.Gate, token string) (*partReady, error) {
	host := serverName + ":" + strconv.Itoa(c.Port)
	ready := &partReady{}
	for i := range c.Runs + 1 {
		texts := gateRules(host)
		run := &proxy.Run{ID: fmt.Sprintf("run_%012d", i), Token: token}
		if i == c.Runs {
			texts = []string{host}
		} else {
			run.Grants = c.grants()
		}
		var rules []policy.Rule
		for _, text := range texts {
			rule, err := policy.ParseRule(text)
			if err != nil {
				return nil, err
			}
			rules = append(rules, rule)
		}
		run.Policy = policy.New(policy.Strict, rules)
		record, err := openGateRecord(filepath.Join(c.Dir, "log"+strconv.Itoa(i)))
		if err != nil {
			return nil, err
		}
		run.Record = record.add
		socket := filepath.Join(c.Dir, strconv.Itoa(i))
		l, err := net.Listen("unix", socket)
		if err != nil {
			return nil, err
		}
		go gate.Serve(context.Background(), run, l)
		ready.Sockets = append(ready.Sockets, socket)
	}
	return ready, nil
}

// gateRules are 20 rules, of which the last lets the requests through.
func gateRules(host string) []string {
	rules := []string{"registry.npmjs.org", "*.pythonhosted.org", "pypi.org", "proxy.golang.org", "*.debian.org:80"}
	for _, path := range []string{"/repos/*/issues/**", "/repos/*/pulls/**", "/user", "/search/**", "/orgs/*/members/**"} {
		rules = append(rules, "api.github.com allow GET "+path, "api.github.com allow POST "+path)
	}
	return append(rules,
		host+" deny * /admin/**", host+" deny DELETE /v1/**", host+" allow GET /v2/*/items/**",
		host+" allow POST /v1/upload", host+" allow GET /v1/**")
}

func (c *partConfig) grants() []proxy.Grant {
	secret := credential.NewSecret(c.Credential)
	return []proxy.Grant{{Name: "bench", Rules: []provider.Rule{{
		Hosts: []string{serverName}, Ports: []uint16{uint16(c.Port)},
		Header: "Authorization", Value: secret, Placeholder: "bench-placeholder-00000000000000",
	}}}}
}

// gateRecord writes requests down as the daemon does.
type gateRecord struct {
	mu     sync.Mutex
	writer *logring.Writer // guarded by mu
}

func openGateRecord(dir string) (*gateRecord, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := logring.Create(dir, gateLogLimit); err != nil {
		return nil, err
	}
	segments, err := logring.OpenSegments(dir)
	if err != nil {
		return nil, err
	}
	writer, err := logring.NewWriter(segments, gateLogLimit)
	if err != nil {
		return nil, err
	}
	return &gateRecord{writer: writer}, nil
}

func (r *gateRecord) add(e proxy.Entry) {
	line, err := json.Marshal(e)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.writer.Append(logring.Stdout, e.Time, false, append(line, '\n')); err != nil {
		fmt.Fprintln(os.Stderr, "bench: the gate's record:", err)
	}
}

// newContent is content in which nothing repeats.
func newContent() []byte {
	content := make([]byte, contentSize)
	source := mathrand.NewChaCha8([32]byte{1})
	_, _ = source.Read(content) // it never fails
	return content
}

// beginServer starts the server that everything is about.
func (c *partConfig) beginServer() (*partReady, error) {
	pair, err := tls.X509KeyPair(c.Certificate, c.Key)
	if err != nil {
		return nil, err
	}
	content := newContent()
	small := content[:smallSize]
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/small", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(small) })
	mux.HandleFunc("/v1/download", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		for rest := content; len(rest) > 0; {
			n := min(len(rest), 256<<10)
			if _, err := w.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
	})
	mux.HandleFunc("/v1/upload", func(w http.ResponseWriter, req *http.Request) {
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, req.Body, make([]byte, 64<<10))
		_, _ = io.WriteString(w, strconv.FormatInt(n, 10))
	})
	mux.HandleFunc("/v1/events", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range eventsATurn {
			time.Sleep(eventPause)
			fmt.Fprintf(w, "data: %d\n\n", time.Now().UnixNano())
			_ = http.NewResponseController(w).Flush()
		}
	})
	l, err := net.Listen("tcp", serverName+":0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set(authorizedHeader, strconv.FormatBool(req.Header.Get("Authorization") == c.Credential))
			mux.ServeHTTP(w, req)
		}),
		TLSConfig:    &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1 alone
	}
	go func() { _ = server.ServeTLS(l, "", "") }()
	return &partReady{Port: port}, nil
}

// serverPair is a certificate for the server, its key, and its authority.
type serverPair struct{ certificate, key, authority []byte }

func newServerPair() (*serverPair, error) {
	root, rootKey, err := certify(nil, nil)
	if err != nil {
		return nil, err
	}
	leaf, key, err := certify(root, rootKey)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &serverPair{
		certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}),
		key:         pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}),
		authority:   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}),
	}, nil
}

// certify makes an authority, or with one a certificate for the server.
func certify(parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	const life = 24 * time.Hour
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		BasicConstraintsValid: true, Subject: pkix.Name{CommonName: "bench server"},
	}
	if parent == nil {
		// OpenSSL takes a certificate for signed by itself if both have one name.
		template.Subject.CommonName = "bench authority"
		template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign
		parent, parentKey = template, key
	} else {
		template.IPAddresses = []net.IP{net.ParseIP(serverName)}
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, nil, err
	}
	certificate, err := x509.ParseCertificate(raw)
	return certificate, key, err
}
