package manager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
	"github.com/drawbridge-mcp/drawbridge/manager/access/sshagent"
	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Network says what a run reaches. No sandbox has a network of its own: what gets
// out goes through the gate, which decides about each request and records it.
type Network string

// The networks.
const (
	NetworkNone       Network = "none"       // nothing, and no gate
	NetworkStrict     Network = "strict"     // what the run's rules name
	NetworkPermissive Network = "permissive" // any host on the Internet, by HTTP, except what the rules deny
)

const (
	// networkLogLimit bounds the record of a run's requests, in bytes: some
	// 40,000 requests. The oldest are dropped.
	networkLogLimit = 16 << 20
	gateTimeout     = 5 * time.Second // for the end of a run's service, which must not hold the run's end up
	// watchPause is the wait after a daemon that could not be started.
	watchPause     = 100 * time.Millisecond
	maxWatchPause  = 10 * time.Second
	shownRefusals  = 5
	maxPageEntries = 1000
)

// gateState is what is stored of a run's registration with the gate.
type gateState struct {
	Token  string `json:"token"`
	Commit string `json:"commit,omitempty"`
	// SSHKeys are the fingerprints of what the run's SSH agent offers.
	SSHKeys []string `json:"ssh_keys,omitempty"`
	// AWS is the role that the run acts in, nil without a grant for AWS.
	AWS *daemon.AWSRole `json:"aws,omitempty"`
}

// gateClient is the Manager's side of the gate.
type gateClient struct {
	client   *daemon.Client // nil where this Manager has no gate
	watching sync.Once
	wake     chan struct{} // there may be a run now whose gate is to be watched
}

func newGateClient(opts ManagerOptions) *gateClient {
	g := &gateClient{wake: make(chan struct{}, 1)}
	if len(opts.GateCommand) > 0 {
		g.client = daemon.NewClient(opts.Home, opts.GateCommand)
	}
	return g
}

func (g *gateClient) close() {
	if g.client != nil {
		g.client.Close()
	}
}

// chooseNetwork checks what a new run asks for, and fills in what it does not say.
func (m *Manager) chooseNetwork(ctx context.Context, driver runtime.Runtime, opts *Options) error {
	if err := canPublish(ctx, driver, opts.Ports); err != nil {
		return err
	}
	able := m.gate.client != nil
	mend := "use network none"
	if able {
		can, err := driver.Capabilities(ctx)
		if err != nil {
			return err
		}
		able, mend = can.Gate, can.GateMend
	}
	if err := m.checkGrants(opts.Grants); err != nil {
		return err
	}
	asked, gated := opts.Network, len(opts.NetworkRules) > 0 || opts.Learn || len(opts.Grants) > 0
	switch {
	case asked == "" && able:
		opts.Network = NetworkStrict
	case asked == "" && gated:
		return failf(CodeUnsupported, mend, "the gate, which network rules and grants need, is not available to this run")
	case asked == "":
		opts.Network = NetworkNone
	case asked == NetworkNone && gated:
		return failf(CodeInvalidArgument, "use network strict, or leave them out", "a run without a network has no use for network rules and grants")
	case asked == NetworkNone:
	case asked != NetworkStrict && asked != NetworkPermissive:
		return failf(CodeInvalidArgument, "use none, strict or permissive", "unknown network %q", asked)
	case !able:
		return failf(CodeUnsupported, mend, "the gate, which network %s needs, is not available to this run", asked)
	}
	if opts.Network == NetworkNone {
		return nil
	}
	if _, err := daemon.ParseRules(string(opts.Network), opts.NetworkRules); err != nil {
		return failf(CodeInvalidArgument, "write a rule as HOST, HOST:PORT, or \"HOST allow|deny METHOD /path\"", "%v", err)
	}
	return nil
}

