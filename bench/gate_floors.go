package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
)

// Floors: what a proxy that adds a header to requests in TLS costs, without
// policy, record, bounds or care. They have one certificate, made beforehand, and
// resume sessions with the server, as the gate does.

const establishedAnswer = "HTTP/1.1 200 Connection established\r\n\r\n"

// floor is what they have in common.
type floor struct {
	inner *tls.Config // towards the client
	outer *tls.Config // towards the server
}

// accept gives each connection to serve, until the listener is closed.
func accept(l net.Listener, serve func(net.Conn) error) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_ = serve(conn) // its end is always an error
			_ = conn.Close()
		}()
	}
}

// readConnect answers a CONNECT and returns its target.
func readConnect(conn net.Conn) (string, error) {
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return "", err
	}
	_, err = io.WriteString(conn, establishedAnswer)
	return req.Host, err
}

// copying reads each request, adds the header, writes it to the server, and brings
// the answer back. There is no Transport.
func (f *floor) copying(conn net.Conn) error {
	target, err := readConnect(conn)
	if err != nil {
		return err
	}
	client := tls.Server(conn, f.inner)
	dialer := tls.Dialer{Config: f.outer}
	server, err := dialer.DialContext(context.Background(), "tcp", target)
	if err != nil {
		return err
	}
	defer server.Close()
	fromClient, toClient := bufio.NewReader(client), bufio.NewWriter(client)
	fromServer, toServer := bufio.NewReader(server), bufio.NewWriter(server)
	for {
		req, err := http.ReadRequest(fromClient)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", credentialValue)
		fmt.Fprintf(toServer, "%s %s HTTP/1.1\r\nHost: %s\r\n", req.Method, req.RequestURI, req.Host)
		if err := copyMessage(toServer, req.Header, req.Body, req.ContentLength < 0); err != nil {
			return err
		}
		resp, err := http.ReadResponse(fromServer, req)
		if err != nil {
			return err
		}
		fmt.Fprintf(toClient, "HTTP/1.1 %s\r\n", resp.Status)
		err = copyMessage(toClient, resp.Header, resp.Body, resp.ContentLength < 0)
		_ = resp.Body.Close()
		if err != nil {
			return err
		}
	}
}

var floorBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// copyMessage copies headers and content, which is flushed as it comes where its
// length is not known.
func copyMessage(w *bufio.Writer, header http.Header, content io.Reader, chunked bool) error {
	_ = header.Write(w)
	if chunked {
		_, _ = w.WriteString("Transfer-Encoding: chunked\r\n")
	}
	_, _ = w.WriteString("\r\n")
	buffer := floorBuffers.Get().(*[]byte)
	defer floorBuffers.Put(buffer)
	for {
		n, err := content.Read(*buffer)
		if chunked && n > 0 {
			fmt.Fprintf(w, "%x\r\n", n)
		}
		_, _ = w.Write((*buffer)[:n])
		if chunked && n > 0 {
			_, _ = w.WriteString("\r\n")
			_ = w.Flush()
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if chunked {
		_, _ = w.WriteString("0\r\n\r\n")
	}
	return w.Flush()
}

// reverse is the handler of a proxy made of net/http and httputil.
func (f *floor) reverse() http.Handler {
	proxy := &httputil.ReverseProxy{
		Transport:     &http.Transport{TLSClientConfig: f.outer, MaxIdleConnsPerHost: loadWidth, DisableCompression: true},
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "https", r.In.Host
			r.Out.Header.Set("Authorization", credentialValue)
		},
	}
	inside := &handedOver{conns: make(chan net.Conn)}
	go func() { _ = (&http.Server{Handler: proxy}).Serve(inside) }()
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		if _, err := io.WriteString(conn, establishedAnswer); err != nil {
			_ = conn.Close()
			return
		}
		inside.conns <- tls.Server(conn, f.inner)
	})
}

// handedOver is a listener for connections that others accepted.
type handedOver struct{ conns chan net.Conn }

// Accept returns the next one.
func (h *handedOver) Accept() (net.Conn, error) { return <-h.conns, nil }

// Close does nothing.
func (h *handedOver) Close() error { return nil }

// Addr is of no use here.
func (h *handedOver) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// tunnel copies bytes.
func tunnel(conn net.Conn) error {
	target, err := readConnect(conn)
	if err != nil {
		return err
	}
	var dialer net.Dialer
	server, err := dialer.DialContext(context.Background(), "tcp", target)
	if err != nil {
		return err
	}
	var both sync.WaitGroup
	one := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		_, _ = to.Close(), from.Close()
	}
	both.Go(func() { one(server, conn) })
	both.Go(func() { one(conn, server) })
	both.Wait()
	return nil
}
