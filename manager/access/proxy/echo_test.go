package proxy

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

var masks = strings.Repeat("*", len(realToken))

// echoing returns a world with a granted HTTPS server, and its host.
func echoing(t *testing.T, http2 bool, handler http.HandlerFunc) (*world, string) {
	t.Helper()
	w := newWorld(t, policy.Strict)
	host := w.server("api.test", handler, protocols(http2)...)
	w.granting(policy.Strict, []Grant{grantOf("github", testRule("api.test", portOfHost(t, host), "Authorization", "Bearer "+realToken))})
	return w, host
}

// sentToken returns the credential in a request.
func sentToken(req *http.Request) string {
	return strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
}

func TestEchoesAreMaskedInHeadContentAndTrailer(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w, host := echoing(t, http2, func(rw http.ResponseWriter, req *http.Request) {
			token := sentToken(req)
			rw.Header().Set("Link", "<"+token+">")
			rw.WriteHeader(http.StatusEarlyHints)
			rw.Header().Set("X-Echo", "a "+base64.StdEncoding.EncodeToString([]byte("x:"+token)))
			rw.Header().Set("Trailer", "X-After")
			fmt.Fprintf(rw, "token %s, as hex %x", token, token)
			rw.(http.Flusher).Flush()
			rw.Header().Set("X-After", token)
			rw.Header().Set(http.TrailerPrefix+"X-Surprise", token)
		})
		var hints []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
			hints = append(hints, header.Get("Link"))
			return nil
		}})
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/", nil)
		resp, err := w.client(http2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		content, err := io.ReadAll(resp.Body)
		if want := "token " + masks + ", as hex " + masks + masks; err != nil || string(content) != want {
			t.Errorf("the content is %q, %v", content, err)
		}
		all := fmt.Sprint(hints, resp.Header, resp.Trailer)
		if strings.Contains(all, realToken) || !strings.Contains(resp.Header.Get("X-Echo"), "****") || resp.Trailer.Get("X-After") != masks || len(hints) != 1 || hints[0] != "<"+masks+">" {
			t.Errorf("got %s", all)
		}
	})
}

// Whoever asks without the credential can be given what an earlier request brought.
func TestLaterEchoesAreMaskedToo(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		kept := make(chan string, 1)
		w, host := echoing(t, http2, func(rw http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/keep" {
				kept <- sentToken(req)
				return
			}
			_, _ = io.WriteString(rw, req.Header.Get("Authorization")+<-kept)
		})
		c := w.client(http2)
		send(t, c, "https://"+host+"/keep", nil)
		if _, text := send(t, c, "https://"+host+"/", map[string]string{"Authorization": "own "}); text != "own "+masks && text != "own"+masks {
			t.Errorf("got %q", text)
		}
		if second, first := w.entry(1), w.entry(0); first.Grant != "github" || second.Grant != "" {
			t.Errorf("recorded %+v and %+v", first, second)
		}
	})
}

func TestEchoesAreMaskedAcrossChunks(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w, host := echoing(t, http2, func(rw http.ResponseWriter, req *http.Request) {
			text := "<" + sentToken(req) + ">"
			at, _ := strconv.Atoi(req.URL.Query().Get("at"))
			for _, piece := range []string{text[:at], text[at:]} {
				_, _ = io.WriteString(rw, piece)
				rw.(http.Flusher).Flush()
			}
		})
		c := w.client(http2)
		for at := range len(realToken) + 2 {
			if _, text := get(t, c, fmt.Sprintf("https://%s/?at=%d", host, at)); text != "<"+masks+">" {
				t.Errorf("cut at %d: %q", at, text)
			}
		}
	})
}

// compressed writes content as servers do that compress what nobody asked them to.
var compressed = map[string]func(w io.Writer) io.WriteCloser{
	"gzip":   func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
	"x-gzip": func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
	"zlib":   func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) },
	"deflate": func(w io.Writer) io.WriteCloser {
		raw, _ := flate.NewWriter(w, flate.BestSpeed)
		return raw
	},
}

