package proxy

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// peer speaks HTTP/2 with the gate, rightly or wrongly.
type peer struct {
	t      *testing.T
	host   string
	conn   *tls.Conn
	framer *http2.Framer
	block  bytes.Buffer
	coder  *hpack.Encoder
}

// newPeer returns a client that has said hello.
func newPeer(t *testing.T, w *world, host string) *peer {
	t.Helper()
	p := bareConn(t, w, host)
	p.write(clientPreface)
	if err := p.framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return p
}

// bareConn is a connection on which HTTP/2 has been agreed on.
func bareConn(t *testing.T, w *world, host string) *peer {
	t.Helper()
	p := &peer{t: t, host: host}
	p.conn, _ = w.inside(host, "h2")
	if got := p.conn.ConnectionState().NegotiatedProtocol; got != "h2" {
		t.Fatalf("%q was agreed on", got)
	}
	p.framer = http2.NewFramer(p.conn, p.conn)
	p.framer.AllowIllegalWrites = true
	p.coder = hpack.NewEncoder(&p.block)
	return p
}

func (p *peer) write(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p.conn, text); err != nil {
		p.t.Fatal(err)
	}
}

// request sends the head of a request, with fields beside or in place of the usual.
func (p *peer) request(stream uint32, fields ...[2]string) {
	p.t.Helper()
	p.block.Reset()
	all := [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", p.host}, {":path", "/"}}
	for _, f := range fields {
		replaced := false
		for i := range all {
			if all[i][0] == f[0] && strings.HasPrefix(f[0], ":") {
				all[i], replaced = f, true
			}
		}
		if !replaced {
			all = append(all, f)
		}
	}
	for _, f := range all {
		if err := p.coder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			p.t.Fatal(err)
		}
	}
	block := p.block.Bytes()
	first := block[:min(len(block), 16<<10)]
	err := p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: first, EndStream: true, EndHeaders: len(first) == len(block)})
	for rest := block[len(first):]; err == nil && len(rest) > 0; {
		piece := rest[:min(len(rest), 16<<10)]
		rest = rest[len(piece):]
		err = p.framer.WriteContinuation(stream, len(rest) == 0, piece)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// read reads frames until one is what is waited for, or until the end.
func (p *peer) read(ok func(http2.Frame) bool) {
	for {
		frame, err := p.framer.ReadFrame()
		if err != nil || ok(frame) {
			return
		}
	}
}

func endsStream(f http2.Frame) bool {
	switch f := f.(type) {
	case *http2.RSTStreamFrame, *http2.GoAwayFrame:
		return true
	case *http2.HeadersFrame:
		return f.StreamEnded()
	case *http2.DataFrame:
		return f.StreamEnded()
	}
	return false
}

// What is no HTTP/2 by its beginning, its frames or its headers is refused before it
// is a request to anybody, and recorded.
func TestWhatIsNoHTTP2IsRecorded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		send func(p *peer)
		bare bool
		want string // in the record, nothing for what is right
	}{
		"another protocol":       {bare: true, want: "no HTTP/2", send: func(p *peer) { p.write("GET / HTTP/1.1\r\nHost: held.test\r\n\r\n") }},
		"the beginning of it":    {bare: true, want: "no HTTP/2", send: func(p *peer) { p.write("PRI * HT"); _ = p.conn.CloseWrite() }},
		"a frame of no settings": {bare: true, want: "breaks the protocol", send: func(p *peer) { p.write(clientPreface); _ = p.framer.WritePing(false, [8]byte{}) }},
		"a frame too large":      {want: "wrong size", send: func(p *peer) { _ = p.framer.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 2<<20)) }},
		"content of no request":  {want: "breaks the protocol", send: func(p *peer) { _ = p.framer.WriteData(1, true, []byte("x")) }},
		"an even stream":         {want: "breaks the protocol", send: func(p *peer) { p.request(2) }},
		"no header code": {want: "cannot be decoded", send: func(p *peer) {
			_ = p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff}, EndStream: true, EndHeaders: true})
		}},
		"a line break in a header": {want: "breaks the protocol", send: func(p *peer) { p.request(1, [2]string{"x-a", "a\r\nb: c"}) }},
		"an upper-case name":       {want: "breaks the protocol", send: func(p *peer) { p.request(1, [2]string{"X-A", "a"}) }},
		"no path":                  {want: "breaks the protocol", send: func(p *peer) { p.request(1, [2]string{":path", ""}) }},
		"headers of a connection":  {want: "none of HTTP/2", send: func(p *peer) { p.request(1, [2]string{"connection", "x-a"}) }},
		"the same after another": {want: "none of HTTP/2", send: func(p *peer) {
			p.request(1)
			p.read(endsStream)
			p.request(3, [2]string{"transfer-encoding", "chunked"})
		}},
		"the same beside another": {want: "none of HTTP/2", send: func(p *peer) { p.request(1, [2]string{":path", "/held"}); p.request(3, [2]string{"upgrade", "h2c"}) }},
		"a header too large":      {want: "cannot be decoded", send: func(p *peer) { p.request(1, [2]string{"x-a", strings.Repeat("a", 200<<10)}) }},
		"too many headers": {want: "none of HTTP/2", send: func(p *peer) {
			p.request(1, slices.Repeat([][2]string{{"x-a", strings.Repeat("a", 1000)}}, 80)...)
		}},
		"mirror":                 {send: func(p *peer) { p.request(1) }},
		"mirror: a head":         {send: func(p *peer) { p.request(1, [2]string{":method", "HEAD"}) }},
		"mirror: nothing to say": {bare: true, send: func(p *peer) { _ = p.conn.CloseWrite() }},
		"mirror: a request given up": {send: func(p *peer) {
			p.request(1, [2]string{":path", "/held"})
			_ = p.framer.WriteRSTStream(1, http2.ErrCodeCancel)
			p.request(3)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, policy.Strict)
			host := w.server("held.test", http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
				if req.URL.Path == "/held" {
					<-req.Context().Done()
				}
			}))
			w.run.Policy = policyOf(t, policy.Strict, host+" allow * /**")
			open := newPeer
			if test.bare {
				open = bareConn
			}
			p := open(t, w, host)
			test.send(p)
			p.read(endsStream)
			_ = p.conn.Close()
			w.free(0)
			var faults []Entry
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, e := range w.entries {
				if e.Kind == KindNone {
					faults = append(faults, e)
				}
			}
			if test.want == "" {
				if len(faults) != 0 {
					t.Errorf("recorded %+v", faults)
				}
				return
			}
			if len(faults) != 1 || !strings.Contains(faults[0].Error, test.want) || faults[0].Decision != Refused || faults[0].Host != "held.test" || faults[0].Port != portOfHost(t, host) || faults[0].Protocol != "HTTP/2.0" {
				t.Errorf("recorded %+v, want one with %q", faults, test.want)
			}
		})
	}
}

