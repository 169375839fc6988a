package proxy

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/drawbridge-mcp/drawbridge/internal/mask"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// AWS
//
// A run with a grant for AWS gets the credentials of a session of the grant's role
// from the gate itself, by the protocol that SDKs speak with the agents of container
// services: one request to AWSPath, on the run's own socket, with the run's own token.
// They are the one secret that a sandbox gets to see, and are short-lived; what they
// were made with stays outside.

// AWSPath is where a run asks for the credentials of its role.
const AWSPath = "/aws/credentials"

// awsPrefix is what all paths begin with that are about AWS, and no proxy's.
const awsPrefix = "/aws/"

// The address that a run's guest listens on, for the record.
const (
	guestHost = "127.0.0.1"
	guestPort = 3128
)

// Times of sessions of roles.
const (
	// refreshBefore is how long before their end credentials are replaced at the
	// latest. SDKs begin to ask for new ones 15 minutes before.
	refreshBefore = 20 * time.Minute
	// assumeTimeout bounds one attempt to get credentials, with all retries.
	assumeTimeout = 30 * time.Second
	// failurePause is how long a failure is the answer: a run that asks in a loop
	// asks the gate, and not AWS.
	failurePause = 5 * time.Second
	// leastLeft is how long credentials must be good for to be handed out when
	// there are no newer ones.
	leastLeft = time.Minute
)

// AWSCredentials are those of a session of a role.
type AWSCredentials struct {
	AccessKeyID     string // not secret
	SecretAccessKey credential.Secret
	SessionToken    credential.Secret
	Expires         time.Time
}

// AWSError is why there are no credentials, in words for a sandbox.
type AWSError struct {
	Status  int    // of the answer
	Code    string // of AWS, or of the gate
	Message string
	Next    string
	// IsRefused says that the person does not let the run have them, any more.
	IsRefused bool
}

func (e *AWSError) Error() string { return e.Message }

// AWSRole is a role as its grant is stored at the moment.
type AWSRole struct {
	// Version changes when the grant does: what was got with another one is of no
	// use any more.
	Version string
	// Assume begins a session. Its errors are of type AWSError.
	Assume func(context.Context) (AWSCredentials, error)
}

// AWSCredentialProvider provides a run with credentials of the AWS role that its
// requests act in. A run without a grant for AWS has none, which callers see as a nil
// provider. The provider of a Run that a Manager returns describes the role, and has
// no credentials: they are with the gate.
type AWSCredentialProvider struct {
	RoleARN         string        // the role to assume
	Region          string        // region of the calls
	SessionName     string        // how the session shows in AWS's own logs
	SessionDuration time.Duration // how long one set of credentials lasts

	grant string
	token string
	role  func(context.Context) (AWSRole, error)
	now   func() time.Time
	group singleflight.Group

	mu      sync.Mutex
	version string         // guarded by mu; of the role, for what follows
	current AWSCredentials // guarded by mu; zero if there are none
	failure error          // guarded by mu; of the last attempt
	retryAt time.Time      // guarded by mu; when the next one may be made
	issued  []AWSCredentials
	masker  *mask.Masker // guarded by mu, as issued is; nil if nothing was issued
}

// AWSOptions are what NewAWSCredentialProvider makes a provider of.
type AWSOptions struct {
	Grant string
	// Token is what a request must bring.
	Token           string
	RoleARN         string
	Region          string
	SessionName     string
	SessionDuration time.Duration
	// Role returns the role as it is stored now. It is asked before each hand-out:
	// what is revoked is revoked at once. Its errors are of type AWSError.
	Role func(context.Context) (AWSRole, error)
	// Now is the clock; nil is the system's.
	Now func() time.Time
}

