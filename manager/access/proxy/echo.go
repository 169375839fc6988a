package proxy

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/internal/mask"
)

// Echoes
//
// A service may give back what it was sent: in an error, in a log that it shows, in
// a redirect. So everything that comes from a granted host goes through a masker:
// headers, content, trailers, and the bytes of a WebSocket.
//
// Content is held back as long as it ends with what a secret begins with, and no
// longer. Where a server compresses although it was asked not to, content is
// decoded, and goes on as it is then; what cannot be decoded does not go on.
//
// What is not found: a secret in an encoding that mask.Spellings does not have (base64
// with line breaks in it), in the name of a header, in content that is compressed or encrypted itself (an
// archive, a message of gRPC that says so), in two frames of a WebSocket, and a
// part of a secret.

// encodingError says that nobody could look into an answer.
type encodingError struct{ encoding string }

func (e *encodingError) Error() string {
	return fmt.Sprintf("the answer is encoded as %q, which the gate cannot look into for the credential that it sent", e.encoding)
}

// hasNoContent tells answers that end with their head.
func hasNoContent(method string, status int) bool {
	return method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified
}

// coverHead masks what an answer says before its content.
func (g *granted) coverHead(resp *http.Response) {
	if g == nil {
		return
	}
	resp.Status = g.maskers().text.Text(resp.Status)
	g.coverHeader(resp.Header)
}

func (g *granted) coverHeader(header http.Header) {
	if g == nil {
		return
	}
	masker := g.maskers().text
	if masker == nil {
		return
	}
	for _, values := range header {
		for i, value := range values {
			values[i] = masker.Text(value)
		}
	}
}

// cover has the answer to a request masked, its content while it is read. The
// error is an encodingError.
func (g *granted) cover(method string, resp *http.Response) error {
	if g == nil {
		return nil
	}
	g.coverHead(resp)
	resp.Header.Del("Accept-Ranges") // the gate asks for no ranges
	none := hasNoContent(method, resp.StatusCode)
	decode, err := decoderOf(resp.Header)
	if err != nil && !none {
		return err
	}
	if decode != nil {
		for _, name := range []string{"Content-Encoding", "Content-Length", "Content-Md5", "Digest", "Content-Digest", "Repr-Digest", "Etag"} {
			resp.Header.Del(name)
		}
	}
	if none || resp.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	content := io.Reader(resp.Body)
	if decode != nil {
		content = &decoded{from: resp.Body, open: decode}
		resp.ContentLength, resp.TransferEncoding, resp.Uncompressed = -1, []string{"chunked"}, true
	}
	resp.Body = &coveredBody{
		masked: masked{from: content, latest: g.contentMasker},
		Closer: resp.Body, ended: func() { g.coverHeader(resp.Trailer) },
	}
	return nil
}

// reader returns what a server sends after it switched protocols, without secrets.
func (g *granted) reader(r io.Reader) io.Reader {
	if g == nil {
		return r
	}
	return &masked{from: r, latest: g.contentMasker}
}

func (g *granted) contentMasker() *mask.Masker { return g.maskers().content }

// coveredBody is the content of an answer without secrets. When it has been read
// the trailer is without them too.
type coveredBody struct {
	masked
	io.Closer
	ended func()
}

func (b *coveredBody) Read(p []byte) (int, error) {
	n, err := b.masked.Read(p)
	if errors.Is(err, io.EOF) {
		b.ended()
	}
	return n, err
}

// masked is a reader without secrets. A Read that ends within what may be a secret
// may return nothing, and no error.
type masked struct {
	from   io.Reader
	latest func() *mask.Masker // asked with every Read: secrets may have been added
	masker *mask.Masker        // nil if nothing is to be masked
	state  int32
	held   []byte // the end of what was read, which may go on as a secret
	ready  []byte // what had no room
	err    error  // what comes after that
}

// leastRoom is how many bytes a Read should have room for beside what is held.
const leastRoom = 512

func (m *masked) Read(p []byte) (int, error) {
	if m.masker == nil {
		m.masker = m.latest()
	}
	if m.masker == nil {
		return m.from.Read(p)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if len(m.ready) == 0 && m.err == nil {
		if len(p) >= len(m.held)+leastRoom {
			var n int
			n, m.err = m.fill(p)
			return n, m.err
		}
		own := make([]byte, len(m.held)+max(len(p), leastRoom))
		var n int
		n, m.err = m.fill(own)
		m.ready = own[:n]
	}
	n := copy(p, m.ready)
	m.ready = m.ready[n:]
	if len(m.ready) == 0 {
		return n, m.err
	}
	return n, nil
}

// fill reads once, and returns how much of b is without secrets whatever comes.
func (m *masked) fill(b []byte) (int, error) {
	before := copy(b, m.held)
	n, err := m.from.Read(b[before:])
	n += before
	if latest := m.latest(); latest != nil && latest != m.masker {
		// What is held is looked at again: its end may be the beginning of a secret
		// that was not one.
		m.masker, m.state, before = latest, 0, 0
	}
	m.state, _ = m.masker.Scan(b[:n], before, m.state)
	if errors.Is(err, io.EOF) {
		return n, err
	}
	// What broke off stays held: it may be most of a secret.
	done := n - m.masker.Hold(m.state)
	m.held = append(m.held[:0], b[done:n]...)
	return done, err
}

// decoderOf returns what decodes the content that a header is about, and nil where
// it is not encoded.
func decoderOf(header http.Header) (func(io.Reader) (io.Reader, error), error) {
	var encodings []string
	for _, values := range header["Content-Encoding"] {
		for encoding := range strings.SplitSeq(values, ",") {
			encodings = append(encodings, strings.ToLower(strings.TrimSpace(encoding)))
		}
	}
	encodings = slices.DeleteFunc(encodings, func(e string) bool { return e == "" || e == "identity" })
	switch all := strings.Join(encodings, ", "); all {
	case "":
		return nil, nil
	case "gzip", "x-gzip":
		return func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }, nil
	case "deflate":
		return inflate, nil
	default:
		return nil, &encodingError{all}
	}
}

// inflate decodes what servers send as deflate: with the header of zlib, as it has
// to be, or without.
func inflate(r io.Reader) (io.Reader, error) {
	buffered := bufio.NewReader(r)
	head, err := buffered.Peek(2)
	if len(head) == 0 {
		return nil, err
	}
	const method, window = 8, 7 // as RFC 1950 has them
	if len(head) == 2 && head[0]&0xf == method && head[0]>>4 <= window && (int(head[0])<<8|int(head[1]))%31 == 0 {
		return zlib.NewReader(buffered)
	}
	return flate.NewReader(buffered), nil
}

// decoded opens its decoder with the first Read: an answer's head does not wait for
// its content.
type decoded struct {
	from   io.Reader
	open   func(io.Reader) (io.Reader, error)
	opened io.Reader
}

func (d *decoded) Read(p []byte) (int, error) {
	if d.opened == nil {
		opened, err := d.open(d.from)
		if err != nil {
			return 0, err // EOF where there is no content at all
		}
		d.opened = opened
	}
	n, err := d.opened.Read(p)
	if errors.Is(err, io.EOF) {
		// What is left is the end, and the trailer.
		const most = 64 << 10
		if _, bad := io.CopyN(io.Discard, d.from, most); !errors.Is(bad, io.EOF) {
			return n, errors.Join(errors.New("something follows the end of the encoded content"), bad)
		}
	}
	return n, err
}
