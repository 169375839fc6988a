package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// subject is one way from the client to the server.
type subject struct {
	name     string
	part     *part  // the proxy; nil for none
	port     int    // of the server
	socket   string // of the proxy, or its TCP address; empty for none
	preamble string
	roots    *x509.CertPool
}

func pool(authority []byte) *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(authority)
	return p
}

// cpu is what the proxy has used.
func (s *subject) cpu() time.Duration {
	if s.part == nil {
		return 0
	}
	p, err := look(s.part.pid())
	if err != nil {
		return 0 // it ends with its measurement; then that says why
	}
	return p.cpu
}

// check makes one request and looks whether it came with the credential.
func (s *subject) check(ctx context.Context, authorized bool) error {
	c := newBenchClient(s)
	defer c.close()
	resp, err := c.do(ctx, http.MethodGet, "/v1/small", nil)
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get(authorizedHeader); got != strconv.FormatBool(authorized) {
		return fmt.Errorf("%s: the server says that the request is authorized: %s, want %t", s.name, got, authorized)
	}
	return nil
}

// benchClient makes requests as programs in a sandbox do.
type benchClient struct {
	http *http.Client
	base string
}

func newBenchClient(s *subject) *benchClient {
	t := &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS12},
		MaxIdleConnsPerHost: loadWidth, DisableCompression: true,
	}
	if s.socket != "" {
		t.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "127.0.0.1:3128"})
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			network := "unix"
			if !filepath.IsAbs(s.socket) {
				network = "tcp"
			}
			conn, err := d.DialContext(ctx, network, s.socket)
			if err != nil || s.preamble == "" {
				return conn, err
			}
			_, err = io.WriteString(conn, s.preamble)
			return conn, err
		}
	}
	return &benchClient{http: &http.Client{Transport: t, Timeout: time.Minute}, base: "https://" + serverName + ":" + strconv.Itoa(s.port)}
}

func (c *benchClient) close() { c.http.CloseIdleConnections() }

type benchClients map[*subject]*benchClient

func newClients(subjects []*subject) benchClients {
	all := benchClients{}
	for _, s := range subjects {
		all[s] = newBenchClient(s)
	}
	return all
}

func (c benchClients) close() {
	for _, one := range c {
		one.close()
	}
}

// do returns an answer with status 200.
func (c *benchClient) do(ctx context.Context, method, path string, content []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	return resp, nil
}

// small makes one small request.
func (c *benchClient) small(ctx context.Context) error {
	resp, err := c.do(ctx, http.MethodGet, "/v1/small", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && n != smallSize {
		err = fmt.Errorf("%d bytes came, not %d", n, smallSize)
	}
	return err
}

// rate makes small requests on many connections for a while, and returns how many
// a second there were.
func (c *benchClient) rate(ctx context.Context) (float64, error) {
	if err := c.many(ctx, time.Now(), new([loadWidth]int)); err != nil { // opens the connections
		return 0, err
	}
	var counts [loadWidth]int
	begin := time.Now()
	if err := c.many(ctx, begin.Add(loadTime), &counts); err != nil {
		return 0, err
	}
	n := 0
	for _, k := range counts {
		n += k
	}
	return float64(n) / time.Since(begin).Seconds(), nil
}

// many makes requests until a time, at least one each.
func (c *benchClient) many(ctx context.Context, until time.Time, counts *[loadWidth]int) error {
	group, ctx := errgroup.WithContext(ctx)
	for i := range loadWidth {
		group.Go(func() error {
			for {
				if err := c.small(ctx); err != nil {
					return err
				}
				counts[i]++
				if time.Now().After(until) {
					return nil
				}
			}
		})
	}
	return group.Wait()
}

// download returns the rate of a large answer in MB/s.
func (c *benchClient) download(ctx context.Context) (float64, error) {
	begin := time.Now()
	resp, err := c.do(ctx, http.MethodGet, "/v1/download", nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 64<<10))
	if err == nil && n != contentSize {
		err = fmt.Errorf("%d bytes came", n)
	}
	return contentSize / 1e6 / time.Since(begin).Seconds(), err
}

var uploaded = sync.OnceValue(newContent) // not in the other parts

// upload returns the rate of a large request in MB/s.
func (c *benchClient) upload(ctx context.Context) (float64, error) {
	begin := time.Now()
	resp, err := c.do(ctx, http.MethodPost, "/v1/upload", uploaded())
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && string(text) != strconv.Itoa(contentSize) {
		err = fmt.Errorf("the server got %q bytes", text)
	}
	return contentSize / 1e6 / time.Since(begin).Seconds(), err
}

// events returns how long after they were sent events came, in microseconds at the
// middle.
func (c *benchClient) events(ctx context.Context) (float64, error) {
	resp, err := c.do(ctx, http.MethodGet, "/v1/events", nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var late series
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		text, is := strings.CutPrefix(lines.Text(), "data: ")
		if !is {
			continue
		}
		sent, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, err
		}
		late.micros(time.Duration(time.Now().UnixNano() - sent))
	}
	if len(late) != eventsATurn {
		return 0, errors.New("the stream of events broke off")
	}
	return late.percentile(0.5), nil
}
