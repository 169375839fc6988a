package daemon

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
	"github.com/drawbridge-mcp/drawbridge/manager/access/sshagent"
)

// The files of SSH below a home. They are used where they are staged, so that a
// home with files of its own works too.
const (
	sshConfig     = ".ssh/config"
	sshKnownHosts = ".ssh/known_hosts"
)

// addSSH adds an SSH grant.
func (r *resolved) addSSH(stored credential.Credential) error {
	g, err := sshagent.FromCredential(stored)
	if err != nil {
		return err
	}
	r.ssh = append(r.ssh, g)
	return nil
}

// addSSHFiles adds what OpenSSH and Git need to use the SSH grants.
func (r *resolved) addSSHFiles() {
	if len(r.ssh) == 0 {
		return
	}
	staged := SandboxDir + "/" + HomeDir + "/"
	var known strings.Builder
	for _, g := range r.ssh {
		known.WriteString(g.KnownHosts())
	}
	r.files = append(r.files,
		provider.File{Path: sshKnownHosts, Content: known.String()},
		provider.File{Path: sshConfig, Content: fmt.Sprintf(sshConfigText, SandboxGuest, staged+sshKnownHosts)})
	r.env = append(r.env,
		"SSH_AUTH_SOCK="+SandboxDir+"/"+AgentFile,
		"GIT_SSH_COMMAND=ssh -F "+staged+sshConfig)
}

// sshConfigText takes connections through the gate, to hosts whose keys are known.
// Nobody is there to answer a question; a connection that others share would be
// bound to the session of the first.
const sshConfigText = `# Written by drawbridge for the SSH grants of this run.
Host *
    ProxyCommand %s connect %%h %%p
    UserKnownHostsFile %s
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    UpdateHostKeys no
    BatchMode yes
    IdentitiesOnly no
    ForwardAgent no
    ControlMaster no
    ControlPath none
`

// sshRules lets connections to the hosts of the SSH grants through.
func (r *resolved) sshRules() ([]policy.Rule, error) {
	var rules []policy.Rule
	for _, g := range r.ssh {
		rule, err := policy.ParseRule(net.JoinHostPort(g.Host, strconv.Itoa(int(g.Port))))
		if err != nil {
			return nil, fmt.Errorf("allow the host of grant %s: %w", g.Name, err)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// checkSSH makes sure that the keys that an agent has to have are there, so that a
// person hears of it before the run starts. They may go and come later.
func (r *resolved) checkSSH(ctx context.Context, socket string) error {
	var missing []string
	var keys []sshagent.AgentKey
	var asking error
	for _, g := range r.ssh {
		if g.Private != nil {
			continue
		}
		if keys == nil && asking == nil {
			keys, asking = sshagent.AgentKeys(ctx, socket)
		}
		if !slices.ContainsFunc(keys, func(k sshagent.AgentKey) bool { return bytes.Equal(k.Key.Marshal(), g.Key.Marshal()) }) {
			missing = append(missing, g.Name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	names := strings.Join(missing, ", ")
	if asking == nil {
		asking = errors.New("the SSH agent does not have its key; run `ssh-add`")
	}
	return fmt.Errorf("use the grant %s: %w; or store the key itself with `drawbridge grant %s --key FILE`", names, asking, missing[0])
}

func agentSocket(request *RegisterRequest) string {
	return cmp.Or(request.SSHAuthSock, os.Getenv("SSH_AUTH_SOCK"))
}

// agentOf returns the SSH agent of a run and what it listens on; nil without SSH
// grants.
func agentOf(request *RegisterRequest, granted *resolved, log *recorder) (*sshagent.Server, net.Listener, error) {
	path := filepath.Join(request.GateDir, AgentFile)
	if len(granted.ssh) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, nil, err
		}
		return nil, nil, nil
	}
	// As for the gate's socket.
	l, err := listen(path, 0o666)
	if err != nil {
		return nil, nil, fmt.Errorf("listen for the run's SSH agent: %w", err)
	}
	return sshagent.New(sshagent.Options{
		SocketPath: path, Grants: granted.ssh, Upstream: agentSocket(request),
		Record: func(e sshagent.Event) { log.record(signatureEntry(e)) }, CanRecord: log.canRecord,
	}), l, nil
}

// unknownHost stands for the host where a request to an agent is about none.
const unknownHost = "ssh-agent"

func signatureEntry(e sshagent.Event) proxy.Entry {
	entry := proxy.Entry{
		Time: e.Time, Kind: proxy.KindSignature, Protocol: "SSH", Method: "SIGN", Host: cmp.Or(e.Host, unknownHost), Port: int(e.Port),
		Duration: e.Duration, Decision: proxy.Allowed, Grant: e.Grant, User: strings.ToValidUTF8(e.User, "?"), Key: e.Fingerprint,
	}
	if e.Refused != "" {
		entry.Decision, entry.Error = proxy.Refused, e.Refused
	}
	return entry
}
