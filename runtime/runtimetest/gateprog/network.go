package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest/gateprog/plan"
)

const (
	// scanTimeout is long for who is there, on one machine.
	scanTimeout = 2 * time.Second
	// bindToDevice is the option of Linux, which is what it runs on.
	bindToDevice = 25
	// scanners is how many connect at a time.
	scanners = 128
)

// scan connects to everything that a step names.
func scan(s *plan.Step, r *plan.Result) error {
	targets, err := targetsOf(s)
	if err != nil {
		return err
	}
	from := dialer(s.Device)
	work := make(chan string)
	var mu sync.Mutex
	var scanning sync.WaitGroup
	for range scanners {
		scanning.Go(func() {
			for target := range work {
				conn, err := from.Dial("tcp", target)
				if err != nil {
					continue
				}
				_ = conn.Close()
				mu.Lock()
				r.Found = append(r.Found, target)
				mu.Unlock()
			}
		})
	}
	for _, target := range targets {
		work <- target
	}
	close(work)
	scanning.Wait()
	slices.Sort(r.Found)
	return nil
}

func targetsOf(s *plan.Step) ([]string, error) {
	var targets []string
	for where := range strings.SplitSeq(s.Address, ",") {
		network, err := netip.ParsePrefix(where)
		if err != nil {
			var one netip.Addr
			if one, err = netip.ParseAddr(where); err != nil {
				return nil, err
			}
			network = netip.PrefixFrom(one, one.BitLen())
		}
		for address := network.Addr(); network.Contains(address); address = address.Next() {
			for i := 0; i+1 < len(s.Numbers); i += 2 {
				for port := s.Numbers[i]; port <= s.Numbers[i+1]; port++ {
					targets = append(targets, net.JoinHostPort(address.String(), strconv.Itoa(port)))
				}
			}
		}
	}
	return targets, nil
}

// dialer binds to an interface, where there is a name of one: the kernel then takes
// everything for a neighbour that it has no route to.
func dialer(device string) *net.Dialer {
	d := &net.Dialer{Timeout: scanTimeout}
	if device == "" {
		return d
	}
	d.Control = func(_, _ string, conn syscall.RawConn) error {
		var failed error
		err := conn.Control(func(fd uintptr) {
			failed = syscall.SetsockoptString(int(fd), syscall.SOL_SOCKET, bindToDevice, device)
		})
		if err != nil {
			return err
		}
		return failed
	}
	return d
}

// shout sends a datagram that nobody has to be looked for to get.
func shout(s *plan.Step) error {
	conn, err := dialer(s.Device).Dial("udp", s.Address) // Go asks for the right to broadcast by itself
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(s.Send))
	return err
}

// ask looks a name up at a name server, by TCP.
func ask(s *plan.Step, r *plan.Result) error {
	ctx, cancel := context.WithTimeout(context.Background(), scanTimeout)
	defer cancel()
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", s.Connect)
	}}
	addresses, err := resolver.LookupHost(ctx, s.Address)
	if err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	r.Found = addresses
	return nil
}
