package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
	"github.com/drawbridge-mcp/drawbridge/manager/access/awsrole"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
)

// awsVerifyTimeout bounds the one session that is begun to see whether a grant works.
const awsVerifyTimeout = 30 * time.Second

// awsFields are what is asked for when a grant for AWS is made. Its login is a profile
// of the configuration of this machine, which is named and not copied.
func awsFields(login func(context.Context) (provider.Login, error)) provider.Provider {
	return provider.Provider{
		Name: awsrole.Provider, Title: "Amazon Web Services", Login: login,
		Fields: []provider.Field{
			{Name: awsrole.FieldRole, Prompt: "ARN of the role"},
			{Name: awsrole.FieldRegion, Prompt: "Region", Env: []string{"AWS_REGION", "AWS_DEFAULT_REGION"}},
			{Name: awsrole.FieldDuration, Optional: true},
			{Name: awsrole.FieldExternalID, Optional: true},
			{Name: awsrole.FieldHosts, Optional: true},
			{Name: awsrole.FieldEndpoint, Optional: true},
			{Name: awsrole.FieldProfile, Optional: true},
			{Name: awsrole.FieldAccessKeyID, Prompt: "Access key ID", Secret: true, Env: []string{"AWS_ACCESS_KEY_ID"}},
			{Name: awsrole.FieldSecretKey, Prompt: "Secret access key", Secret: true, Env: []string{"AWS_SECRET_ACCESS_KEY"}},
			{Name: awsrole.FieldToken, Prompt: "Session token", Secret: true, Optional: true, Env: []string{"AWS_SESSION_TOKEN"}},
		},
	}
}

// grantAWS obtains, checks and stores a grant for AWS.
func (a *app) grantAWS(ctx context.Context, g *grants, name string, f grantFlags) error {
	id, err := awsrole.ParseName(name)
	if err != nil {
		return usagef("e.g. `drawbridge grant aws`", "%v", err)
	}
	set, err := parseSet(awsFields(nil), f.set)
	if err != nil {
		return err
	}
	old, err := g.earlier(ctx, id)
	if err != nil {
		return err
	}
	got, err := a.obtainAWS(ctx, f.from, set)
	if err != nil {
		return err
	}
	keys := awsrole.Keys{AccessKeyID: got.Values[awsrole.FieldAccessKeyID], SecretAccessKey: got.Values[awsrole.FieldSecretKey], SessionToken: got.Values[awsrole.FieldToken]}
	grant, err := awsrole.New(string(id), got.Metadata, keys)
	if err != nil {
		return awsFieldError(id, err)
	}
	verdict, err := a.verifyAWS(ctx, grant, f.noVerify)
	if err != nil {
		return err
	}
	if err := g.store.Put(ctx, grant.Credential(got.source)); err != nil {
		return err
	}
	return a.printAWSStored(g, grant, got.From, verdict, old)
}

// awsFieldError says which field mends what is wrong with a grant.
func awsFieldError(id credential.Grant, err error) error {
	next := "correct it, and run `drawbridge grant " + string(id) + "` again"
	for field, example := range map[string]string{
		awsrole.FieldRole: "arn:aws:iam::123456789012:role/NAME", awsrole.FieldRegion: "eu-central-1", awsrole.FieldDuration: "30m",
	} {
		if strings.Contains(err.Error(), ": "+field+": ") {
			next = "add --set " + field + "=" + example
		}
	}
	return mended(next, fmt.Errorf("make the grant %s: %w", id, err))
}

// obtainAWS takes the source of a grant from where the person wants, or else from where
// it is, as for other grants.
func (a *app) obtainAWS(ctx context.Context, from string, set map[string]string) (found, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return found{}, fmt.Errorf("find the AWS configuration: %w", err)
	}
	profile := awsrole.InProfile(set[awsrole.FieldProfile], home, os.Getenv)
	p := awsFields(func(ctx context.Context) (provider.Login, error) { return awsLogin(ctx, profile) })
	known := publicFields(p, awsrole.Provider, set)
	var f found
	switch {
	case from == "login" || from == "" && set[awsrole.FieldProfile] != "":
		f, err = fromLogin(ctx, p, awsrole.Provider, known)
	case from == "" && !terminal.Is(a.in), from == "stdin":
		f, err = a.fromStdin(ctx, p)
	case from == "":
		f, err = a.choose(ctx, p, awsrole.Provider, known)
	case from == "env":
		f, err = fromEnv(p)
	case from == "prompt":
		f, err = a.fromPrompt(ctx, p, awsrole.Provider, known)
	default:
		// It is not repeated: it may be a credential in the wrong place.
		return found{}, usagef("use stdin, env, login or prompt", "--from does not name a source")
	}
	if err != nil {
		return found{}, err
	}
	if f.source == credential.SourceLogin {
		known[awsrole.FieldProfile] = profile[awsrole.FieldProfile]
	}
	maps.Copy(known, f.Metadata)
	maps.Copy(known, set)
	f.Metadata = known
	return f, nil
}