// checkGrants refuses grants that callers may not use. Whether there are such, and
// whether they can be used, is for the daemon to say: it alone reads them.
func (m *Manager) checkGrants(names []string) error {
	if len(names) == 0 {
		return nil
	}
	allowed := map[string]bool{}
	if m.opts.ForAgents {
		store, err := m.credentials()
		if err != nil {
			return err
		}
		list, err := store.Allowed()
		if err != nil {
			return err
		}
		for _, g := range list {
			allowed[string(g)] = true
		}
		for _, name := range m.opts.Grants {
			allowed[name] = true
		}
	}
	seen := map[string]bool{}
	for _, name := range names {
		grant, err := credential.ParseGrant(name)
		switch {
		case err != nil:
			return failf(CodeInvalidArgument, "look at `drawbridge grant list`", "%v", err)
		case string(grant) != name:
			return failf(CodeInvalidArgument, fmt.Sprintf("write %s", grant), "the grant %q is not written as it is named", name)
		case seen[name]:
			return failf(CodeInvalidArgument, "name it once", "the grant %s is named twice", name)
		case m.opts.ForAgents && !allowed[name]:
			return failf(CodePolicyDenied, fmt.Sprintf("do without it, or ask the person who runs the server to run `drawbridge grant allow %s`", name), "agents are not allowed to use the grant %s", name)
		}
		seen[name] = true
	}
	return nil
}

// credentials opens the store of grants, of which the Manager reads no credential.
func (m *Manager) credentials() (*credential.Store, error) {
	return credential.Open(credential.Dir(m.opts.Home), credential.Options{Profile: m.opts.Profile})
}

// Grant is what is told of a stored grant: nothing of its credential.
type Grant = daemon.Grant

// Grants returns the grants that callers can use; where they are agents, those that
// are allowed to them.
func (m *Manager) Grants(ctx context.Context) ([]Grant, error) {
	if m.gate.client == nil {
		return nil, failf(CodeUnsupported, "", "this program has no gate, and so no use for grants")
	}
	all, err := m.gate.client.Grants(ctx, m.opts.Profile)
	if err != nil {
		return nil, err
	}
	for i := range all {
		all[i].Allowed = all[i].Allowed || slices.Contains(m.opts.Grants, all[i].Name)
	}
	if m.opts.ForAgents {
		all = slices.DeleteFunc(all, func(g Grant) bool { return !g.Allowed })
	}
	return all, nil
}

// gateEnv points programs at the gate, each in its own way. What a run sets itself
// wins. Services are asked directly: the gate does not reach them.
func gateEnv(services []string) []string {
	proxyURL := "http://" + runtime.GateAddress
	bundle := runtime.GateDir + "/" + daemon.BundleFile
	env := []string{
		"NODE_USE_ENV_PROXY=1", "NODE_EXTRA_CA_CERTS=" + runtime.GateDir + "/" + daemon.CAFile,
		"GIT_TERMINAL_PROMPT=0", // nobody is there to answer it
	}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		env = append(env, name+"="+proxyURL, strings.ToLower(name)+"="+proxyURL)
	}
	// Java reads neither variables nor PEM. It says on standard error that it has
	// picked these up.
	host, port, _ := strings.Cut(runtime.GateAddress, ":")
	java := []string{
		"-Djavax.net.ssl.trustStore=" + runtime.GateDir + "/" + daemon.TrustStoreFile,
		"-Djavax.net.ssl.trustStoreType=PKCS12", "-Djavax.net.ssl.trustStorePassword=" + daemon.TrustStorePassword,
		"-Dhttp.nonProxyHosts=" + strings.Join(append([]string{"localhost", "127.*", "[::1]"}, services...), "|"),
		"-Dhttp.proxyHost=" + host, "-Dhttp.proxyPort=" + port, "-Dhttps.proxyHost=" + host, "-Dhttps.proxyPort=" + port,
	}
	env = append(env, "JAVA_TOOL_OPTIONS="+strings.Join(java, " "))
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		env = append(env, name+"="+strings.Join(append([]string{"localhost", "127.0.0.1", "::1"}, services...), ","))
	}
	for _, name := range []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "AWS_CA_BUNDLE", "CARGO_HTTP_CAINFO", "DENO_CERT"} {
		env = append(env, name+"="+bundle)
	}
	return env
}

