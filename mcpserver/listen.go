package mcpserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"
)

const (
	// minTokenLength is the shortest token taken: 16 characters of hexadecimal are
	// 64 bits, which nobody guesses over HTTP.
	minTokenLength = 16
	// maxTokenLength bounds what is read; more is not a token but a mistake.
	maxTokenLength = 4096
	// resolveTimeout bounds the look-up of a name to listen on.
	resolveTimeout = 5 * time.Second

	// readHeaderTimeout bounds the arrival of a request's header. Bodies have
	// their own bound, and responses none: they are streams.
	readHeaderTimeout = 10 * time.Second
	// idleTimeout bounds an HTTP connection between two requests.
	idleTimeout = 2 * time.Minute
	// maxHeaderBytes bounds a request's header.
	maxHeaderBytes = 64 << 10
	// stopTimeout bounds how long requests may go on after the server was told to
	// stop; then they are cancelled.
	stopTimeout = 10 * time.Second
	// abortTimeout bounds how long cancelled requests are waited for.
	abortTimeout = 2 * time.Second
)

// CheckListen says whether an address may be served: any with a token, and without
// one only loopback addresses. addr is host:port; an empty host means all
// interfaces. A name must resolve to loopback addresses only. The error says what
// to do.
func CheckListen(addr, token string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("listen address %q is not of the form host:port, for example 127.0.0.1:7433: %w", addr, err)
	}
	if token != "" {
		return nil
	}
	if host == "" {
		return needToken(addr, "all interfaces")
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Unmap().IsLoopback() {
			return nil
		}
		return needToken(addr, ip.String())
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return fmt.Errorf("resolve listen address %q: %w; use 127.0.0.1, or give a token with --token-file", addr, err)
	}
	for _, ip := range ips {
		if !ip.Unmap().IsLoopback() {
			return needToken(addr, ip.Unmap().String())
		}
	}
	return nil
}

func needToken(addr, reached string) error {
	return fmt.Errorf("listen on %q (%s) without a token: anybody who reaches it could run commands here; give a token with --token-file, or listen on 127.0.0.1", addr, reached)
}

// Listen opens a TCP listener on addr if CheckListen allows it. What was opened is
// checked again, because a name may resolve to something else the second time.
func Listen(ctx context.Context, addr, token string) (net.Listener, error) {
	if err := CheckListen(addr, token); err != nil {
		return nil, err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for MCP clients on %s: %w", addr, err)
	}
	if err := CheckListen(listener.Addr().String(), token); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// LoadToken reads a bearer token from a file: a regular file that only its owner
// can read, holding one word of at least 16 characters, space around it ignored.
func LoadToken(path string) (string, error) {
	// Opened before it is looked at, so that what was checked is what is read;
	// not blocking, so that a FIFO cannot hang the start.
	file, err := os.OpenFile(path, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return "", fmt.Errorf("open token file: %w", err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return "", fmt.Errorf("examine token file %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("token file %s is not a regular file (%s)", path, info.Mode().Type())
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", fmt.Errorf("token file %s can be used by others (mode %04o): run chmod 600 %s", path, mode, path)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxTokenLength+1))
	if err != nil {
		return "", fmt.Errorf("read token file %s: %w", path, err)
	}
	token := strings.TrimSpace(string(content))
	switch {
	case len(content) > maxTokenLength:
		return "", fmt.Errorf("token file %s is larger than %d bytes: it must hold one token and nothing else", path, maxTokenLength)
	case len(token) < minTokenLength:
		return "", fmt.Errorf("token in %s has %d characters and needs at least %d: make one with openssl rand -hex 32", path, len(token), minTokenLength)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", fmt.Errorf("token in %s holds spaces or characters that an HTTP header cannot carry: make one with openssl rand -hex 32", path)
	}
	return token, nil
}

// Serve serves HTTP on listener, which it closes, until ctx ends, and returns nil
// then. Requests in flight get ten seconds to finish; streams without a request end
// at once.
func (s *Server) Serve(ctx context.Context, listener net.Listener, options HTTPOptions) error {
	handler, err := s.newHTTPHandler(options)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	srv := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          zap.NewStdLog(s.log.Named("http")),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(listener) }()

	select {
	case err := <-served:
		handler.close()
		return fmt.Errorf("serve MCP on %s: %w", listener.Addr(), errors.Join(err, srv.Close()))
	case <-ctx.Done():
	}

	handler.drain()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timings.stop)
	defer cancel()
	if srv.Shutdown(stop) != nil {
		s.log.Warn("requests cancelled: they ran on after the server was told to stop", zap.Duration("limit", s.timings.stop))
		handler.close()
		abort, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timings.abort)
		defer cancel()
		if srv.Shutdown(abort) != nil {
			_ = srv.Close() // what is left does not react to its context
		}
	}
	handler.close()
	<-served // http.ErrServerClosed
	return nil
}