// awsLogin names a profile of this machine. Whether it has credentials is seen when
// they are used.
func awsLogin(ctx context.Context, fields map[string]string) (provider.Login, error) {
	var p awsrole.Profile
	p.Read(fields)
	if err := awsrole.CheckProfile(ctx, p); err != nil {
		return provider.Login{}, fmt.Errorf("%w: there is no profile %q in %s and %s, or it cannot be read", provider.ErrNoLogin, p.Name, p.ConfigFile, p.CredentialsFile)
	}
	return provider.Login{From: fmt.Sprintf("the profile %s of %s", p.Name, p.ConfigFile), Metadata: fields}, nil
}

// verifyAWS begins a session of the role, and returns what can be said of it. The error
// says that AWS does not want it, or that the person has given up.
func (a *app) verifyAWS(ctx context.Context, grant awsrole.Grant, skip bool) (string, error) {
	if skip {
		return "not asked whether AWS lets it be assumed (--no-verify)", nil
	}
	bounded, cancel := context.WithTimeout(ctx, awsVerifyTimeout)
	defer cancel()
	transport, err := serviceTransport()
	if err != nil {
		return "", err
	}
	client := awsrole.Client{
		Roots: transport.TLSClientConfig.RootCAs,
		Proxy: func(u *url.URL) (*url.URL, error) { return transport.Proxy(&http.Request{URL: u}) },
	}
	_, err = client.Assume(bounded, grant, "drawbridge-grant")
	why, ok := errors.AsType[*awsrole.Error](err)
	switch {
	case err == nil:
		return "AWS lets it be assumed", nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	case ok && (why.IsDenied || why.Code == awsrole.CodeSource):
		return "", mended(why.Next, fmt.Errorf("nothing is stored: %s", strings.TrimSuffix(why.Error(), "; "+why.Next)))
	}
	a.say("drawbridge: warning: %s; it is stored all the same", oneLine(err.Error()))
	return "could not be checked with AWS", nil
}

func (a *app) printAWSStored(g *grants, grant awsrole.Grant, from, verdict string, replaced bool) error {
	t := facts{table{header: []string{"GRANT", grant.Name}}}
	t.add("profile", g.store.Profile())
	if replaced {
		from += ", in place of the earlier grant"
	}
	t.add("stored", "from "+from)
	t.add("checked", verdict)
	t.addAWSUse(grant)
	agents, err := g.agentsText(credential.Grant(grant.Name))
	if err != nil {
		return err
	}
	t.add("agents", agents)
	return t.write(a.out)
}

// addAWSUse adds what a run can do with a grant for AWS, and what it sees.
func (f *facts) addAWSUse(grant awsrole.Grant) {
	f.add("role", grant.RoleARN)
	f.add("external ID", grant.ExternalID)
	source := "keys in the grant, encrypted"
	if name := grant.Profile.Name; name != "" {
		source = fmt.Sprintf("the profile %s of %s", name, grant.Profile.ConfigFile)
	}
	f.add("assumed with", source)
	f.add("STS", grant.Endpoint)
	f.add("region", grant.Region)
	f.addEach("hosts", grant.Patterns())
	f.addEach("sandbox sees", []string{
		fmt.Sprintf("credentials of the role for %g minutes, when it asks", grant.Duration.Minutes()),
		"$AWS_CONTAINER_CREDENTIALS_FULL_URI and its token, $AWS_REGION",
	})
}

// printAWSGrant shows a grant for AWS.
func (a *app) printAWSGrant(g *grants, cred credential.Credential) error {
	f := facts{table{header: []string{"GRANT", string(cred.Grant)}}}
	grant, unusable := awsrole.FromCredential(cred)
	f.add("provider", cred.Provider)
	f.add("profile", g.store.Profile())
	if unusable != nil {
		f.add("state", stateUnusable+": "+oneLine(unusable.Error()))
	} else {
		f.add("state", string(credential.StateOK))
		f.add("source", string(cred.Source))
		f.addAWSUse(grant)
	}
	f.add("created", timeText(cred.CreatedAt, time.Now()))
	agents, err := g.agentsText(cred.Grant)
	if err != nil {
		return err
	}
	f.add("agents", agents)
	return f.write(a.out)
}

// awsView adds to a view what there is to tell of a grant for AWS.
func (g *grants) awsView(ctx context.Context, v *grantView, id credential.Grant) {
	cred, err := g.store.Get(ctx, id)
	var grant awsrole.Grant
	if err == nil {
		grant, err = awsrole.FromCredential(cred)
	}
	if err != nil {
		v.State, v.Reason = stateUnusable, err.Error()
		return
	}
	v.Hosts = grant.Patterns()
}