// NewAWSCredentialProvider returns a provider that has asked for nothing yet.
func NewAWSCredentialProvider(opts AWSOptions) *AWSCredentialProvider {
	p := &AWSCredentialProvider{
		RoleARN: opts.RoleARN, Region: opts.Region, SessionName: opts.SessionName, SessionDuration: opts.SessionDuration,
		grant: opts.Grant, token: opts.Token, role: opts.Role, now: opts.Now,
	}
	if p.now == nil {
		p.now = time.Now
	}
	return p
}

// Credentials returns credentials that last for a while yet. Callers at the same time
// share one request to AWS. It ends with the ctx of the first one, and then another's
// takes its place.
func (p *AWSCredentialProvider) Credentials(ctx context.Context) (AWSCredentials, error) {
	if p.role == nil {
		return AWSCredentials{}, errors.New("get credentials for AWS: those of a run are with its gate, and for its sandbox only")
	}
	role, err := p.role(ctx)
	if err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.current, p.version = AWSCredentials{}, ""
		return AWSCredentials{}, err
	}
	if c, err, known := p.known(role.Version); known {
		return c, err
	}
	for {
		got, err, _ := p.group.Do(role.Version, func() (any, error) {
			if c, err, known := p.known(role.Version); known { // a call that has just ended
				return c, err
			}
			bound, cancel := context.WithTimeout(ctx, assumeTimeout)
			defer cancel()
			c, err := role.Assume(bound)
			if err != nil && ctx.Err() != nil {
				return AWSCredentials{}, errCallerGone // which says nothing about AWS
			}
			return p.keep(role.Version, c, err)
		})
		if errors.Is(err, errCallerGone) {
			if ctx.Err() == nil {
				continue
			}
			err = ctx.Err()
		}
		c, _ := got.(AWSCredentials)
		return c, err
	}
}

// errCallerGone says that whoever a request to AWS was made for does not wait any more.
var errCallerGone = errors.New("the caller is gone")

// known returns what can be answered without a request to AWS.
func (p *AWSCredentialProvider) known(version string) (c AWSCredentials, err error, known bool) { //nolint:revive // as singleflight returns it
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.version != version {
		return AWSCredentials{}, nil, false
	}
	now := p.now()
	if left := p.current.Expires.Sub(now); left > min(refreshBefore, p.SessionDuration/2) {
		return p.current, nil, true
	}
	if now.Before(p.retryAt) {
		c, err = p.fallback(now)
		return c, err, true
	}
	return AWSCredentials{}, nil, false
}

// fallback returns the earlier credentials after a failure, while they last. The
// caller holds mu.
func (p *AWSCredentialProvider) fallback(now time.Time) (AWSCredentials, error) {
	if p.current.Expires.Sub(now) >= leastLeft {
		return p.current, nil
	}
	return AWSCredentials{}, p.failure
}

// keep remembers how an attempt ended, and returns what to answer.
func (p *AWSCredentialProvider) keep(version string, c AWSCredentials, err error) (AWSCredentials, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.version != version {
		p.version, p.current = version, AWSCredentials{}
	}
	now := p.now()
	if err == nil && c.Expires.Sub(now) < leastLeft {
		err = &AWSError{Status: http.StatusServiceUnavailable, Code: "clock_skew", Message: "what AWS gives has expired, by the clock of the host", Next: "the person who runs this can set the clock"}
	}
	if err != nil {
		p.failure, p.retryAt = err, now.Add(failurePause)
		return p.fallback(now)
	}
	p.current, p.failure, p.retryAt = c, nil, time.Time{}
	p.hide(c, now)
	return c, nil
}

// hide has credentials taken out of what is written down for as long as they are
// good for something. The caller holds mu.
func (p *AWSCredentialProvider) hide(c AWSCredentials, now time.Time) {
	issued := []AWSCredentials{c}
	var needles []string
	for _, old := range p.issued {
		if old.Expires.After(now) {
			issued = append(issued, old)
		}
	}
	for _, i := range issued {
		needles = append(needles, mask.Spellings(i.SecretAccessKey.Reveal())...)
		needles = append(needles, mask.Spellings(i.SessionToken.Reveal())...)
	}
	p.issued, p.masker = issued, mask.New(needles)
}

