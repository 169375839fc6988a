package mcpserver

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"
)

// guard decides which HTTP requests reach MCP. It is the whole of the access
// control on HTTP: a request that passes may call every tool.
//
// Host and Origin are checked because browsers send requests to loopback addresses
// on behalf of any web page: Origin stops a page's own requests, Host stops a page
// whose name was pointed at 127.0.0.1 (DNS rebinding). mcp-go checks no Origin, and
// its Host check cannot be told about a proxy.
type guard struct {
	tokenSum [sha256.Size]byte // of the bearer token
	hasToken bool
	origins  []string // lower case, scheme://host[:port]
	hosts    []string // lower case, host or host:port
}

func newGuard(options HTTPOptions) (*guard, error) {
	g := &guard{hasToken: options.Token != "", tokenSum: sha256.Sum256([]byte(options.Token))}
	for _, origin := range options.AllowedOrigins {
		parsed, err := url.Parse(origin)
		if err != nil || parsed.Scheme == "" || parsed.Host == "" || strings.Trim(parsed.Path, "/") != "" {
			return nil, fmt.Errorf("allowed origin %q is not of the form https://host[:port]", origin)
		}
		g.origins = append(g.origins, strings.ToLower(parsed.Scheme+"://"+parsed.Host))
	}
	for _, host := range options.AllowedHosts {
		if host == "" || strings.ContainsAny(host, "/ @") {
			return nil, fmt.Errorf("allowed host %q is not of the form host[:port]", host)
		}
		g.hosts = append(g.hosts, strings.ToLower(host))
	}
	return g, nil
}

// protect lets next see only requests that may be served.
func (g *guard) protect(next http.Handler) http.Handler {
	return g.checkHost(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.originAllowed(r) {
			refuse(w, http.StatusForbidden, nil, mcp.INVALID_REQUEST, fmt.Sprintf(
				"requests from the web page %q are not allowed: start the server with --allowed-origin to allow it", r.Header.Get("Origin")))
			return
		}
		if g.listedOrigin(r.Header.Get("Origin")) && allowCrossOrigin(w, r) {
			return // a preflight, which carries no token
		}
		if !g.authorized(r) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="drawbridge"`)
			refuse(w, http.StatusUnauthorized, nil, mcp.INVALID_REQUEST,
				"a bearer token is required: send the header Authorization: Bearer <content of the server's token file>")
			return
		}
		next.ServeHTTP(w, r)
	}))
}

// checkHost lets next see only requests that name this server.
func (g *guard) checkHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.hostAllowed(r) {
			refuse(w, http.StatusForbidden, nil, mcp.INVALID_REQUEST, fmt.Sprintf(
				"host %q is not allowed: use a loopback address, or start the server with --allowed-host", r.Host))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostAllowed accepts loopback names, listed hosts, and, when none are listed, any
// host on a connection that did not come over loopback: such an address is only
// served with a token, which a rebinding page does not have.
func (g *guard) hostAllowed(r *http.Request) bool {
	host := strings.ToLower(r.Host)
	if isLoopbackHost(host) || slices.Contains(g.hosts, host) || slices.Contains(g.hosts, hostOnly(host)) {
		return true
	}
	if len(g.hosts) > 0 || !g.hasToken {
		return false
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && !isLoopbackHost(local.String())
}

// originAllowed accepts requests that no web page made, listed origins, and pages
// that come from loopback themselves and call a loopback name.
func (g *guard) originAllowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || g.listedOrigin(origin) {
		return true
	}
	parsed, err := url.Parse(origin)
	return err == nil && parsed.Host != "" && isLoopbackHost(parsed.Host) && isLoopbackHost(r.Host)
}

func (g *guard) listedOrigin(origin string) bool {
	return slices.Contains(g.origins, strings.ToLower(origin))
}

// authorized compares hashes: they have one length, so the time says nothing about
// the token's.
func (g *guard) authorized(r *http.Request) bool {
	if !g.hasToken {
		return true
	}
	scheme, token, found := strings.Cut(r.Header.Get("Authorization"), " ")
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	return found && strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(sum[:], g.tokenSum[:]) == 1
}

// allowCrossOrigin tells a browser that the page may read our answer, and answers
// its question beforehand (preflight), which it reports.
func allowCrossOrigin(w http.ResponseWriter, r *http.Request) (answered bool) {
	header := w.Header()
	header.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
	header.Add("Vary", "Origin")
	header.Set("Access-Control-Expose-Headers", mcp.HeaderSessionID)
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	header.Set("Access-Control-Allow-Methods", "GET, POST, DELETE")
	header.Set("Access-Control-Allow-Headers", r.Header.Get("Access-Control-Request-Headers"))
	header.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return true
}

// isLoopbackHost says whether a host, with or without a port, is a loopback address
// or localhost. Other names are not resolved: their owner decides what they mean.
func isLoopbackHost(host string) bool {
	host = hostOnly(host)
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// hostOnly removes a port and the brackets of an IPv6 address.
func hostOnly(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.Trim(host, "[]")
}
