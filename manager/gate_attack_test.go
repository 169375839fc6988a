package manager

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest/gateprog/plan"
)

// What a command in a sandbox tries, to get past the gate or around it. The program
// gateprog does it there; the tests here say what has to come of it, and look at what
// the servers got and what was recorded. Beside an attack is its mirror, the form of
// it that has to work: else a broken attack would pass for a strong gate.

// try is one attempt and what has to come of it.
type try struct {
	plan.Step
	// want has the statuses of the answers; none is an error, without an answer.
	want []int
	code string // of each refusal, or the end of it
	body string // in the last answer
	// isSilent says that it succeeds, and that there are no answers.
	isSilent bool
	// isMalformed says that it is no request by HTTP/2, which is refused before it
	// is one.
	isMalformed bool
}

// refusals are the statuses of want that stand for a refusal by the gate, which the
// record has to have.
func (a *try) refusals() []int {
	var statuses []int
	for _, status := range a.want {
		if a.code != "" && status >= 400 {
			statuses = append(statuses, status)
		}
	}
	if a.isMalformed {
		statuses = append(statuses, 0) // nobody has read a request that could be answered
	}
	return statuses
}

// target is a server of the host that notes what comes.
type target struct {
	addr string // of loopback
	port string

	mu   sync.Mutex
	seen []string // method, URL and Host of each request
}

func (s *target) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	s.mu.Lock()
	s.seen = append(s.seen, req.Method+" "+req.RequestURI+" of "+req.Host)
	s.mu.Unlock()
	content, _ := io.ReadAll(req.Body)
	var names []string
	for name := range req.Header {
		if strings.HasPrefix(name, "X-") {
			names = append(names, name)
		}
	}
	fmt.Fprintf(w, "served %s with %q and %v", req.URL.Path, content, names)
}

func (s *target) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.seen...)
}

// listening starts a target on all addresses of this host.
func listening(t *testing.T, certificate *tls.Certificate) *target {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	s := &target{}
	server := httptest.NewUnstartedServer(s)
	_ = server.Listener.Close()
	server.Listener = l
	if certificate == nil {
		server.Start()
	} else {
		server.TLS = &tls.Config{Certificates: []tls.Certificate{*certificate}}
		server.EnableHTTP2 = true
		server.StartTLS()
	}
	t.Cleanup(server.Close)
	_, s.port, _ = net.SplitHostPort(l.Addr().String())
	s.addr = "127.0.0.1:" + s.port
	return s
}

// authority makes a certificate for the host's name, and a file with it for those who
// are to trust it.
func authority(t *testing.T) (certificate *tls.Certificate, file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: policy.HostName}, DNSNames: []string{policy.HostName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, file
}

// attackRun creates a run that carries out a plan, without starting it.
func (w *world) attackRun(m *Manager, opts Options, steps []plan.Step) *Run {
	w.t.Helper()
	opts.Workspace = w.t.TempDir()
	if err := os.Chmod(opts.Workspace, 0o755); err != nil { // the command's user has to get in
		w.t.Fatal(err)
	}
	program, err := os.ReadFile(runtimetest.Build(w.t, "./runtime/runtimetest/gateprog", "gateprog"))
	if err != nil {
		w.t.Fatal(err)
	}
	data, err := json.Marshal(steps)
	if err != nil {
		w.t.Fatal(err)
	}
	for name, content := range map[string][]byte{"gateprog": program, "plan": data} {
		if err := os.WriteFile(filepath.Join(opts.Workspace, name), content, 0o755); err != nil {
			w.t.Fatal(err)
		}
	}
	opts.Cmd = []string{"./gateprog", "plan"}
	return w.create(m, opts)
}

// results reads what gateprog printed.
func results(t *testing.T, m *Manager, run *Run) map[string]plan.Result {
	t.Helper()
	found := map[string]plan.Result{}
	text := output(t, m, run.ID)
	for line := range strings.Lines(text) {
		var r plan.Result
		if json.Unmarshal([]byte(line), &r) == nil {
			found[r.Name] = r
		}
	}
	if len(found) == 0 {
		t.Fatalf("it printed %q", text)
	}
	return found
}