// registerGate has the gate serve the run, before anything of it exists that could
// send a request.
func (m *Manager) registerGate(ctx context.Context, c *creation) error {
	sp, err := decode[spec](c.row.Spec, "specification", c.row.ID)
	if err != nil || sp.Network == NetworkNone {
		return err
	}
	store := m.store.RunStore(c.row.ID)
	if err := store.CreateNetworkLog(networkLogLimit); err != nil {
		return err
	}
	c.releases.push("the registration with the gate", func(ctx context.Context) error { return m.gate.client.Unregister(ctx, c.row.ID) })
	got, err := m.gate.client.Register(ctx, registration(store, c.row.ID, &sp, ""))
	if errors.Is(err, syscall.ENOSPC) {
		return err // classified like any other full disk
	}
	if refused, ok := errors.AsType[*daemon.RefusedError](err); ok {
		return failf(CodeInvalidArgument, "", "%s", refused.Message)
	}
	if err != nil {
		return failf(CodeRuntimeUnavailable, "look at `drawbridge doctor`, or use network none", "%v", err)
	}
	c.gate = &gateState{Token: got.Token, Commit: got.Commit, SSHKeys: got.SSHKeys, AWS: got.AWS}
	c.spec.Gate = &runtime.Gate{Dir: store.GateDir(), Token: got.Token, SSHAgent: len(got.SSHKeys) > 0}
	env := got.Env
	if c.spec.Gate.SSHAgent {
		if env, err = agentEnv(ctx, c.driver, env); err != nil {
			return err
		}
	}
	c.grantEnv = env
	c.spec.Env = slices.Concat(gateEnv(serviceNames(c.spec.Services)), env, c.spec.Env)
	return nil
}

// agentEnv returns the variables of a run with an SSH agent: in a sandbox that cannot
// connect to the agent's own socket, they name that of the guest.
func agentEnv(ctx context.Context, driver runtime.Runtime, env []string) ([]string, error) {
	can, err := driver.Capabilities(ctx)
	if err != nil || can.GateSockets {
		return env, err
	}
	const variable = "SSH_AUTH_SOCK="
	relayed := slices.Clone(env)
	for i := range relayed {
		if strings.HasPrefix(relayed[i], variable) {
			relayed[i] = variable + runtime.RelayedAgent
		}
	}
	return relayed, nil
}

func registration(store *storage.RunStore, id string, sp *spec, token string) daemon.RegisterRequest {
	secrets := ""
	if len(sp.Secrets) > 0 {
		secrets = store.SecretsFile()
	}
	return daemon.RegisterRequest{
		RunID: id, Grants: sp.Grants, Profile: sp.Profile, NetworkPolicy: string(sp.Network), NetworkRules: sp.Rules, NetworkLimit: sp.Limit, Learn: sp.Learn, Operations: sp.Operations,
		GateDir: store.GateDir(), LogDir: store.NetworkLogDir(), LogLimit: networkLogLimit, SSHAuthSock: sp.SSHAuthSock, Secrets: secrets, ModelServer: sp.ModelServer, Token: token,
	}
}

// sshAuthSock is the socket of the SSH agent of whoever makes a run with SSH grants.
// It is stored with the run: the daemon may have been started from elsewhere.
func sshAuthSock(grants []string) string {
	if socket := os.Getenv("SSH_AUTH_SOCK"); filepath.IsAbs(socket) && slices.ContainsFunc(grants, sshagent.IsGrant) {
		return socket
	}
	return ""
}

