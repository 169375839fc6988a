package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager/access/awsrole"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
	"github.com/drawbridge-mcp/drawbridge/manager/access/sshagent"
)

// grantFlags are the flags of grant.
type grantFlags struct {
	profile  string
	from     string
	set      []string
	noVerify bool
	ssh      sshFlags
}

func (a *app) grantCommand() *cobra.Command {
	var f grantFlags
	cmd := &cobra.Command{
		Use:   "grant NAME",
		Short: "Store a credential that runs use without seeing it",
		Long: `Store a credential, encrypted, that runs use without seeing it: the sandbox has a
placeholder, and the real one is put in its place on the way to the service's hosts.

NAME is a provider, such as github or openai, or one with an instance behind a colon,
such as npm:npm.example.com or mcp:tickets; "drawbridge grant providers" lists them.
Agents may use a grant after "drawbridge grant allow NAME".

The credential is never an argument. Without --from, it comes from standard input
where that is no terminal. At a terminal, a login of the service's own tool is
offered, then a variable that the provider names is taken, then you are asked. It is
stored unless the service rejects it. Several fields are given as lines FIELD=VALUE.

oauth:NAME and mcp:NAME are for a service, or an MCP server, at --set url=URL. Without a
credential they log in: the address to open is printed, and the answer is taken from the
browser, or from what you paste. The authorization server is the one that the URL names,
where this program registers itself; --set client_id, authorize_url, token_url and scope
say otherwise. A client's secret is taken from $DRAWBRIDGE_OAUTH_CLIENT_SECRET, or asked.

What comes with a refresh token is renewed while a run uses it, also where standard input
gives it (lines refresh_token=TOKEN and expires_at=TIME). A login of Claude Code that is
taken over is then this program's: Claude Code on this machine may have to log in again.

ssh:HOST or ssh:HOST:PORT is for SSH, with Git or by itself: a run gets an agent that
signs for connections to that host only. The key is one of your SSH agent, which keeps
it, or with --key that of a file, which is stored. The host is known by its keys in
known_hosts; one that is not known there is refused.

aws, or aws:NAME, is for AWS: a run gets short-lived credentials of a role, and can
read those. What the role is assumed with stays outside: a profile of your own AWS
configuration (--from login, --set profile=NAME), or keys, which are stored. Fields are
role_arn and region, and optionally duration (15m to 1h), external_id, hosts (in place
of those of the region), and sts_endpoint.`,
		Example: `  drawbridge grant github
  drawbridge grant openai --from env
  drawbridge grant npm:npm.example.com < token.txt
  drawbridge grant mcp:tickets --set url=https://mcp.example.com/mcp
  drawbridge grant oauth:tracker --from login --set url=https://api.example.com/v1
  drawbridge grant ssh:github.com
  drawbridge grant ssh:git.example.com:2222 --key ~/.ssh/id_ed25519
  drawbridge grant aws --set role_arn=arn:aws:iam::123456789012:role/agents \
    --set region=eu-central-1 --set profile=dev
  drawbridge grant list`,
		Args:              grantArgs,
		ValidArgsFunction: a.completeProviders,
		RunE: a.withGrants(&f.profile, func(ctx context.Context, g *grants, args []string) error {
			return a.grant(ctx, g, args[0], f)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.from, "from", "", "take the credential from stdin, env, login or prompt (default see above)")
	flags.StringArrayVar(&f.set, "set", nil, "key=value sets a field that is no secret; may be repeated")
	flags.BoolVar(&f.noVerify, "no-verify", false, "do not ask the service whether it accepts the credential")
	flags.StringVar(&f.ssh.fingerprint, "fingerprint", "", "SSH: the key of the agent with this fingerprint (default: its only one)")
	flags.StringVar(&f.ssh.keyFile, "key", "", "SSH: store the private key in this file, instead of using one of the agent")
	flags.StringArrayVar(&f.ssh.hostKeys, "host-key", nil, "SSH: a key of the host, \"TYPE BASE64\", instead of those in known_hosts; may be repeated")
	profileFlag(cmd, &f.profile)
	_ = cmd.RegisterFlagCompletionFunc("from", cobra.FixedCompletions(sourceNames, cobra.ShellCompDirectiveNoFileComp))
	cmd.AddCommand(a.grantListCommand(), a.grantShowCommand(), a.grantAllowCommand(), a.grantDisallowCommand(),
		a.grantProvidersCommand(), a.grantRefreshCommand(), a.grantRotateCommand())
	return cmd
}

// profileFlag adds --profile to a command about grants.
func profileFlag(cmd *cobra.Command, profile *string) {
	cmd.Flags().StringVar(profile, "profile", "", "set of grants to use (default $DRAWBRIDGE_PROFILE, or else the one without a name)")
}

// withGrants returns what a command about grants runs: do, with the grants of the
// profile, and a context that signals end.
func (a *app) withGrants(profile *string, do func(context.Context, *grants, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if !cmd.Flags().Changed("profile") {
			*profile = os.Getenv("DRAWBRIDGE_PROFILE")
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		g, err := a.openGrants(*profile)
		if err != nil {
			return grantError(err)
		}
		return grantError(do(ctx, g, args))
	}
}

// grantArgs accepts the one name of grant. What else is there may be a credential,
// and is not repeated.
func grantArgs(_ *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return usagef("name what it is for, e.g. `drawbridge grant github`; `drawbridge grant providers` lists what there is", "grant needs a NAME")
	case 1:
		return nil
	}
	return usagef("leave it out to be asked, or pipe it in with `--from stdin`; replace a credential that has been typed here",
		"grant takes one NAME and no credential: other programs and the shell's history see what is on a command line")
}

// namesArgs accepts one name of a grant or more.
func namesArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef("name a grant; `drawbridge grant list` shows them", "%s needs the NAME of a grant", cmd.Name())
	}
	return nil
}