// attack runs attempts one after another, checks each, and checks that the record has
// exactly the refusals.
func (w *world) attack(m *Manager, opts Options, tries []try) {
	w.t.Helper()
	steps := make([]plan.Step, len(tries))
	for i := range tries {
		steps[i] = tries[i].Step
	}
	run := w.attackRun(m, opts, steps)
	if err := m.Start(w.t.Context(), run.ID, StartOptions{}); err != nil {
		w.t.Fatal(err)
	}
	run = w.ended(m, run.ID)
	got := results(w.t, m, run)
	var refused []string
	for i := range tries {
		a := &tries[i]
		a.check(w.t, got[a.Name])
		for _, status := range a.refusals() {
			refused = append(refused, fmt.Sprint(status))
		}
	}
	page, err := m.NetworkLog(w.t.Context(), run.ID, NetworkQuery{Decision: "refused", Limit: maxPageEntries})
	if err != nil {
		w.t.Fatal(err)
	}
	var recorded []string
	for i := range page.Entries {
		recorded = append(recorded, fmt.Sprint(page.Entries[i].Status))
	}
	// What is refused in a tunnel is recorded after its end, so the order is not that
	// of the attempts.
	slices.Sort(refused)
	slices.Sort(recorded)
	if diff := cmp.Diff(refused, recorded); diff != "" {
		w.t.Errorf("refused and recorded differ (-refused +recorded):\n%s\nthe record is %+v", diff, page.Entries)
	}
	if r := run.Requested; r == nil || r.Refused != len(refused) {
		w.t.Errorf("%d were refused; summed up as %+v", len(refused), r)
	}
}

func (a *try) check(t *testing.T, got plan.Result) {
	t.Helper()
	var statuses []int
	for _, answer := range got.Answers {
		statuses = append(statuses, answer.Status)
		if a.code != "" && answer.Status >= 400 && !strings.Contains(answer.Body, a.code+`","message":`) {
			t.Errorf("%s: answered %+v, not %s", a.Name, answer, a.code)
		}
	}
	if fmt.Sprint(statuses) != fmt.Sprint(a.want) || (got.Error != "") != (len(a.want) == 0 && !a.isSilent) || len(got.Found) > 0 {
		t.Errorf("%s: got %+v, want %v", a.Name, got, a.want)
		return
	}
	if a.body != "" && !strings.Contains(got.Answers[len(got.Answers)-1].Body, a.body) {
		t.Errorf("%s: answered %+v, without %q", a.Name, got.Answers, a.body)
	}
}

// bystander is another run of the same gate. It asks again and again, until the test
// says that it is over; then not one of its requests has failed.
func (w *world) bystander(m *Manager) (over func()) {
	w.t.Helper()
	host := service(w.t)
	run := w.started(m, Options{
		Cmd:          shell("while [ ! -e stop ]; do wget -q -O - http://" + host + "/ && echo || echo failed; sleep 0.05; done"),
		NetworkRules: []string{host},
	})
	served := func() int { return strings.Count(output(w.t, m, run.ID), "served /\n") }
	defer func() {
		if w.t.Failed() {
			w.t.Logf("the other run printed %.500q", output(w.t, m, run.ID))
		}
	}()
	eventually(w.t, "a request of another run", func() bool { return served() > 0 })
	return func() {
		w.t.Helper()
		before := served()
		eventually(w.t, "another run's request, after all", func() bool { return served() != before })
		if err := os.WriteFile(filepath.Join(run.Workspace, "stop"), nil, 0o600); err != nil {
			w.t.Fatal(err)
		}
		w.ended(m, run.ID)
		if text := output(w.t, m, run.ID); strings.Contains(text, "failed") {
			w.t.Errorf("requests of another run failed: %.500q", text)
		}
	}
}

func get(url string, header ...string) string {
	return "GET " + url + " HTTP/1.1\r\n" + strings.Join(append(header, "", ""), "\r\n")
}