func TestCompressedContentIsDecodedAndMasked(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w, host := echoing(t, http2, func(rw http.ResponseWriter, req *http.Request) {
			if got := req.Header.Get("Accept-Encoding"); got != "identity" {
				t.Errorf("the server was asked for %q", got)
			}
			name := strings.Trim(req.URL.Path, "/")
			rw.Header().Set("Content-Encoding", strings.ReplaceAll(name, "zlib", "deflate"))
			rw.Header().Set("Etag", `"1"`)
			rw.Header().Set("Digest", "x")
			rw.Header().Set("Trailer", "X-After")
			var content bytes.Buffer
			to := compressed[name](&content)
			fmt.Fprintf(to, "%s %s", strings.Repeat("x", 100<<10), sentToken(req))
			_ = to.Close()
			if req.URL.RawQuery == "" {
				rw.Header().Set("Content-Length", strconv.Itoa(content.Len()))
				rw.Header().Del("Trailer")
			}
			if req.URL.RawQuery == "broken" {
				content.Truncate(content.Len() - 9)
			}
			_, _ = rw.Write(content.Bytes())
			rw.Header().Set("X-After", sentToken(req))
		})
		c := w.client(http2)
		for name := range compressed {
			for _, query := range []string{"", "?chunks"} {
				resp, err := c.Get("https://" + host + "/" + name + query)
				if err != nil {
					t.Fatal(err)
				}
				content, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if want := strings.Repeat("x", 100<<10) + " " + masks; err != nil || string(content) != want {
					t.Errorf("%s%s: got %d bytes that end with %.60q, %v", name, query, len(content), content[max(0, len(content)-60):], err)
				}
				for _, header := range []string{"Content-Encoding", "Content-Length", "Etag", "Digest"} {
					if resp.Header.Get(header) != "" {
						t.Errorf("%s%s: %s is %q", name, query, header, resp.Header.Get(header))
					}
				}
				if query != "" && resp.Trailer.Get("X-After") != masks {
					t.Errorf("%s%s: the trailer is %v", name, query, resp.Trailer)
				}
			}
			resp, err := c.Get("https://" + host + "/" + name + "?broken")
			if err != nil {
				t.Fatal(err)
			}
			if content, err := io.ReadAll(resp.Body); err == nil || bytes.Contains(content, []byte(realToken)) {
				t.Errorf("%s, broken: got %d bytes, %v", name, len(content), err)
			}
			resp.Body.Close()
		}
	})
}

func TestContentThatCannotBeDecodedIsRefused(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w, host := echoing(t, http2, func(rw http.ResponseWriter, req *http.Request) {
			rw.Header().Set("Content-Encoding", strings.Trim(req.URL.Path, "/"))
			if req.Method != http.MethodHead {
				_, _ = io.WriteString(rw, sentToken(req))
			}
		})
		c := w.client(http2)
		for i, encoding := range []string{"br", "zstd", "gzip,br", "compress", "unknown"} {
			status, text := get(t, c, "https://"+host+"/"+encoding)
			if status != http.StatusBadGateway || !strings.Contains(text, codeEncoding) || !strings.Contains(text, "cannot look into") || strings.Contains(text, realToken) {
				t.Errorf("%s: got %d %q", encoding, status, text)
			}
			if e := w.entry(i); e.Status != http.StatusBadGateway || e.Grant != "github" || e.Error == "" {
				t.Errorf("%s: recorded %+v", encoding, e)
			}
		}
		resp, err := c.Head("https://" + host + "/br") // it has no content
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("HEAD got %v, %v", resp, err)
		}
	})
}

func TestAnswersWithoutContentAreMasked(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w, host := echoing(t, http2, func(rw http.ResponseWriter, req *http.Request) {
			rw.Header().Set("X-Echo", sentToken(req))
			status, _ := strconv.Atoi(strings.Trim(req.URL.Path, "/"))
			if status == http.StatusOK {
				rw.Header().Set("Content-Length", "1234")
			}
			rw.WriteHeader(status)
		})
		c := w.client(http2)
		for path, method := range map[string]string{"204": http.MethodGet, "304": http.MethodGet, "200": http.MethodHead} {
			req, _ := http.NewRequest(method, "https://"+host+"/"+path, nil)
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.Header.Get("X-Echo") != masks || strconv.Itoa(resp.StatusCode) != path || method == http.MethodHead && resp.ContentLength != 1234 {
				t.Errorf("%s %s: got %s %v", method, path, resp.Status, resp.Header)
			}
		}
	})
}

// A range is a way to cut a secret in two.
func TestRangesAreNotAskedFor(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		w, host := echoing(t, http2, func(rw http.ResponseWriter, req *http.Request) {
			http.ServeContent(rw, req, "x", time.Now(), strings.NewReader("<"+sentToken(req)+">"))
		})
		for from := range 10 {
			if status, text := send(t, w.client(http2), "https://"+host+"/", map[string]string{"Range": fmt.Sprintf("bytes=%d-%d", from, from+20)}); status != http.StatusOK || text != "<"+masks+">" {
				t.Errorf("got %d %q", status, text)
			}
		}
	})
}

func TestEventsOfAGrantedHostAreNotHeldBack(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		next := make(chan struct{})
		w, host := echoing(t, http2, func(rw http.ResponseWriter, req *http.Request) {
			rw.Header().Set("Content-Type", "text/event-stream")
			to := io.Writer(rw)
			flush, end := func() {}, func() {}
			if req.URL.Path == "/gzip" {
				rw.Header().Set("Content-Encoding", "gzip")
				z := gzip.NewWriter(rw)
				to, flush, end = z, func() { _ = z.Flush() }, func() { _ = z.Close() }
			}
			for i := range 4 {
				fmt.Fprintf(to, "data: %d %s\n\n", i, sentToken(req))
				flush()
				rw.(http.Flusher).Flush()
				_, _ = io.WriteString(to, sentToken(req)[:5]) // of which the gate cannot know
				flush()
				rw.(http.Flusher).Flush()
				<-next
			}
			end()
		})
		for _, path := range []string{"/", "/gzip"} {
			resp, err := w.client(http2).Get("https://" + host + path)
			if err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(resp.Body)
			before := ""
			for i := range 4 {
				line, err := lines.ReadString('\n')
				if want := fmt.Sprintf("%sdata: %d %s\n", before, i, masks); err != nil || line != want {
					t.Fatalf("event %d is %q, %v", i, line, err)
				}
				_, _ = lines.ReadString('\n')
				before = realToken[:5]
				next <- struct{}{} // the server waits until the event was read
			}
			if rest, err := io.ReadAll(lines); err != nil || string(rest) != before {
				t.Errorf("after the last event: %q, %v", rest, err)
			}
			resp.Body.Close()
		}
	})
}