// grant obtains, checks and stores the credential of a grant.
func (a *app) grant(ctx context.Context, g *grants, name string, f grantFlags) error {
	if err := checkSSHFlags(name, f); err != nil {
		return err
	}
	switch {
	case sshagent.IsGrant(name):
		return a.grantSSH(ctx, g, name, f.ssh)
	case awsrole.IsGrant(name):
		return a.grantAWS(ctx, g, name, f)
	}
	p, id, err := g.provider(name)
	if err != nil {
		return err
	}
	public, err := parseSet(p, f.set)
	if err != nil {
		return err
	}
	old, err := g.earlier(ctx, id)
	if err != nil {
		return err
	}
	got, err := a.obtain(ctx, p, id, f.from, public)
	if err != nil {
		return err
	}
	cred := got.credential(p, id)
	fields := cred.Fields()
	resolved, err := p.Resolve(fields)
	if err != nil {
		return err
	}
	verdict, err := a.verify(ctx, p, fields, f)
	if err != nil {
		return mended("nothing is stored; get it anew from the service, and run `drawbridge grant "+g.ref(id)+"` again", err)
	}
	if err := g.store.Put(ctx, cred); err != nil {
		return err
	}
	return a.printStored(g, p, storedGrant{cred: cred, found: got, resolved: resolved, verdict: verdict, replaced: old})
}

// verify asks the service whether it accepts a credential, and returns what can be
// said of that. The error says that the service rejects it, or that the person has
// given up.
func (a *app) verify(ctx context.Context, p provider.Provider, fields map[string]string, f grantFlags) (string, error) {
	switch {
	case f.noVerify:
		return "not asked whether the service accepts it (--no-verify)", nil
	case p.Validate == nil:
		return "not asked whether the service accepts it: that has a cost there, or no known way", nil
	}
	transport, err := serviceTransport()
	if err != nil {
		return "", err
	}
	err = p.Verify(ctx, &http.Client{Transport: transport}, fields)
	switch {
	case err == nil:
		return "the service accepts it", nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.Is(err, provider.ErrUnverified):
		a.say("drawbridge: warning: %s; it is stored all the same", oneLine(err.Error()))
		return "could not be checked with the service", nil
	}
	return "", err
}

// storedGrant is what there is to say of a grant that has just been stored.
type storedGrant struct {
	cred     credential.Credential
	found    found
	resolved provider.Resolved
	verdict  string
	replaced bool
}

func (a *app) printStored(g *grants, p provider.Provider, s storedGrant) error {
	id := s.cred.Grant
	f := facts{table{header: []string{"GRANT", string(id)}}}
	f.add("provider", p.Name)
	f.add("service", p.Title)
	f.add("profile", g.store.Profile())
	stored := "from " + s.found.From
	if s.replaced {
		stored += ", in place of the earlier one"
	}
	f.add("stored", stored)
	f.add("checked", s.verdict)
	f.add("scopes", strings.Join(s.cred.Scopes, " "))
	f.add("expires", timeText(s.cred.ExpiresAt, time.Now()))
	f.add("renews", renewsText(s.cred, s.resolved))
	f.addUse(s.resolved)
	agents, err := g.agentsText(id)
	if err != nil {
		return err
	}
	f.add("agents", agents)
	if p.Login != nil && !s.cred.RefreshToken.IsZero() && s.resolved.Renewal != nil {
		a.say("this login is renewed here from now on; the tool that it is from may have to log in again")
	}
	return f.write(a.out)
}
