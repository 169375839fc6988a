package provider

import (
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

// ThisMachine is the name under which sandboxes reach ports of this machine's
// loopback; package policy says so too.
const ThisMachine = "host.drawbridge.internal"

// ModelServer is where a run asks a model in place of Anthropic's own server.
type ModelServer struct {
	url  string
	host string
	port uint16
	path string // "" or one that begins with a slash and ends in none
}

// ParseModelServer reads a URL of HTTPS or, for a port of this machine, of plain HTTP.
// The names of the loopback stand for ThisMachine: in a sandbox they are the sandbox.
// The error matches ErrField; it quotes nothing of the URL but its host.
func ParseModelServer(text string) (ModelServer, error) {
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Host == "" {
		return ModelServer{}, fmt.Errorf("%w: the server of the model: want a URL without user, query and fragment", ErrField)
	}
	s := ModelServer{host: strings.ToLower(u.Hostname()), port: httpsPort}
	isHere := slices.Contains([]string{"localhost", "127.0.0.1", "::1", ThisMachine}, s.host)
	if isHere {
		s.host, s.port = ThisMachine, 80
	}
	switch {
	case isHere && u.Scheme != "http":
		return ModelServer{}, fmt.Errorf("%w: the server of the model at %.80q: write http:// for this machine, whose name in a sandbox is in no certificate", ErrField, u.Host)
	case !isHere && u.Scheme != "https":
		return ModelServer{}, fmt.Errorf("%w: the server of the model at %.80q: write https://, or everybody on the way reads the credential", ErrField, u.Host)
	}
	if u.Port() != "" {
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		if err != nil || port == 0 {
			return ModelServer{}, fmt.Errorf("%w: the server of the model at %.80q: it has no port of 1 to 65535", ErrField, u.Host)
		}
		s.port = uint16(port)
	}
	if err := checkHost(s.host); err != nil || strings.Contains(s.host, "*") {
		return ModelServer{}, fmt.Errorf("%w: the server of the model at %.80q: want a name such as models.example.com", ErrField, u.Host)
	}
	if u.Path != "" && u.Path != "/" {
		if s.path = path.Clean(u.Path); checkPath(s.path) != nil || s.path+"/" != u.Path && s.path != u.Path || u.RawPath != "" {
			return ModelServer{}, fmt.Errorf("%w: the server of the model at %.80q: its path is not a clean one", ErrField, u.Host)
		}
	}
	s.url = fmt.Sprintf("%s://%s:%d%s", u.Scheme, s.host, s.port, s.path)
	return s, nil
}

// URL is what a program in a sandbox is told.
func (s ModelServer) URL() string { return s.url }

// WithModelServer returns the provider for a run that asks its model at a server: what
// would go to Anthropic's goes there, below its path, and not to Anthropic's. A
// provider of something else stays as it is.
func (p Provider) WithModelServer(s ModelServer) Provider {
	p.Injections = slices.Clone(p.Injections)
	for i, injection := range p.Injections {
		if !slices.Contains(injection.Hosts, anthropicHost) {
			continue
		}
		injection.Hosts, injection.Ports, injection.Plain = []string{s.host}, []uint16{s.port}, s.host == ThisMachine
		if s.path != "" {
			injection.Paths = []string{s.path + "/**"}
		}
		p.Injections[i] = injection
	}
	return p
}