// What the server writes comes in pieces of any length.
func TestFramesAreReadInPieces(t *testing.T) {
	t.Parallel()
	var all bytes.Buffer
	f := http2.NewFramer(&all, nil)
	_ = f.WriteSettings()
	_ = f.WriteData(1, false, bytes.Repeat([]byte("x"), 5000))
	_ = f.WriteRSTStream(1, http2.ErrCodeStreamClosed)
	_ = f.WriteRSTStream(3, http2.ErrCodeProtocol)
	_ = f.WriteData(5, true, nil)
	_ = f.WriteGoAway(5, http2.ErrCodeEnhanceYourCalm, []byte("calm"))
	for name, r := range map[string]io.Reader{"one": iotest.OneByteReader(bytes.NewReader(all.Bytes())), "half": iotest.HalfReader(bytes.NewReader(all.Bytes())), "all": bytes.NewReader(all.Bytes())} {
		var w watcher
		var wrong []string
		for piece := make([]byte, 4096); ; {
			n, err := r.Read(piece)
			wrong = append(wrong, w.frames(piece[:n])...)
			if err != nil {
				break
			}
		}
		if len(wrong) != 3 || !strings.Contains(wrong[0], "breaks the protocol") || !strings.Contains(wrong[1], "none of HTTP/2") || !strings.Contains(wrong[2], "flood") {
			t.Errorf("%s: %q", name, wrong)
		}
	}
}

// A client can do wrong without end; the record has one.
func TestFaultsOfAConnectionAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	host := w.server("held.test", http.NotFoundHandler())
	w.run.Policy = policyOf(t, policy.Strict, host+" allow * /**")
	p := newPeer(t, w, host)
	for i := range uint32(2 * maxFaults) {
		p.request(2*i+1, [2]string{"connection", "x-a"})
		p.read(endsStream)
	}
	_ = p.conn.Close()
	w.free(0)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.entries) != maxFaults {
		t.Errorf("there are %d entries, want %d", len(w.entries), maxFaults)
	}
}
