// Package daemon is the long-lived host process that owns the gate: one for each
// home, started by the first Manager that has a run for it, and gone some minutes
// after the last such run. Managers come and go with the clients that started
// them; sandboxes do not, and neither does their way out.
//
// Serve is the process. Client is how Managers find it, start it where there is
// none, and register runs. What is said between the two (this file) goes over a
// Unix socket that only the home's owner can connect to, and of which the daemon
// asks the kernel who is at the other end.
//
// A registration holds names and rules, never a credential. The daemon writes it
// down before it listens for the run, so that a daemon that takes the place of one
// that was killed has the same policies, tokens and sockets: a sandbox sees
// nothing of it but connections that broke off.
package daemon

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/lazyregexp"
	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
)

// RegisterRequest introduces a run to the daemon. It carries names of grants,
// never a credential, so that it can be stored with the run.
type RegisterRequest struct {
	RunID         string   `json:"run_id"` // or the ID of a build
	Grants        []string `json:"grants,omitempty"`
	Profile       string   `json:"profile,omitempty"`        // of the grants; empty is the default one
	NetworkPolicy string   `json:"network_policy,omitempty"` // "permissive" or "strict", which is the default
	NetworkRules  []string `json:"network_rules,omitempty"`  // see policy.ParseRule
	// NetworkLimit are rules beyond which nothing is allowed but the hosts of the
	// grants; without any there is no limit.
	NetworkLimit []string `json:"network_limit,omitempty"`
	// Operations are what the run may not do where it may go; nil if anything.
	Operations *Operations `json:"operations,omitempty"`
	// Learn lets through what the policy refuses, and has it recorded.
	Learn bool `json:"learn,omitempty"`
	// GateDir is the run's directory on the host for what its sandbox gets of
	// the gate: the socket and certificates.
	GateDir string `json:"gate_dir"`
	// LogDir holds a log, from logring.Create with LogLimit, for a record of
	// each request.
	LogDir   string `json:"log_dir"`
	LogLimit int64  `json:"log_limit"` // bytes
	// SSHAuthSock is the socket of the SSH agent that has the keys of SSH grants;
	// empty is that of the daemon's environment.
	SSHAuthSock string `json:"ssh_auth_sock,omitempty"`
	// Secrets is the file of the run's secrets, see package secret, which are masked in
	// the record; empty where it has none.
	Secrets string `json:"secrets,omitempty"`
	// ModelServer is the URL at which the run asks its model, see
	// provider.ParseModelServer; empty is that of the model's maker.
	ModelServer string `json:"model_server,omitempty"`
	// Token is that of an earlier registration of the run, empty if there was
	// none.
	Token string `json:"token,omitempty"`
}

// Registration is what a run is told about the gate.
type Registration struct {
	Token  string   `json:"token"`         // what its guest begins connections with
	Commit string   `json:"commit"`        // the build of the daemon
	Env    []string `json:"env,omitempty"` // variables of the sandbox, KEY=VALUE, in which placeholders stand for credentials
	// SSHKeys are the fingerprints of what the run's SSH agent offers, at AgentFile
	// of GateDir; without any there is no agent.
	SSHKeys []string `json:"ssh_keys,omitempty"`
	AWS     *AWSRole `json:"aws,omitempty"` // nil without a grant for AWS
}

// AWSRole is what is told of the role that a run acts in.
type AWSRole struct {
	RoleARN     string        `json:"role_arn"`
	Region      string        `json:"region"`
	SessionName string        `json:"session_name"`
	Duration    time.Duration `json:"duration_ns"` // of one set of credentials
}

// Health is what a daemon says of itself.
type Health struct {
	PID    int    `json:"pid"`
	Commit string `json:"commit"`
	Runs   int    `json:"runs"` // that are registered
}

// Names of files in RegisterRequest.GateDir.
const (
	SocketFile = "gate.sock"      // where the gate listens for the run
	AgentFile  = "ssh-agent.sock" // where its SSH agent listens, if it has one
	CAFile     = "ca.pem"         // the gate's own authority
	BundleFile = "ca-bundle.pem"  // the authorities of this host, and the gate's
	// TrustStoreFile has those of BundleFile in the form that Java reads.
	TrustStoreFile = "ca-bundle.p12"
)

// Where sandboxes have GateDir and the guest program; package runtime says so too.
const (
	SandboxDir   = "/run/drawbridge/gate"
	SandboxGuest = "/run/drawbridge/guest"
)

// SandboxGate is the address in a sandbox of what leads to the gate; package runtime
// says so too.
const SandboxGate = "127.0.0.1:3128"

const maxRules = 1000 // of one run: about what still decides in microseconds

// runIDs are those of runs, and of builds of their images.
var runIDs = lazyregexp.New(`^(run|build)_[0-9a-f]{12}$`)

// check refuses what is no request, and returns its rules.
func (r *RegisterRequest) check() ([]policy.Rule, error) {
	switch {
	case !runIDs.MatchString(r.RunID): // from a file that somebody changed
		return nil, fmt.Errorf("%q is not a run ID", r.RunID)
	case !filepath.IsAbs(r.GateDir) || !filepath.IsAbs(r.LogDir):
		return nil, errors.New("the directories of a run must be absolute")
	}
	return ParseRules(r.NetworkPolicy, r.NetworkRules)
}

// policy returns what the run may reach: what its own rules and the hosts of its
// grants allow, within the limit, which does not apply to those hosts. Who allowed
// the grants has allowed them.
func (r *RegisterRequest) policy(own []policy.Rule, grants []proxy.Grant, hosts []policy.Rule) (*policy.Policy, error) {
	with := func(mode string, rules []policy.Rule) (*policy.Policy, error) {
		reachable, err := proxy.GrantRules(grants, rules)
		if err != nil {
			return nil, err
		}
		return policy.New(policy.Mode(mode), slices.Concat(rules, reachable, hosts)), nil
	}
	p, err := with(r.NetworkPolicy, own)
	if err != nil || len(r.NetworkLimit) == 0 {
		return p, err
	}
	rules, err := ParseRules(string(policy.Strict), r.NetworkLimit)
	if err != nil {
		return nil, fmt.Errorf("read the limit of the network: %w", err)
	}
	limit, err := with(string(policy.Strict), rules)
	if err != nil {
		return nil, err
	}
	return p.Within(limit), nil
}

// ParseRules returns the rules of a policy in text, and refuses a mode that is
// neither "strict" (or nothing) nor "permissive". Errors are for whoever wrote them.
func ParseRules(mode string, rules []string) ([]policy.Rule, error) {
	if mode == "" {
		mode = string(policy.Strict)
	}
	if !slices.Contains([]string{string(policy.Strict), string(policy.Permissive)}, mode) {
		return nil, fmt.Errorf("unknown network policy %q; use strict or permissive", mode)
	}
	if len(rules) > maxRules {
		return nil, fmt.Errorf("there are %d network rules, the limit is %d", len(rules), maxRules)
	}
	parsed := make([]policy.Rule, len(rules))
	for i, text := range rules {
		rule, err := policy.ParseRule(text)
		if err != nil {
			return nil, err
		}
		parsed[i] = rule
	}
	return parsed, nil
}

// Paths below a home.
func daemonDir(home string) string  { return filepath.Join(home, "daemon") }
func socketPath(home string) string { return filepath.Join(daemonDir(home), "daemon.sock") }
func runFile(home, id string) string {
	return filepath.Join(daemonDir(home), "runs", id+".json")
}