// No packet leaves a sandbox, and no name is resolved in it.
func TestSandboxWithAGateHasNoOtherWayOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	over := w.bystander(m)
	s := listening(t, nil)
	abstract := "drawbridge-test-" + filepath.Base(t.TempDir()) + s.port
	l, err := net.Listen("unix", "@"+abstract)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	other := w.create(m, Options{Cmd: shell("true"), NetworkRules: []string{s.addr}})
	no := func(name, do, address string, numbers ...int) try {
		return try{Step: plan.Step{Name: name, Do: do, Address: address, Numbers: numbers}}
	}
	const inet, inet6, packet, raw, dgram, netlink, vsock, bluetooth = 2, 10, 17, 3, 2, 16, 40, 31
	tries := []try{
		no("an address of the Internet", "dial", "tcp:1.1.1.1:443"),
		no("an address of the Internet, IPv6", "dial", "tcp:[2606:4700:4700::1111]:443"),
		no("the metadata service", "dial", "tcp:169.254.169.254:80"),
		no("a private address", "dial", "tcp:10.0.0.1:80"),
		no("Docker's bridge", "dial", "tcp:172.17.0.1:"+s.port),
		no("the host's loopback", "dial", "tcp:"+s.addr),
		no("the host's loopback, IPv6", "dial", "tcp:[::1]:"+s.port),
		no("a datagram to the Internet", "query", "1.1.1.1:443"),
		no("a name server of the Internet", "query", "8.8.8.8:53"),
		no("a name server of the Internet, IPv6", "query", "[2001:4860:4860::8888]:53"),
		no("the host's name server", "query", "127.0.0.53:53"),
		no("Docker's name server", "query", "127.0.0.11:53"),
		no("a name server where the gate is", "query", "127.0.0.1:53"),
		no("a secret in a name", "resolve", "c2VjcmV0.evil.test"),
		no("a raw socket", "socket", "", inet, raw, 1),
		no("a raw socket of IPv6", "socket", "", inet6, raw, 58),
		no("a socket of datagrams of ICMP that is raw", "socket", "", inet, raw, 255),
		no("a packet socket", "socket", "", packet, raw, 0x300),
		no("a packet socket of datagrams", "socket", "", packet, dgram, 0x300),
		no("a socket of netfilter", "socket", "", netlink, raw, 12),
		no("a socket of virtual machines", "socket", "", vsock, 1, 0),
		no("a socket of Bluetooth", "socket", "", bluetooth, raw, 1),
		no("an abstract socket of the host", "dial", "unix:@"+abstract),
		no("the daemon's socket", "dial", "unix:"+filepath.Join(w.home, "daemon", "daemon.sock")),
		no("another run's listener", "dial", "unix:"+filepath.Join(other.Store.GateDir(), "gate.sock")),
		no("the engine's socket", "dial", "unix:/var/run/docker.sock"),
		no("what belongs to the gate is changed", "change", runtime.GateDir),
		{Step: plan.Step{Name: "without the token", Address: "unix:" + runtime.GateSocket, Send: get("http://" + s.addr + "/")}, want: []int{407}, code: "unknown_run"},
		{Step: plan.Step{Name: "with a guessed token", Address: "unix:" + runtime.GateSocket, Send: "drawbridge ABCDEFGHIJKLMNOPQRSTUVWXYZ\n" + get("http://"+s.addr+"/")}, want: []int{407}, code: "unknown_run"},
		{Step: plan.Step{Name: "with another run's token", Address: "unix:" + runtime.GateSocket, Send: "drawbridge " + other.ProxyAuthToken + "\n" + get("http://"+s.addr+"/")}, want: []int{407}, code: "unknown_run"},
		{Step: plan.Step{Name: "with another run's token, by the guest", Send: "drawbridge " + other.ProxyAuthToken + "\n" + get("http://"+s.addr+"/")}, want: []int{400}, code: "bad_request"},
		{Step: plan.Step{Name: "mirror: through the guest", Send: get("http://" + s.addr + "/yes")}, want: []int{200}, body: "served /yes"},
	}
	for _, a := range ownAddresses(t) {
		tries = append(tries, no("the host's address "+a, "dial", "tcp:"+net.JoinHostPort(a, s.port)))
	}
	w.attack(m, Options{NetworkRules: []string{s.addr + " allow GET /yes"}}, tries)
	if got := s.requests(); len(got) != 1 {
		t.Errorf("the server of the host got %q", got)
	}
	over()
}

func ownAddresses(t *testing.T) []string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var own []string
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && !ip.IP.IsLinkLocalUnicast() {
			own = append(own, ip.IP.String())
		}
	}
	return own
}

