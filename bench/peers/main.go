// Command peers is elazarl/goproxy in its MITM mode, for the measurement gate of
// bench: a proxy that adds a header to requests in TLS, as it comes but for the trust
// in its upstreams, or tuned. It is a module of its own,
// so that nothing else depends on goproxy. How bench tells it what to do stands in
// bench/gate_parts.go.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"github.com/elazarl/goproxy"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run() error {
	in := bufio.NewReader(os.Stdin)
	var config struct {
		Part       string `json:"part"`
		Dir        string `json:"dir"`
		Trust      []byte `json:"trust"`
		Credential string `json:"credential"`
	}
	line, err := in.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &config)
	}
	if err != nil {
		return err
	}
	proxy := goproxy.NewProxyHttpServer()
	proxy.Logger = log.New(io.Discard, "", 0)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(config.Trust)
	proxy.Tr.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12} // by itself it trusts anybody
	if config.Part == "goproxy-tuned" {
		proxy.CertStore = &certificates{}
		proxy.Tr.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0)
		proxy.Tr.MaxIdleConnsPerHost, proxy.Tr.DisableCompression = 32, true
	}
	proxy.OnRequest().HandleConnect(goproxy.AlwaysMitm)
	proxy.OnRequest().DoFunc(func(req *http.Request, _ *goproxy.ProxyCtx) (*http.Request, *http.Response) {
		req.Header.Set("Authorization", config.Credential)
		return req, nil
	})
	socket := filepath.Join(config.Dir, "0")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(l, proxy) }()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: goproxy.GoproxyCa.Certificate[0]})
	if err := json.NewEncoder(os.Stdout).Encode(map[string]any{"sockets": []string{socket}, "authority": authority}); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// certificates keeps those that were made.
type certificates struct{ made sync.Map }

// Fetch returns the certificate of a host.
func (c *certificates) Fetch(host string, make func() (*tls.Certificate, error)) (*tls.Certificate, error) {
	if found, ok := c.made.Load(host); ok {
		return found.(*tls.Certificate), nil
	}
	made, err := make()
	if err == nil {
		c.made.Store(host, made)
	}
	return made, err
}
