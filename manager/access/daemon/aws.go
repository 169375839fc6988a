package daemon

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/manager/access/awsrole"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
)

// addAWS adds the grant for AWS, of which a run has one: clients know one place to ask
// for credentials.
func (r *resolved) addAWS(stored credential.Credential) error {
	g, err := awsrole.FromCredential(stored)
	if err != nil {
		return err
	}
	if r.aws != nil {
		return fmt.Errorf("use the grant %s: the run has the grant %s too, and can act in one role; use one of them", g.Name, r.aws.Name)
	}
	r.aws = &g
	return nil
}

// awsHosts returns the hosts of the grant for AWS in the form of a grant that sends
// nothing to them.
func (r *resolved) awsHosts() []proxy.Grant {
	if r.aws == nil {
		return nil
	}
	const https = 443
	return []proxy.Grant{{Name: r.aws.Name, Rules: []provider.Rule{{Hosts: r.aws.Patterns(), Ports: []uint16{https}}}}}
}

// awsEnv returns the variables by which SDKs of AWS find the gate, and the region.
func (r *resolved) awsEnv(request *RegisterRequest) []string {
	if r.aws == nil {
		return nil
	}
	return []string{
		"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://" + SandboxGate + proxy.AWSPath,
		"AWS_CONTAINER_AUTHORIZATION_TOKEN=" + awsToken(request),
		"AWS_REGION=" + r.aws.Region, "AWS_DEFAULT_REGION=" + r.aws.Region,
		"AWS_EC2_METADATA_DISABLED=true", // nobody answers there
		"AWS_PAGER=",                     // nobody turns pages
	}
}

// awsToken is what a run's requests for credentials bring. It follows from the token
// of the run's guest, which survives the daemon, and does not tell it.
func awsToken(request *RegisterRequest) string {
	mac := hmac.New(sha256.New, []byte(request.Token))
	_, _ = mac.Write([]byte("credentials for AWS of " + request.RunID)) // never fails
	return hex.EncodeToString(mac.Sum(nil))
}

// awsOf returns what provides a run with credentials for AWS; nil without a grant for
// it.
func (s *server) awsOf(request *RegisterRequest, granted *resolved) (*proxy.AWSCredentialProvider, error) {
	g := granted.aws
	if g == nil {
		return nil, nil //nolint:nilnil // means none
	}
	store, err := s.keepers.store(request.Profile)
	if err != nil {
		return nil, err
	}
	session := "drawbridge-" + request.RunID
	return proxy.NewAWSCredentialProvider(proxy.AWSOptions{
		Grant: g.Name, Token: awsToken(request), RoleARN: g.RoleARN, Region: g.Region, SessionName: session, SessionDuration: g.Duration,
		Role: func(ctx context.Context) (proxy.AWSRole, error) {
			return s.awsRole(ctx, store, g.Name, session)
		},
	}), nil
}

// isSameRole reports whether two grants for AWS come to the same for a run. What the
// role is assumed with is read anew each time.
func isSameRole(a, b *awsrole.Grant) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Name == b.Name && a.RoleARN == b.RoleARN && a.Region == b.Region && a.Duration == b.Duration && slices.Equal(a.Patterns(), b.Patterns())
}

func roleOf(p *proxy.AWSCredentialProvider) *AWSRole {
	if p == nil {
		return nil
	}
	return &AWSRole{RoleARN: p.RoleARN, Region: p.Region, SessionName: p.SessionName, Duration: p.SessionDuration}
}

// awsRole returns the role of a grant as it is stored now.
func (s *server) awsRole(ctx context.Context, store *credential.Store, name, session string) (proxy.AWSRole, error) {
	stored, err := store.Get(ctx, credential.Grant(name))
	switch {
	case errors.Is(err, credential.ErrNotFound):
		return proxy.AWSRole{}, &proxy.AWSError{
			Status: http.StatusForbidden, Code: "revoked", IsRefused: true,
			Message: fmt.Sprintf("the grant %s was revoked", name), Next: "do without it, or ask the person who runs this",
		}
	case err != nil:
		return proxy.AWSRole{}, s.unreadable(name, err)
	}
	g, err := awsrole.FromCredential(stored)
	if err != nil {
		return proxy.AWSRole{}, s.unreadable(name, err)
	}
	client := awsrole.Client{Roots: s.roots, Proxy: s.opts.Upstream}
	return proxy.AWSRole{
		Version: strconv.FormatInt(stored.CreatedAt.UnixNano(), 10),
		Assume: func(ctx context.Context) (proxy.AWSCredentials, error) {
			began := time.Now()
			got, err := client.Assume(ctx, g, session)
			if err != nil {
				return proxy.AWSCredentials{}, s.notAssumed(name, session, time.Since(began), err)
			}
			return proxy.AWSCredentials(got), nil
		},
	}, nil
}

// unreadable says to a sandbox that a grant cannot be read, and to the log why.
func (s *server) unreadable(name string, err error) error {
	s.opts.Log.Warn("a grant cannot be read", zap.String("grant", name), zap.Error(err))
	return &proxy.AWSError{
		Status: http.StatusServiceUnavailable, Code: "unreadable_grant", Message: fmt.Sprintf("the grant %s cannot be read", name),
		Next: "ask the person who runs this to look at `drawbridge grant list`",
	}
}

// notAssumed says to a sandbox why it gets no credentials, and more to the log.
func (s *server) notAssumed(name, session string, took time.Duration, err error) error {
	why, ok := errors.AsType[*awsrole.Error](err)
	if !ok {
		return err
	}
	s.opts.Log.Warn("a role was not assumed", zap.String("grant", name), zap.String("session", session), zap.Duration("took", took), zap.Error(err))
	status := http.StatusServiceUnavailable
	if why.IsDenied {
		status = http.StatusForbidden
	}
	return &proxy.AWSError{
		Status: status, Code: why.Code, Message: fmt.Sprintf("%s (%s)", why.Reason, why.Code),
		Next: fmt.Sprintf("the person who runs this can look at the grant with `drawbridge grant show %s`", name),
	}
}