// text returns a text without credentials that were handed out.
func (p *AWSCredentialProvider) text(s string) string {
	if p == nil {
		return s
	}
	p.mu.Lock()
	m := p.masker
	p.mu.Unlock()
	return m.Text(s)
}

// isForAWS reports whether a request is for the gate itself, about AWS.
func isForAWS(req *http.Request) bool {
	return !req.URL.IsAbs() && strings.HasPrefix(req.URL.Path, awsPrefix)
}

// serveAWS answers a request for credentials. It is written down first: nothing is
// handed out that the record does not have.
func (s *session) serveAWS(req *http.Request) {
	e := Entry{
		Time: time.Now(), Kind: KindCredentials, Protocol: req.Proto, Method: req.Method, Scheme: "http",
		Host: guestHost, Port: guestPort, Path: req.URL.EscapedPath(), Decision: Refused,
	}
	if status, why := s.run.unrecordable(&e); status != 0 {
		s.decline(&e, status, why)
		return
	}
	c, why := s.awsCredentials(req, &e)
	if why != nil {
		e.Error = why.Message
		s.decline(&e, why.Status, refusal{Code: why.Code, Message: why.Message, Next: why.Next})
		return
	}
	content := c.encode(s.run.AWS.RoleARN)
	e.Status, e.Received = http.StatusOK, int64(len(content))
	s.record(&e)
	_ = s.conn.SetWriteDeadline(time.Now().Add(headTimeout))
	fmt.Fprintf(s.writer, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(content), content)
	_ = s.writer.Flush() // whoever asked may be gone
	s.linger = true
}

// awsCredentials returns what a request asks for, or why it does not get it.
func (s *session) awsCredentials(req *http.Request, e *Entry) (AWSCredentials, *AWSError) {
	p := s.run.AWS
	authorization := req.Header["Authorization"]
	switch {
	case p == nil:
		return AWSCredentials{}, &AWSError{Status: http.StatusNotFound, Code: codeNotFound, Message: "the run has no grant for AWS", Next: "do without it, or ask for a run that has one"}
	case req.RequestURI != AWSPath:
		return AWSCredentials{}, &AWSError{Status: http.StatusNotFound, Code: codeNotFound, Message: "there is nothing here", Next: "ask for " + AWSPath}
	case req.Method != http.MethodGet:
		return AWSCredentials{}, &AWSError{Status: http.StatusMethodNotAllowed, Code: codeBadRequest, Message: "credentials for AWS are asked for by GET"}
	case len(authorization) != 1 || subtle.ConstantTimeCompare([]byte(authorization[0]), []byte(p.token)) != 1:
		return AWSCredentials{}, &AWSError{Status: http.StatusUnauthorized, Code: codeToken, Message: "the request does not bring the token of this run", Next: "send AWS_CONTAINER_AUTHORIZATION_TOKEN as Authorization; SDKs do"}
	}
	c, err := p.Credentials(s.ctx)
	if err == nil {
		e.Decision, e.Grant = Allowed, p.grant
		return c, nil
	}
	why, ok := errors.AsType[*AWSError](err)
	if !ok {
		why = &AWSError{Status: http.StatusServiceUnavailable, Code: codeUnreachable, Message: "there are no credentials for AWS at the moment", Next: "try again later"}
	}
	if !why.IsRefused {
		e.Decision = Allowed // it is AWS that gives none
	}
	return AWSCredentials{}, why
}

// encode returns credentials in the form that SDKs expect.
func (c AWSCredentials) encode(role string) []byte {
	content, err := json.Marshal(map[string]string{
		"AccessKeyId": c.AccessKeyID, "SecretAccessKey": c.SecretAccessKey.Reveal(), "Token": c.SessionToken.Reveal(),
		"Expiration": c.Expires.UTC().Format(time.RFC3339), "RoleArn": role,
	})
	if err != nil {
		panic(err) // strings only
	}
	return content
}
