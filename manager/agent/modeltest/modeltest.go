// Package modeltest is a model service for tests: it answers the agents' programs
// as the APIs of Anthropic, OpenAI and Google do, streamed, with what a script says.
//
// A Service is an HTTP proxy as well, which leads what is for a known host of these
// APIs to itself, over TLS by an authority of its own, and refuses everything else.
// So a program runs with the same settings as behind the gate, and Refused tells
// what else it wanted to reach. Models are asked at its own address, too, by plain HTTP.
//
// It judges nothing: what was asked is recorded, and the test looks at that.
package modeltest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Hosts are the names that a Service answers to.
var Hosts = []string{anthropicHost, openaiHost, geminiHost, OtherHost}

const (
	anthropicHost = "api.anthropic.com"
	openaiHost    = "api.openai.com"
	geminiHost    = "generativelanguage.googleapis.com"
	// OtherHost is nobody's: a server that speaks the protocol of Anthropic.
	OtherHost = "models.example.com"
)

// API is one of the protocols.
type API string

// The protocols.
const (
	Anthropic API = "anthropic"
	OpenAI    API = "openai"
	Gemini    API = "gemini"
)

// Step is what the model does about a prompt that holds Prompt. The step whose prompt
// came last counts.
type Step struct {
	Prompt string
	// Shell is a command that the model has run first, by the tool that the
	// program offers for this; none if it is empty.
	Shell string
	// Calls are the tools that the model calls one after the other, in place of a
	// command.
	Calls []Call
	// Answer is said in the end.
	Answer string
	// Status refuses the request with this HTTP status instead.
	Status int
}

// Call is a use of a tool.
type Call struct {
	// Tool is what the name of the tool ends in: each program has its own names for
	// the tools of a server.
	Tool  string
	Input map[string]any
}

// Site is a further host that a Service answers for.
type Site struct {
	Host    string
	Handler http.Handler
}

// The usage that each answer tells, in tokens. Input includes what was cached.
const (
	InputTokens  = 1200
	CachedTokens = 200
	OutputTokens = 30
)

// Request is one question to the model.
type Request struct {
	API        API
	Host       string // that was asked, with its port where that is no usual one
	Path       string
	Model      string
	Credential string   // as it came in its header
	System     string   // the instructions, all of them
	Prompts    []string // what the user's side said, in order
	Results    []string // what tools returned since the prompt that is answered now
	Tools      []string // the names of those that the program offers
}

// Service is a model service on loopback.
type Service struct {
	script    []Step
	sites     []Site
	authority *authority
	listener  net.Listener
	proxy     *http.Server
	web       *http.Server
	incoming  *tunnels
	done      sync.WaitGroup

	mu       sync.Mutex
	requests []Request // guarded by mu
	refused  []string  // guarded by mu
}

// Start returns a service that follows a script, and answers for sites. Close ends it.
func Start(script []Step, sites ...Site) (*Service, error) {
	names := append(slices.Clone(Hosts), "localhost")
	for _, site := range sites {
		names = append(names, site.Host)
	}
	authority, err := newAuthority(names)
	if err != nil {
		return nil, fmt.Errorf("make the certificates of the model service: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the model service: %w", err)
	}
	s := &Service{script: script, sites: sites, authority: authority, listener: listener, incoming: newTunnels(listener.Addr())}
	s.web = &http.Server{Handler: http.HandlerFunc(s.serveModel), ReadHeaderTimeout: time.Minute}
	s.proxy = &http.Server{Handler: http.HandlerFunc(s.serveProxy), ReadHeaderTimeout: time.Minute}
	config := &tls.Config{Certificates: []tls.Certificate{authority.leaf}, MinVersion: tls.VersionTLS12}
	s.done.Go(func() { ignoreClosed(s.web.Serve(tls.NewListener(s.incoming, config))) })
	s.done.Go(func() { ignoreClosed(s.proxy.Serve(listener)) })
	return s, nil
}

func ignoreClosed(err error) {
	if err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		panic(fmt.Sprintf("serve the model service: %v", err)) // of a test, which has to hear of it
	}
}

// Close ends the service and all its connections.
func (s *Service) Close() {
	_ = s.proxy.Close()
	_ = s.incoming.Close()
	_ = s.web.Close()
	s.done.Wait()
}

// ProxyURL is what HTTPS_PROXY has to say.
func (s *Service) ProxyURL() string { return "http://" + s.listener.Addr().String() }

// CA is the authority that clients have to trust, as PEM.
func (s *Service) CA() []byte { return slices.Clone(s.authority.pem) }

// Requests returns what was asked so far.
func (s *Service) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Refused returns the hosts, with their ports, and the paths that were asked for and
// are no model's, in order.
func (s *Service) Refused() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.refused)
}

func (s *Service) refuse(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = append(s.refused, what)
}

// serveProxy joins a tunnel for a known host to the service, and serves who asks it
// directly.
func (s *Service) serveProxy(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect && !r.URL.IsAbs() {
		s.serveModel(w, r)
		return
	}
	host, port, err := net.SplitHostPort(r.Host)
	if r.Method != http.MethodConnect || err != nil || port != "443" || !slices.Contains(Hosts, host) && s.site(host) == nil {
		s.refuse(r.Host)
		http.Error(w, "this host is not one of the model service", http.StatusForbidden)
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if _, err := conn.Write([]byte("HTTP/1.1 200 OK\r\n\r\n")); err != nil {
		_ = conn.Close()
		return
	}
	s.incoming.add(conn)
}

// site returns what answers for a further host; nil where there is none.
func (s *Service) site(host string) http.Handler {
	for _, site := range s.sites {
		if site.Host == host {
			return site.Handler
		}
	}
	return nil
}

// tunnels is a listener of the connections that the proxy has let in.
type tunnels struct {
	address net.Addr
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

func newTunnels(address net.Addr) *tunnels {
	return &tunnels{address: address, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (t *tunnels) add(conn net.Conn) {
	select {
	case t.conns <- conn:
	case <-t.closed:
		_ = conn.Close()
	}
}

func (t *tunnels) Accept() (net.Conn, error) {
	select {
	case conn := <-t.conns:
		return conn, nil
	case <-t.closed:
		return nil, net.ErrClosed
	}
}

func (t *tunnels) Close() error {
	t.once.Do(func() { close(t.closed) })
	return nil
}

func (t *tunnels) Addr() net.Addr { return t.address }
