package provider

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	// verifyTimeout bounds the one request of Verify: a person waits for it.
	verifyTimeout = 15 * time.Second
	// maxAnswer is how many bytes of the answer are read, so that the connection
	// can be used again.
	maxAnswer = 64 << 10
)

var (
	// ErrRejected says that the service does not accept a credential.
	ErrRejected = errors.New("the service rejects the credential")
	// ErrUnverified says that it could not be found out whether a service accepts
	// a credential.
	ErrUnverified = errors.New("the credential could not be checked")
)

// Check is a request that tells whether a service accepts a credential. It
// changes nothing there and costs nothing.
type Check struct {
	Method   string // GET where it is empty
	URL      string // template over the fields that are not secret
	Headers  map[string]string
	Body     string
	Accepted []int // 200 where there are none
	Rejected []int // 401 where there are none
}

func (c *Check) method() string {
	if c.Method == "" {
		return http.MethodGet
	}
	return c.Method
}

func (c *Check) check() error {
	if !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodPost}, c.method()) {
		return fmt.Errorf("validate.method: %.80q is none of GET, HEAD and POST", c.Method)
	}
	for name, value := range c.Headers {
		if !isHeaderName(name) || isConnectionHeader(http.CanonicalHeaderKey(name)) || !isHeaderValue(value) {
			return fmt.Errorf("validate.headers: %.80q is not a header that can be sent", name)
		}
	}
	for _, status := range slices.Concat(c.Accepted, c.Rejected) {
		if status < 200 || status > 599 {
			return fmt.Errorf("validate: %d is no status of an answer", status)
		}
	}
	return nil
}

// verdict returns what the status of the answer says.
func (c *Check) verdict(status int) error {
	accepted, rejected := c.Accepted, c.Rejected
	if len(accepted) == 0 {
		accepted = []int{http.StatusOK}
	}
	if len(rejected) == 0 {
		rejected = []int{http.StatusUnauthorized}
	}
	switch {
	case slices.Contains(accepted, status):
		return nil
	case slices.Contains(rejected, status):
		return fmt.Errorf("%w (status %d); see whether it is whole, and still valid", ErrRejected, status)
	}
	return fmt.Errorf("%w: the service answered with status %d", ErrUnverified, status)
}

// Verify asks the service whether it accepts a credential, with one request that
// follows no redirect. It returns nil where it does, or where the provider has no
// Check. The error matches ErrRejected, ErrUnverified or ErrField, and holds no
// secret.
func (p Provider) Verify(ctx context.Context, client *http.Client, fields map[string]string) error {
	if p.Validate == nil {
		return nil
	}
	r, err := p.Resolve(fields)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	req, err := p.request(ctx, r, fields)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnverified, err)
	}
	once := *client
	// A redirect could lead the credential elsewhere.
	once.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := once.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnverified, err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // the status says it all
	return p.Validate.verdict(resp.StatusCode)
}

// request returns the request of the check, with the headers that the gate would
// send.
func (p Provider) request(ctx context.Context, r Resolved, fields map[string]string) (*http.Request, error) {
	public := make(map[string]string, len(p.Fields))
	for _, f := range p.Fields {
		if public[f.Name] = fields[f.Name]; f.Secret {
			public[f.Name] = f.Placeholder
		} else if public[f.Name] == "" {
			public[f.Name] = f.Default
		}
	}
	raw, err := render("url", p.Validate.URL, public)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, p.Validate.method(), raw, strings.NewReader(p.Validate.Body))
	if err != nil {
		return nil, err
	}
	for name, value := range p.Validate.Headers {
		req.Header.Set(name, value)
	}
	for _, rule := range r.Rules {
		if !rule.Matches(u.Hostname(), httpsPort, u.Path) {
			continue
		}
		req.Header.Set(rule.Header, rule.Value.Reveal())
		for name, value := range rule.AddHeaders {
			req.Header.Add(name, value)
		}
	}
	return req, nil
}