// readerFunc is a reader that is a function.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// What was read before does not wait for what a masked reader holds back.
func TestContentIsFlushedWhenAReadGivesNothing(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	reads, atHand := 0, 1
	from := readerFunc(func(p []byte) (int, error) {
		switch reads++; reads {
		case 1:
			return copy(p, "event"), nil
		case 2:
			atHand = 0
			return 0, nil
		}
		if out.String() != "event" {
			t.Errorf("before the last read, %q was sent", out.String())
		}
		return 0, io.EOF
	})
	if _, err := copyContent(bufio.NewWriter(&out), from, false, func() int { return atHand }); err != nil {
		t.Error(err)
	}
}

func TestDownloadWithoutSecretsIsUnchanged(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, http2 bool) {
		data := make([]byte, 16<<20)
		_, _ = rand.Read(data)
		almost := copy(data[1<<20:], realToken[:len(realToken)-1])
		data[1<<20+almost] = 0 // and not, by chance, the last byte of it
		w, host := echoing(t, http2, func(rw http.ResponseWriter, req *http.Request) {
			if req.URL.RawQuery == "" {
				rw.Header().Set("Content-Length", strconv.Itoa(len(data)))
			}
			_, _ = rw.Write(data)
		})
		sum := sha256.Sum256(data)
		for _, query := range []string{"", "?chunks"} {
			resp, err := w.client(http2).Get("https://" + host + "/" + query)
			if err != nil {
				t.Fatal(err)
			}
			got := sha256.New()
			n, err := io.Copy(got, resp.Body)
			resp.Body.Close()
			if err != nil || n != int64(len(data)) || hex.EncodeToString(got.Sum(nil)) != hex.EncodeToString(sum[:]) || query == "" && resp.ContentLength != n {
				t.Errorf("%q: got %d bytes, %v", query, n, err)
			}
		}
	})
}

func TestWebSocketOfAGrantedHostIsMasked(t *testing.T) {
	t.Parallel()
	w, host := echoing(t, false, func(rw http.ResponseWriter, req *http.Request) {
		if got := req.Header.Get("Sec-WebSocket-Extensions"); got != "" {
			t.Errorf("the server was asked for %q", got)
		}
		conn, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Echo: %s\r\n\r\n\x81%c%s", sentToken(req), len(realToken), sentToken(req))
	})
	conn, _, _ := w.connect(host)
	secure := tls.Client(conn, &tls.Config{ServerName: "api.test", InsecureSkipVerify: true})
	fmt.Fprintf(secure, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", host)
	r := bufio.NewReader(secure)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("X-Echo") != masks {
		t.Fatalf("got %v, %v", resp, err)
	}
	frame := make([]byte, 2+len(realToken))
	if _, err := io.ReadFull(r, frame); err != nil || string(frame[2:]) != masks || frame[1] != byte(len(realToken)) {
		t.Errorf("got %q, %v", frame, err)
	}
}

func TestAnswerThatIsNoneIsMasked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policy.Strict)
	authority, err := OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w.roots.AddCert(authority.certificate)
	name, _ := policy.ParseHost("api.test")
	leaf, err := authority.leaf(name)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*leaf}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	w.names.set("api.test", "127.0.0.1")
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				req, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				if req.URL.Path == "/status" {
					fmt.Fprintf(conn, "HTTP/1.1 200 %s\r\nContent-Length: 0\r\n\r\n", sentToken(req))
					return
				}
				fmt.Fprintf(conn, "%s\r\n\r\n", sentToken(req))
			}()
		}
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	host := "api.test:" + port
	w.granting(policy.Strict, []Grant{grantOf("github", testRule("api.test", portOfHost(t, host), "Authorization", "Bearer "+realToken))})
	for _, http2 := range []bool{false, true} { // the server speaks HTTP/1.1 only
		c := w.client(http2)
		resp, err := c.Get("https://" + host + "/")
		if err != nil {
			t.Fatal(err)
		}
		content, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadGateway || strings.Contains(string(content), realToken) {
			t.Errorf("got %s %q", resp.Status, content)
		}
		if resp, err = c.Get("https://" + host + "/status"); err != nil || strings.Contains(resp.Status, realToken) {
			t.Errorf("got %v, %v", resp, err)
		}
		resp.Body.Close()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if all := fmt.Sprint(w.entries); strings.Contains(all, realToken) || !strings.Contains(all, "****") {
		t.Errorf("recorded %s", all)
	}
}