// A sandbox sees one socket, the one of its own gate, and nothing by which it could
// find another run's.
func TestSandboxSeesNoSocketButItsGates(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	other := w.create(m, Options{Cmd: shell("true")})
	run := w.attackRun(m, Options{}, []plan.Step{{Name: "sockets", Do: "sockets"}, {Name: "environment", Do: "dial", Address: "unix:" + runtime.GateSocket}})
	if err := m.Start(t.Context(), run.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	w.ended(m, run.ID)
	got := results(t, m, run)
	for _, found := range got["sockets"].Found {
		// The guest's own has served when the command begins.
		if found != runtime.GateSocket && !strings.Contains(found, " "+runtime.GuestSocket+" ") {
			t.Errorf("it sees %q", found)
		}
	}
	if got["environment"].Error != "" {
		t.Errorf("its own socket: %+v", got["environment"])
	}
	if text := output(t, m, run.ID); strings.Contains(text, other.ID) || strings.Contains(text, other.ProxyAuthToken) || strings.Contains(text, run.ProxyAuthToken) {
		t.Errorf("it printed %s", text)
	}
}

// Rules for any host, and the permissive policy, are no way to the host itself.
func TestHostIsRefusedInEverySpellingFromInside(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	over := w.bystander(m)
	s := listening(t, nil)
	spellings := []string{
		"127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7F.0.0.1", "0177.0.0.1", "017700000001", "127.9.9.9", "0.0.0.0", "0",
		"[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]", "[::127.0.0.1]", "[64:ff9b::7f00:1]",
		"localhost", "LOCALHOST", "localhost.", "a.localhost", policy.HostName, strings.ToUpper(policy.HostName), policy.HostName + ".",
		"169.254.169.254", "0xa9fea9fe", "[fd00:ec2::254]", "metadata.google.internal",
	}
	for _, a := range ownAddresses(t) {
		if strings.Contains(a, ":") {
			a = "[" + a + "]"
		}
		spellings = append(spellings, a)
	}
	var tries []try
	for _, host := range spellings {
		// Where this host has an address on the Internet, it is the address that is
		// refused, and else the name of it.
		tries = append(tries,
			try{Step: plan.Step{Name: host + " by HTTP", Send: get("http://" + host + ":" + s.port + "/")}, want: []int{403}, code: "_denied"},
			try{Step: plan.Step{Name: host + " by CONNECT", Connect: host + ":" + s.port}, want: []int{403}, code: "_denied"})
	}
	for _, host := range []string{"a@127.0.0.1", "evil.test:80@127.0.0.1", "127.0.0.1%20", "127.0.0.1%2f.test", "[fe80::1%25lo]", "127.0.0.256", "0x100000000", "１２７.0.0.1\\"} {
		tries = append(tries, try{Step: plan.Step{Name: host + " by HTTP", Send: get("http://" + host + ":" + s.port + "/")}, want: []int{400}, code: "bad_request"})
	}
	w.attack(m, Options{Network: NetworkPermissive, NetworkRules: []string{"*:" + s.port}}, tries)
	if got := s.requests(); len(got) != 0 {
		t.Errorf("the server of the host got %q", got)
	}
	// The mirror: a rule that names the host reaches it, in every spelling of that.
	w.attack(m, Options{NetworkRules: []string{s.addr, policy.HostName + ":" + s.port}}, []try{
		{Step: plan.Step{Name: "as it is named", Send: get("http://" + s.addr + "/a")}, want: []int{200}, body: "served /a"},
		{Step: plan.Step{Name: "as a number", Send: get("http://2130706433:" + s.port + "/b")}, want: []int{200}, body: "served /b"},
		{Step: plan.Step{Name: "in upper case", Send: get("http://" + strings.ToUpper(policy.HostName) + ".:" + s.port + "/c")}, want: []int{200}, body: "served /c"},
	})
	if got := s.requests(); len(got) != 3 {
		t.Errorf("the server of the host got %q", got)
	}
	over()
}

// The gate decides about what servers get: requests that two programs would read
// differently are refused, or put so that there is one reading of them.
func TestRequestsFromInsideAreReadInOneWay(t *testing.T) {
	t.Parallel()
	certificate, roots := authority(t)
	w := newWorld(t).withGate(roots)
	m := w.manager()
	over := w.bystander(m)
	plain, secure, forbidden := listening(t, nil), listening(t, certificate), listening(t, nil)
	base, inner := "http://"+plain.addr, policy.HostName+":"+secure.port
	rules := []string{plain.addr + " allow * /ok/**", inner + " allow * /ok/**"}
	post := func(head, content string) string {
		return "POST " + base + "/ok/post HTTP/1.1\r\n" + head + "\r\n" + content
	}
	// What hides in a request: one to a server that no rule names.
	hidden := get("http://"+forbidden.addr+"/hidden", "Host: "+forbidden.addr)
	inside := func(name, send string, want ...int) try {
		return try{Step: plan.Step{Name: name, Connect: inner, TLS: new(policy.HostName), Send: send, Answers: len(want)}, want: want}
	}
	refused := func(a try, code string) try { a.code = code; return a }
	outside := func(name, send string, want ...int) try {
		return try{Step: plan.Step{Name: name, Send: send, Answers: len(want)}, want: want}
	}
	bad := func(name, send string) try { return refused(outside(name, send, 400), "bad_request") }
	tries := []try{
		outside("mirror: content by its length", post("Content-Length: 3\r\n", "abc"), 200),
		outside("mirror: content in chunks", post("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"), 200),
		outside("mirror: two requests", get(base+"/ok/1")+get(base+"/ok/2"), 200, 200),

		// What servers would take for a second request is one here as well, and
		// refused.
		refused(outside("a second request to another host", get(base+"/ok/1")+hidden, 200, 403), "policy_denied"),
		refused(outside("CL.TE", post(fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n", 5+len(hidden)), "0\r\n\r\n"+hidden), 200, 403), "policy_denied"),
		refused(outside("TE.CL", post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "1\r\na\r\n0\r\n\r\n"+hidden), 200, 403), "policy_denied"),
		outside("a request in content", post(fmt.Sprintf("Content-Length: %d\r\n", len(hidden)), hidden), 200),
		outside("a request in a chunk", post("Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(hidden), hidden)), 200),
		outside("chunk extensions", post("Transfer-Encoding: chunked\r\n", "3;a=b\r\nabc\r\n0;c=\"d\"\r\n\r\n"), 200),
		bad("a length in a trailer", post("Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n", "3\r\nabc\r\n0\r\nContent-Length: 1\r\n\r\n")),
		bad("an encoding in other words", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n")),
		bad("an encoding before the last", post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n")),
		bad("two encodings", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n")),
		bad("a space before the colon", post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n")),
		bad("an encoding with a vertical tab", post("Transfer-Encoding: \vchunked\r\n", "0\r\n\r\n")),
		bad("two lengths", post("Content-Length: 3\r\nContent-Length: 4\r\n", "abc")),
		bad("two lengths in one", post("Content-Length: 3, 4\r\n", "abc")),
		bad("a length with a sign", post("Content-Length: +3\r\n", "abc")),
		bad("a length below zero", post("Content-Length: -1\r\n", "abc")),
		bad("a length in hexadecimal", post("Content-Length: 0x3\r\n", "abc")),
		bad("a length that is too large", post("Content-Length: 99999999999999999999\r\n", "abc")),

		bad("NUL in a header", get(base+"/ok/", "X-A: a\x00b")),
		bad("NUL in a name", get(base+"/ok/", "X-A\x00: b")),
		bad("CR in a header", get(base+"/ok/", "X-A: a\rX-Injected: b")),
		bad("a header without a colon", get(base+"/ok/", "X-A")),
		bad("an empty name", get(base+"/ok/", ": b")),
		bad("a space in a name", get(base+"/ok/", "X A: b")),
		bad("a header that begins with a space", get(base+"/ok/", " X-A: b")),
		bad("NUL in a path", get(base+"/ok/\x00")),
		bad("CR in a path", get(base+"/ok/\rX-Injected: b")),
		bad("a space in a path", get(base+"/ok/ HTTP/1.1 x")),
		bad("a tab in a query", get(base+"/ok/?\t")),
		bad("a method with a header", "GET\rX: "+base+"/ok/ HTTP/1.1\r\n\r\n"),
		bad("a version that is none", "GET "+base+"/ok/ HTTP/1.x\r\n\r\n"),
		bad("a line without a version", "GET "+base+"/ok/\r\n\r\n"),
		bad("TLS without CONNECT", "\x16\x03\x01\x00\x05hello\r\n\r\n"),
		bad("another scheme", get("https://"+inner+"/ok/")),
		bad("a gopher", get("gopher://"+plain.addr+"/ok/")),
		bad("the origin form", get("/ok/", "Host: "+plain.addr)),
		bad("a network path", get("//"+plain.addr+"/ok/", "Host: "+plain.addr)),
		bad("a user in the URL", get("http://"+plain.addr+"@"+forbidden.addr+"/ok/")),
		bad("a backslash for a slash", get("http://"+plain.addr+"\\@"+forbidden.addr+"/ok/")),

		// Escaped, they are part of a query and of nothing else, and no rule allows
		// them in a path.
		refused(outside("an escaped line break in a path", get(base+"/ok/%0d%0aX-Injected:%20b"), 403), "policy_denied"),
		outside("an escaped line break in a query", get(base+"/ok/?%0d%0aX-Injected:%20b%0d%0a%0d%0aGET%20/"), 200),
		outside("lines that end with LF", strings.ReplaceAll(get(base+"/ok/", "X-A: b"), "\r\n", "\n"), 200),
		outside("a folded header", get(base+"/ok/", "X-A: b", " X-Folded: c"), 200),
		outside("another Host", get(base+"/ok/", "Host: "+forbidden.addr), 200),
		outside("headers that a proxy believes", get(base+"/ok/", "X-Forwarded-Host: "+forbidden.addr, "X-Original-Url: /hidden", "Forwarded: host="+forbidden.addr), 200),

		// Paths beside the rule.
		refused(outside("a path beside the rule", get(base+"/no"), 403), "policy_denied"),
		refused(outside("up", get(base+"/ok/../no"), 403), "policy_denied"),
		refused(outside("up, escaped", get(base+"/ok/%2e%2e/no"), 403), "policy_denied"),
		refused(outside("up, escaped twice", get(base+"/ok/%252e%252e/no"), 403), "policy_denied"),
		refused(outside("up with a backslash", get(base+"/ok/..%5cno"), 403), "policy_denied"),
		refused(outside("up with a parameter", get(base+"/ok/..;/no"), 403), "policy_denied"),
		refused(outside("NUL, escaped", get(base+"/ok/%00"), 403), "policy_denied"),

		// Ports and methods.
		refused(try{Step: plan.Step{Name: "CONNECT for SSH", Connect: "host.test:22"}, want: []int{403}}, "policy_denied"),
		refused(try{Step: plan.Step{Name: "CONNECT for mail", Connect: "host.test:25"}, want: []int{403}}, "policy_denied"),
		refused(try{Step: plan.Step{Name: "CONNECT to port 0", Connect: "host.test:0"}, want: []int{400}}, "bad_request"),
		refused(try{Step: plan.Step{Name: "CONNECT to port 65536", Connect: "host.test:65536"}, want: []int{400}}, "bad_request"),
		refused(try{Step: plan.Step{Name: "CONNECT to a port in words", Connect: "host.test:https"}, want: []int{400}}, "bad_request"),
		refused(try{Step: plan.Step{Name: "CONNECT to a port of a host that a rule names", Connect: policy.HostName + ":" + forbidden.port}, want: []int{403}}, "policy_denied"),
		refused(try{Step: plan.Step{Name: "CONNECT to SSH of a host that a rule names", Connect: policy.HostName + ":22"}, want: []int{403}}, "policy_denied"),
		refused(outside("a redirect elsewhere, that the client follows", get(base+"/ok/")+hidden, 200, 403), "policy_denied"),

		// Inside TLS, by HTTP/1.1.
		inside("mirror: inside", get("/ok/inside", "Host: "+inner), 200),
		inside("mirror: inside, the absolute form", get("https://"+inner+"/ok/absolute", "Host: "+inner), 200),
		refused(inside("fronting by Host", get("/ok/", "Host: "+forbidden.addr), 421), "misdirected_request"),
		refused(inside("fronting by Host, the port", get("/ok/", "Host: "+policy.HostName+":"+forbidden.port), 421), "misdirected_request"),
		refused(inside("fronting by the absolute form", get("https://"+forbidden.addr+"/ok/", "Host: "+inner), 421), "misdirected_request"),
		refused(inside("fronting by another scheme", get("http://"+inner+"/ok/", "Host: "+inner), 421), "misdirected_request"),
		refused(inside("fronting in a second request", get("/ok/", "Host: "+inner)+get("/ok/", "Host: "+forbidden.addr), 200, 421), "misdirected_request"),
		refused(inside("two Hosts", get("/ok/", "Host: "+inner, "Host: "+forbidden.addr), 400), "bad_request"),
		refused(inside("no Host", get("/ok/"), 421), "misdirected_request"),
		refused(inside("CONNECT inside CONNECT", "CONNECT "+forbidden.addr+" HTTP/1.1\r\nHost: "+forbidden.addr+"\r\n\r\n", 405), "bad_request"),
		refused(inside("a path beside the rule, inside", get("/no", "Host: "+inner), 403), "policy_denied"),
		refused(inside("CR in a header, inside", get("/ok/", "Host: "+inner, "X-A: a\rX-Injected: b"), 400), "bad_request"),
		refused(try{Step: plan.Step{Name: "fronting by the server name", Connect: inner, TLS: new("evil.test"), Send: get("/ok/", "Host: "+inner)}, want: []int{421}}, "misdirected_request"),
		refused(try{Step: plan.Step{Name: "fronting by the server name and Host", Connect: inner, TLS: new("evil.test"), Send: get("/ok/", "Host: evil.test")}, want: []int{421}}, "misdirected_request"),
	}
	// Inside TLS, by HTTP/2.
	two := func(name string, want int, code string, fields ...[2]string) try {
		a := try{Step: plan.Step{Name: "HTTP/2, " + name, Connect: inner, TLS: new(policy.HostName), Headers: fields}, code: code}
		if want > 0 {
			a.want = []int{want}
		}
		a.isMalformed = want == 0 || code == "" && want >= 400
		return a
	}
	field := func(name, value string) [2]string { return [2]string{name, value} }
	method, scheme, authority, path := field(":method", "GET"), field(":scheme", "https"), field(":authority", inner), field(":path", "/ok/2")
	tries = append(tries,
		two("mirror", 200, "", method, scheme, authority, path),
		two("a path beside the rule", 403, "policy_denied", method, scheme, authority, field(":path", "/no")),
		two("fronting by :authority", 421, "misdirected_request", method, scheme, field(":authority", forbidden.addr), path),
		two("fronting by Host alone", 421, "misdirected_request", method, scheme, path, field("host", forbidden.addr)),
		two("another Host beside :authority", 200, "", method, scheme, authority, path, field("host", forbidden.addr)),
		two("CONNECT", 405, "bad_request", field(":method", "CONNECT"), field(":authority", inner)),
		two("a path that is a URL", 421, "misdirected_request", method, scheme, authority, field(":path", "https://"+forbidden.addr+"/ok/")),
		two("a path that is none", 421, "misdirected_request", method, scheme, authority, field(":path", "https:no/path")),
		two("a line break in a path", 0, "", method, scheme, authority, field(":path", "/ok/\r\nX-Injected: b")),
		two("a line break in a header", 0, "", method, scheme, authority, path, field("x-a", "a\r\nX-Injected: b")),
		two("a line break in a name", 0, "", method, scheme, authority, path, field("x-a\r\nx-injected", "b")),
		two("a line break in a method", 0, "", field(":method", "GET /no HTTP/1.1\r\nX-Injected: b"), scheme, authority, path),
		two("an upper-case name", 0, "", method, scheme, authority, path, field("X-Injected", "b")),
		two("chunked", 400, "", method, scheme, authority, path, field("transfer-encoding", "chunked")),
		two("headers of the connection", 400, "", method, scheme, authority, path, field("connection", "x-a")),
		two("two paths", 0, "", method, scheme, authority, path, field(":path", "/no")),
		two("a pseudo-header after others", 0, "", method, scheme, field("x-a", "b"), authority, path),
		two("a pseudo-header of its own", 0, "", method, scheme, authority, path, field(":injected", "b")),
		two("no path", 0, "", method, scheme, authority),
	)
	lying := two("a length that is a lie", 0, "", field(":method", "POST"), scheme, authority, path, field("content-length", "1"))
	lying.Send = "abc" + hidden
	front := two("fronting by the server name", 421, "misdirected_request", method, scheme, authority, path)
	front.TLS = new("evil.test")
	tries = append(tries, lying, front)
	w.attack(m, Options{NetworkRules: rules}, tries)
	if got := forbidden.requests(); len(got) != 0 {
		t.Errorf("the server that no rule names got %q", got)
	}
	for _, s := range []*target{plain, secure} {
		for _, request := range s.requests() {
			if strings.Contains(request, "/no") || strings.Contains(request, "evil") || strings.Contains(request, forbidden.port) || !strings.HasSuffix(request, ":"+s.port) {
				t.Errorf("a server got %q", request)
			}
		}
	}
	over()
}

// Whatever a run sends, and however slowly: it is the run's own loss.
func TestGateServesOthersWhileOneRunAbusesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	over := w.bystander(m)
	endless := endlessServer(t)
	s := listening(t, nil)
	url := "http://" + s.addr + "/"
	rules := []string{s.addr, endless}
	w.attack(m, Options{NetworkRules: rules}, []try{
		{Step: plan.Step{Name: "mirror: many headers", Send: get(url+"many", strings.TrimSuffix(strings.Repeat("X-A: b\r\n", 1000), "\r\n"))}, want: []int{200}, body: "served /many"},
		{Step: plan.Step{Name: "ten thousand headers", Send: get(url, strings.TrimSuffix(strings.Repeat("X-A: b\r\n", 10_000), "\r\n"))}, want: []int{431}, code: "bad_request"},
		{Step: plan.Step{Name: "a header without an end", Send: "GET " + url + " HTTP/1.1\r\nX-A: " + strings.Repeat("b", 200_000)}, want: []int{431}, code: "bad_request"},
		{Step: plan.Step{Name: "a line without an end", Send: "GET " + url + strings.Repeat("b", 200_000)}, want: []int{431}, code: "bad_request"},
		{Step: plan.Step{Name: "mirror: a long URL", Send: get(url + strings.Repeat("b", 30_000))}, want: []int{200}},
		// Connections that are closed in the middle are not in anybody's way.
		{Step: plan.Step{Name: "closed connections", Do: "close", Numbers: []int{1000}, Send: "GET " + url + " HTTP/1.1\r\nX-A:"}, isSilent: true},
		{Step: plan.Step{Name: "mirror: after closed connections", Send: get(url + "after")}, want: []int{200}, body: "served /after"},
	})
	// What holds connections does so until its run ends. Each of these uses up what
	// its run has, and the last step shows that the others still have theirs.
	for name, step := range map[string]plan.Step{
		"one byte of a request":           {Do: "hold", Numbers: []int{250}, Send: "G"},
		"a head that does not end":        {Do: "hold", Numbers: []int{250}, Send: "GET " + url + " HTTP/1.1\r\nX-A:"},
		"content that does not come":      {Do: "hold", Numbers: []int{250}, Send: "POST " + url + " HTTP/1.1\r\nContent-Length: 1000\r\n\r\na"},
		"answers that nobody reads":       {Do: "hold", Numbers: []int{100}, Send: get("http://" + endless + "/")},
		"tunnels in which nothing is":     {Do: "hold", Numbers: []int{250}, Send: "CONNECT " + endless + " HTTP/1.1\r\n\r\n"},
		"silence at the gate's socket":    {Do: "hold", Numbers: []int{2000}, Address: "unix:" + runtime.GateSocket},
		"half a token":                    {Do: "hold", Numbers: []int{2000}, Address: "unix:" + runtime.GateSocket, Send: "drawbridge A"},
		"a handshake that does not begin": {Do: "hold", Numbers: []int{250}, Send: "CONNECT " + s.addr + " HTTP/1.1\r\n\r\n\x16"},
	} {
		step.Name = "held"
		run := w.attackRun(m, Options{NetworkRules: rules}, []plan.Step{step})
		if err := m.Start(t.Context(), run.ID, StartOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, name, func() bool {
			return strings.Contains(output(t, m, run.ID), `"held"`) || w.get(m, run.ID).State.Terminal()
		})
		if text := output(t, m, run.ID); strings.Contains(text, `"error"`) || !strings.Contains(text, `"held"`) {
			t.Errorf("%s: it printed %q", name, text)
		}
		w.attack(m, Options{NetworkRules: rules}, []try{{Step: plan.Step{Name: "another run, beside " + name, Send: get(url)}, want: []int{200}}})
		if err := m.DestroyWith(t.Context(), run.ID, DestroyOptions{Force: true}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	over()
}

// endlessServer answers every request without an end.
func endlessServer(t *testing.T) (host string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for block := bytes.Repeat([]byte("x"), 64<<10); ; {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.Listener.Addr().String()
}
