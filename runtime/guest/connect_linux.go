package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of what the proxy answers to a CONNECT.
const (
	maxAnswerHead = 8 << 10 // bytes
	maxAnswerBody = 2 << 10 // bytes of a refusal that are shown
	// connectTimeout is longer than the gate tries the addresses of a host.
	connectTimeout = time.Minute
)

// connectMain connects its standard input and output to a host, through the gate.
// OpenSSH runs it as its ProxyCommand.
func connectMain(args []string) int {
	if len(args) != 2 {
		return complain(errors.New(usage))
	}
	proxy, err := connectTo(args[0], args[1], forwardPort)
	if err != nil {
		return complain(fmt.Errorf("connect: %w", err))
	}
	// The end of the input is passed on, and what is still to come is waited for.
	// The end of the connection is the end, whatever there is to read.
	go func() {
		if copyHalf(proxy, os.Stdin) != nil {
			shutdown(proxy, unix.SHUT_RDWR)
		}
	}()
	_ = copyHalf(os.Stdout, proxy) // either way it is over
	return 0
}

// connectTo returns a connection to a host through the proxy on a port of loopback.
func connectTo(host, port string, proxyPort int) (*os.File, error) {
	target, err := targetOf(host, port)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	// Blocking: nobody but the forwarder is there to wait for.
	if err = unix.Connect(fd, &unix.SockaddrInet4{Port: proxyPort, Addr: [4]byte{127, 0, 0, 1}}); err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("reach the proxy at 127.0.0.1:%d: %w", proxyPort, err)
	}
	proxy := os.NewFile(uintptr(fd), "proxy")
	_ = proxy.SetDeadline(time.Now().Add(connectTimeout))
	if _, err = io.WriteString(proxy, "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n\r\n"); err == nil {
		err = readEstablished(proxy)
	}
	if err != nil {
		_ = proxy.Close()
		return nil, fmt.Errorf("%s: %w", target, err)
	}
	_ = proxy.SetDeadline(time.Time{})
	return proxy, nil
}

// targetOf returns the target of a CONNECT. What could be more than that, in a
// request, is refused.
func targetOf(host, port string) (string, error) {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%.20q is not a port", port)
	}
	if host == "" || len(host) > 255 || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' || r == '@' }) {
		return "", fmt.Errorf("%.80q is not a host", host)
	}
	if strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		host = "[" + host + "]"
	}
	return host + ":" + port, nil
}

// readEstablished reads the answer to a CONNECT, and nothing of what comes after it.
func readEstablished(r io.Reader) error {
	var head []byte
	one := make([]byte, 1)
	for !strings.HasSuffix(string(head), "\r\n\r\n") {
		if len(head) == maxAnswerHead {
			return errors.New("the answer of the proxy is too long")
		}
		if _, err := io.ReadFull(r, one); err != nil {
			return fmt.Errorf("read the answer of the proxy: %w", err)
		}
		head = append(head, one...)
	}
	status, _, _ := strings.Cut(string(head), "\r\n")
	if fields := strings.Fields(status); len(fields) >= 2 && strings.HasPrefix(fields[0], "HTTP/1.") && fields[1] == "200" {
		return nil
	}
	body := make([]byte, min(contentLength(string(head)), maxAnswerBody))
	n, _ := io.ReadFull(r, body) // as far as it goes
	return fmt.Errorf("refused: %s %s", status, strings.TrimSpace(string(body[:n])))
}

// contentLength returns how much content a head announces; 0 where it does not say.
func contentLength(head string) uint64 {
	for line := range strings.Lines(head) {
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, "content-length") {
			n, _ := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
			return n
		}
	}
	return 0
}
