package proxy

import (
	"bufio"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// writeRequestHead writes a request's head for a server. Everything that says
// where it goes and how its content is delimited is ours.
func writeRequestHead(w *bufio.Writer, req *http.Request, target policy.Target, scheme string) {
	uri := req.URL.RequestURI()
	if req.URL.IsAbs() {
		relative := *req.URL
		relative.Scheme, relative.Host, relative.User = "", "", nil
		uri = relative.RequestURI()
	}
	fmt.Fprintf(w, "%s %s HTTP/1.1\r\nHost: %s\r\n", req.Method, uri, hostHeader(target, scheme))
	websocket := wantsWebSocket(req.Header)
	writeHeaders(w, req.Header)
	if websocket {
		_, _ = w.WriteString("Connection: Upgrade\r\nUpgrade: websocket\r\n")
	}
	switch {
	case req.ContentLength < 0:
		_, _ = w.WriteString("Transfer-Encoding: chunked\r\n")
		announceTrailer(w, req.Trailer)
	case req.ContentLength > 0 || slices.Contains([]string{http.MethodPost, http.MethodPut, http.MethodPatch}, req.Method):
		fmt.Fprintf(w, "Content-Length: %d\r\n", req.ContentLength)
	}
	_, _ = w.WriteString("\r\n")
}

// hostHeader is the canonical Host of a target.
func hostHeader(target policy.Target, scheme string) string {
	if target.Port != portOf(scheme) {
		return target.String()
	}
	if addr, is := target.Host.Addr(); is && addr.Is6() {
		return "[" + addr.String() + "]"
	}
	return target.Host.String()
}

// wantsWebSocket tells whether a request asks for the one other protocol that is
// let through. HTTP/2 in particular is not: nobody would see what is in it.
func wantsWebSocket(h http.Header) bool {
	return strings.EqualFold(h.Get("Upgrade"), "websocket") && slices.ContainsFunc(connectionOptions(h), func(o string) bool { return strings.EqualFold(o, "upgrade") })
}

func connectionOptions(h http.Header) []string {
	var options []string
	for _, value := range h["Connection"] {
		for option := range strings.SplitSeq(value, ",") {
			options = append(options, strings.TrimSpace(option))
		}
	}
	return options
}

// dropOptions removes what the client says is about its connection only, so that
// what is put in its place goes on.
func dropOptions(h http.Header) {
	websocket := wantsWebSocket(h)
	for _, option := range connectionOptions(h) {
		if name := http.CanonicalHeaderKey(option); !hopHeaders[name] {
			h.Del(name)
		}
	}
	h.Del("Connection")
	if websocket {
		h.Set("Connection", "Upgrade")
	}
}

// hopHeaders are about one connection and not about what goes over it.
var hopHeaders = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Http2-Settings": true, "Host": true,
}

// withheld are the headers that are not passed on. Content-Length is written by
// whoever delimits the content.
var withheld = func() map[string]bool {
	all := maps.Clone(hopHeaders)
	all["Content-Length"] = true
	return all
}()

// writeHeaders writes the headers to pass on.
func writeHeaders(w *bufio.Writer, h http.Header) {
	without := withheld
	if options := connectionOptions(h); len(options) > 0 {
		without = maps.Clone(withheld)
		for _, option := range options {
			without[http.CanonicalHeaderKey(option)] = true
		}
	}
	_ = h.WriteSubset(w, without)
}

func writeStatus(w *bufio.Writer, resp *http.Response) {
	_, text, _ := strings.Cut(resp.Status, " ")
	fmt.Fprintf(w, "HTTP/1.1 %03d %s\r\n", resp.StatusCode, text)
}

func announceTrailer(w *bufio.Writer, trailer http.Header) {
	for name := range trailer {
		fmt.Fprintf(w, "Trailer: %s\r\n", name)
	}
}

// writeTrailer writes the end of chunked content.
func writeTrailer(w *bufio.Writer, trailer http.Header) {
	_, _ = w.WriteString("0\r\n")
	writeHeaders(w, trailer)
	_, _ = w.WriteString("\r\n")
}