// ensureGate has the gate serve a run that is about to start: the daemon may have
// come and gone since it was created.
func (m *Manager) ensureGate(ctx context.Context, row storage.RunRow) error {
	run, err := m.snapshot(&row)
	if err != nil {
		return err
	}
	request := run.ProxyRegReq
	if request == nil {
		if len(run.Ports) > 0 && m.gate.client != nil {
			// Its Manager listens when this one is gone.
			return m.gate.client.Ensure(ctx)
		}
		return nil
	}
	if m.gate.client == nil {
		return failf(CodeUnsupported, "start it with the server that created it", "the run needs the gate, which this program does not have")
	}
	_, err = m.gate.client.Register(ctx, *request)
	return err
}

// closeGate ends the gate's service of a run whose command has ended, and sums up
// what it did. A daemon that does not answer is no reason not to record the end.
func (m *Manager) closeGate(ctx context.Context, id string) *NetworkSummary {
	row, err := m.anyRow(ctx, id)
	if err != nil {
		return nil
	}
	run, err := m.snapshot(&row)
	if err != nil || run.ProxyRegReq == nil {
		return nil
	}
	m.unregister(ctx, id)
	summary, err := summarize(run)
	if err != nil {
		m.log.Warn("reading what a run requested failed", zap.String("run", id), zap.Error(err))
	}
	return summary
}

func (m *Manager) unregister(ctx context.Context, id string) {
	if m.gate.client == nil {
		return // the daemon forgets a run whose directory is gone
	}
	ctx, cancel := context.WithTimeout(ctx, gateTimeout)
	defer cancel()
	if err := m.gate.client.Unregister(ctx, id); err != nil {
		m.log.Warn("the gate did not end its service of a run", zap.String("run", id), zap.Error(err))
	}
}

// watchGate keeps the gate's daemon up for the runs that this Manager supervises. There is
// one for each Manager that has such a run.
func (m *Manager) watchGate() {
	if m.gate.client == nil {
		return
	}
	select {
	case m.gate.wake <- struct{}{}:
	default:
	}
	m.gate.watching.Do(func() { m.tasks.start(m.keepGate) })
}

// keepGate starts the gate's daemon again when it has ended, and sees to it that it
// knows the runs.
func (m *Manager) keepGate(ctx context.Context) {
	pause := watchPause
	for ctx.Err() == nil {
		runs := m.tendedRuns(ctx)
		if len(runs) == 0 {
			select {
			case <-m.gate.wake:
			case <-ctx.Done():
			}
			continue
		}
		if err := m.registerAll(ctx, runs); err != nil {
			if ctx.Err() == nil {
				m.log.Warn("the gate is down; trying again", zap.Error(err))
			}
			_ = sleep(ctx, pause)
			pause = min(2*pause, maxWatchPause)
			continue
		}
		pause = watchPause
		if err := m.gate.client.Watch(ctx); err != nil && ctx.Err() == nil {
			_ = sleep(ctx, pause)
		}
	}
}

// tendedRuns are the runs that this Manager supervises and that need the daemon: for
// their gate, or because it listens on their ports when this Manager is gone.
func (m *Manager) tendedRuns(ctx context.Context) []*Run {
	m.mu.Lock()
	ids := make([]string, 0, len(m.supervised))
	for id := range m.supervised {
		ids = append(ids, id)
	}
	m.mu.Unlock()
	var runs []*Run
	for _, id := range ids {
		if run, err := m.get(ctx, id); err == nil && (run.ProxyRegReq != nil || len(run.Ports) > 0) && run.GetState().Active() {
			runs = append(runs, run)
		}
	}
	return runs
}

// registerAll registers runs that the daemon may not know. It answers for those
// that it knows without touching their connections.
func (m *Manager) registerAll(ctx context.Context, runs []*Run) error {
	var errs []error
	for _, run := range runs {
		if run.ProxyRegReq == nil {
			continue
		}
		if _, err := m.gate.client.Register(ctx, *run.ProxyRegReq); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
