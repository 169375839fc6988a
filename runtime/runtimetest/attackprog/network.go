//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// answerWait bounds the wait for an answer that should not come.
const answerWait = 500 * time.Millisecond

func network(f facts) []attack {
	ask := func(network string) func(string) (string, error) {
		return func(address string) (string, error) { return askServer(network, address, f.Token) }
	}
	return []attack{
		{"reach a server of its own", func() (string, error) { return ownServer("tcp", "127.0.0.1:0") }},
		{"reach an abstract Unix socket of its own", func() (string, error) { return ownServer("unix", "@attackprog") }},
		{"reach a Unix socket of its own in the workspace", func() (string, error) { return ownServer("unix", workspace+"/own.sock") }},
		{"reach a server on the host's loopback", func() (string, error) { return each(loopback(f.TCP, true), ask("tcp")) }},
		{"reach a server on the host's other addresses", func() (string, error) { return each(loopback(f.TCP, false), ask("tcp")) }},
		{"send datagrams to the host", func() (string, error) { return each(f.UDP, ask("udp")) }},
		{"reach an abstract Unix socket of the host", func() (string, error) { return askServer("unix", "@"+f.Abstract, f.Token) }},
		{"reach a Unix socket of the host by its path", func() (string, error) { return each(f.Sockets, ask("unix")) }},
		{"reach a Unix socket that the host has in the workspace", func() (string, error) {
			return askServer("unix", workspace+"/host.sock", f.Token)
		}},
		{"reach the metadata service", func() (string, error) {
			return done(errOf(net.DialTimeout("tcp", "169.254.169.254:80", answerWait)))
		}},
		{"reach the internet", func() (string, error) {
			return each([]string{"1.1.1.1:443", "[2606:4700:4700::1111]:443"}, func(address string) (string, error) {
				return done(errOf(net.DialTimeout("tcp", address, answerWait)))
			})
		}},
		{"see an interface beside loopback", interfaces},
		{"add an address", func() (string, error) { return done(addAddress()) }},
		{"open a netlink socket beside routing", func() (string, error) {
			// Unused, socket diagnosis, IPsec, audit, netfilter, kernel
			// events, generic, crypto.
			return each([]int{1, 4, 6, 9, 12, 15, 16, 21}, func(protocol int) (string, error) {
				return done(socket(unix.AF_NETLINK, unix.SOCK_RAW, protocol))
			})
		}},
		{"open a raw socket", func() (string, error) {
			return each([]int{unix.AF_INET, unix.AF_INET6}, func(family int) (string, error) {
				return each([]int{unix.IPPROTO_ICMP, unix.IPPROTO_TCP, unix.IPPROTO_RAW}, func(protocol int) (string, error) {
					return done(socket(family, unix.SOCK_RAW, protocol))
				})
			})
		}},
		{"open a packet socket", func() (string, error) {
			return each([]int{unix.SOCK_RAW, unix.SOCK_DGRAM}, func(kind int) (string, error) {
				return done(socket(unix.AF_PACKET, kind, 0x0300))
			})
		}},
		{"open a socket of a virtual machine", func() (string, error) { return done(socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)) }},
		{"open a socket of the kernel's crypto", func() (string, error) { return done(socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)) }},
		{"open a socket of an unusual protocol", func() (string, error) {
			return each([]int{unix.IPPROTO_SCTP, unix.IPPROTO_DCCP, unix.IPPROTO_UDPLITE, unix.IPPROTO_L2TP}, func(protocol int) (string, error) {
				return each([]int{unix.SOCK_STREAM, unix.SOCK_SEQPACKET, unix.SOCK_DGRAM, unix.SOCK_DCCP}, func(kind int) (string, error) {
					return done(socket(unix.AF_INET, kind, protocol))
				})
			})
		}},
		{"open a socket of an unusual family", unusualFamilies},
	}
}

func socket(family, kind, protocol int) error {
	fd, err := unix.Socket(family, kind, protocol)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// unusualFamilies tries all families but Unix, the two of the internet and netlink,
// and those that have an attack of their own.
func unusualFamilies() (string, error) {
	last := errNothing
	for family := 3; family < unix.AF_MAX; family++ {
		switch family {
		case unix.AF_INET6, unix.AF_NETLINK, unix.AF_PACKET, unix.AF_VSOCK, unix.AF_ALG:
			continue
		}
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET} {
			if last = socket(family, kind, 0); last == nil {
				return fmt.Sprintf("family %d, type %d", family, kind), nil
			}
		}
	}
	return "", last
}

// loopback returns the addresses that are on loopback, or those that are not.
func loopback(addresses []string, want bool) []string {
	var list []string
	for _, address := range addresses {
		host, _, err := net.SplitHostPort(address)
		if err == nil && net.ParseIP(host).IsLoopback() == want {
			list = append(list, address)
		}
	}
	return list
}

// askServer sends a word and looks for the suite's in the answer.
func askServer(network, address, token string) (string, error) {
	conn, err := net.DialTimeout(network, address, answerWait)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(answerWait)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte("hello\n")); err != nil {
		return "", err
	}
	buffer := make([]byte, len(token))
	n, err := conn.Read(buffer)
	if err != nil {
		return "", err
	}
	if !strings.Contains(string(buffer[:n]), token) {
		return "", errNothing
	}
	return "it answered", nil
}

// ownServer asks a server in this process.
func ownServer(network, address string) (string, error) {
	listener, err := net.Listen(network, address)
	if err != nil {
		return "", err
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		// Who hangs up before it has read resets the connection.
		if _, err := conn.Read(make([]byte, 64)); err == nil {
			_, _ = conn.Write([]byte("own")) // the client says it if that is missing
		}
	}()
	return askServer(network, listener.Addr().String(), "own")
}

func interfaces() (string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return "", err
	}
	var list []string
	for _, i := range all {
		if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 {
			list = append(list, i.Name)
		}
	}
	return found(list)
}

// addAddress asks the kernel by netlink for 10.9.8.7/32 on the loopback interface.
func addAddress() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	order := binary.NativeEndian
	message := make([]byte, 0, 32)
	message = order.AppendUint32(message, 32)
	message = order.AppendUint16(message, unix.RTM_NEWADDR)
	message = order.AppendUint16(message, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE)
	message = order.AppendUint32(message, 1)
	message = order.AppendUint32(message, uint32(os.Getpid()))
	message = append(message, unix.AF_INET, 32, 0, 0)
	message = order.AppendUint32(message, 1) // the loopback interface
	message = order.AppendUint16(message, 8)
	message = order.AppendUint16(message, unix.IFA_LOCAL)
	message = append(message, 10, 9, 8, 7)
	if err := unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	if n < 20 || order.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errNothing
	}
	if code := int32(order.Uint32(answer[16:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}
