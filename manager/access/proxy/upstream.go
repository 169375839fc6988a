package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// maxProxyHead bounds what another proxy may say before a connection is open.
const maxProxyHead = 16 << 10

// viaProxy returns the proxy that this host has to use for a target, nil for none.
// What a rule names exactly may be inside, and is reached directly if it is.
func (d *dialer) viaProxy(ctx context.Context, target policy.Target, named bool) (*url.URL, error) {
	if d.upstream == nil || named && d.isInside(ctx, target.Host) {
		return nil, nil
	}
	via, err := d.upstream(&url.URL{Scheme: "https", Host: target.String()})
	if err == nil && via != nil && via.Scheme != "http" {
		err = fmt.Errorf("the proxy of this host is of a kind that is not supported: %s", via.Scheme)
	}
	return via, err
}

// isInside reports whether a host has an address that is not on the Internet.
func (d *dialer) isInside(ctx context.Context, host policy.Host) bool {
	addrs, err := d.addresses(ctx, host)
	return err == nil && slices.ContainsFunc(addrs, func(a netip.Addr) bool { return d.objection(a) != "" })
}

// dialThrough connects to a target through another proxy, which resolves the name
// for itself. A name that is known here, and leads nowhere but inside, is refused
// all the same.
func (d *dialer) dialThrough(ctx context.Context, via *url.URL, target policy.Target) (net.Conn, error) {
	if addrs, err := d.addresses(ctx, target.Host); err == nil {
		var refused error
		allowed := false
		for _, addr := range addrs {
			if why := d.objection(addr); why != "" {
				refused = &addressError{target.Host, addr, why}
			} else {
				allowed = true
			}
		}
		if !allowed && refused != nil {
			return nil, refused
		}
	}
	port := via.Port()
	if port == "" {
		port = "80"
	}
	plain := net.Dialer{KeepAliveConfig: keepAlive}
	conn, err := plain.DialContext(ctx, "tcp", net.JoinHostPort(via.Hostname(), port))
	if err != nil {
		return nil, fmt.Errorf("reach the proxy of this host: %w", err)
	}
	if err := openThrough(ctx, conn, via, target); err != nil {
		return nil, errors.Join(fmt.Errorf("the proxy of this host: %w", err), conn.Close())
	}
	return conn, nil
}

// openThrough asks a proxy for a connection to target.
func openThrough(ctx context.Context, conn net.Conn, via *url.URL, target policy.Target) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(dialTimeout)
	}
	_ = conn.SetDeadline(deadline)
	request := fmt.Sprintf("CONNECT %s HTTP/1.1\r\nHost: %s\r\n", target, target)
	if via.User != nil {
		password, _ := via.User.Password()
		request += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(via.User.Username()+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return err
	}
	// A byte at a time: what comes after the head is the target's.
	var head bytes.Buffer
	one := make([]byte, 1)
	for !bytes.HasSuffix(head.Bytes(), []byte("\r\n\r\n")) {
		if head.Len() >= maxProxyHead {
			return errors.New("its answer is too long")
		}
		if _, err := io.ReadFull(conn, one); err != nil {
			return err
		}
		head.Write(one)
	}
	answer, err := http.ReadResponse(bufio.NewReader(&head), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return err
	}
	_ = answer.Body.Close() // it has none
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("it refuses %s: %s", target, answer.Status)
	}
	return conn.SetDeadline(time.Time{})
}
