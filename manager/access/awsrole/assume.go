package awsrole

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// Bounds of one Assume. Its ctx bounds all of it.
const (
	maxAttempts     = 3
	maxBackoff      = 2 * time.Second
	attemptTimeout  = 10 * time.Second
	maxAnswer       = 1 << 20 // bytes
	maxErrorMessage = 400     // bytes of what AWS says
)

// Client speaks with AWS for grants. Its zero value can be used.
type Client struct {
	Roots *x509.CertPool // nil is the system's
	Proxy func(*url.URL) (*url.URL, error)
}

// Session is what a session of a role is used with.
type Session struct {
	AccessKeyID     string // not secret
	SecretAccessKey credential.Secret
	SessionToken    credential.Secret
	Expires         time.Time
}

// Error is why there is no session.
type Error struct {
	Code string // of AWS, or one of Code*
	// Reason is in words that a sandbox may see, and Next what the person does.
	Reason, Next string
	// IsDenied says that AWS does not want it so; otherwise it may do later.
	IsDenied bool

	role string
	err  error
}

// Codes beside those of AWS.
const (
	CodeSource  = "NoSourceCredentials"
	CodeNetwork = "Unreachable"
	CodeAnswer  = "UnreadableAnswer"
)

func (e *Error) Error() string {
	text := fmt.Sprintf("assume the role %s: %s (%s)", e.role, e.Reason, e.Code)
	if e.err != nil {
		text += ": " + e.err.Error()
	}
	return text + "; " + e.Next
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.err }

// Assume begins a session of the grant's role under a name. Errors are of type Error.
func (c Client) Assume(ctx context.Context, g Grant, name string) (Session, error) {
	if !sessionName.MatchString(name) {
		return Session{}, &Error{Code: CodeSource, Reason: "the name of the session is not usable", Next: "choose another one", role: g.RoleARN, IsDenied: true}
	}
	cfg, err := c.config(ctx, g)
	if err != nil {
		return Session{}, g.failure(ctx, &sourceError{err})
	}
	cfg.Credentials = source{cfg.Credentials}
	client := sts.NewFromConfig(cfg, func(o *sts.Options) {
		if g.Endpoint != "" {
			o.BaseEndpoint = aws.String(g.Endpoint)
		}
	})
	input := &sts.AssumeRoleInput{RoleArn: aws.String(g.RoleARN), RoleSessionName: aws.String(name), DurationSeconds: aws.Int32(int32(g.Duration / time.Second))}
	if g.ExternalID != "" {
		input.ExternalId = aws.String(g.ExternalID)
	}
	out, err := client.AssumeRole(ctx, input)
	if err != nil {
		return Session{}, g.failure(ctx, err)
	}
	got := out.Credentials
	if got == nil || aws.ToString(got.AccessKeyId) == "" || aws.ToString(got.SecretAccessKey) == "" || aws.ToString(got.SessionToken) == "" || aws.ToTime(got.Expiration).IsZero() {
		return Session{}, g.failure(ctx, errAnswer)
	}
	return Session{
		AccessKeyID: *got.AccessKeyId, SecretAccessKey: credential.NewSecret(*got.SecretAccessKey),
		SessionToken: credential.NewSecret(*got.SessionToken), Expires: *got.Expiration,
	}, nil
}

// config returns how AWS is spoken with for a grant. Where the grant has keys, nothing
// of the host is read.
func (c Client) config(ctx context.Context, g Grant) (aws.Config, error) {
	client := awshttp.NewBuildableClient().WithTimeout(attemptTimeout).WithTransportOptions(func(t *http.Transport) {
		t.Proxy = nil
		if c.Proxy != nil {
			t.Proxy = func(req *http.Request) (*url.URL, error) { return c.Proxy(req.URL) }
		}
		t.DisableKeepAlives = true
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if c.Roots != nil {
			t.TLSClientConfig.RootCAs = c.Roots.Clone() // a profile may add its own
		}
	})
	retryer := func() aws.Retryer {
		return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = maxAttempts, maxBackoff })
	}
	bounds := []func(*middleware.Stack) error{boundAnswers}
	if g.Keys != (Keys{}) {
		return aws.Config{
			Region: g.Region, HTTPClient: client, Retryer: retryer, APIOptions: bounds,
			Credentials: credentials.NewStaticCredentialsProvider(g.Keys.AccessKeyID.Reveal(), g.Keys.SecretAccessKey.Reveal(), g.Keys.SessionToken.Reveal()),
		}, nil
	}
	// A profile that is named goes before keys in the environment, which are those
	// of whoever started this process.
	return config.LoadDefaultConfig(ctx,
		config.WithSharedConfigProfile(g.Profile.Name), config.WithSharedConfigFiles([]string{g.Profile.ConfigFile}),
		config.WithSharedCredentialsFiles([]string{g.Profile.CredentialsFile}),
		config.WithRegion(g.Region), config.WithHTTPClient(client), config.WithRetryer(retryer), config.WithAPIOptions(bounds))
}

// CheckProfile makes sure that a profile is there. It asks nobody for credentials.
func CheckProfile(ctx context.Context, p Profile) error {
	_, err := config.LoadSharedConfigProfile(ctx, p.Name, func(o *config.LoadSharedConfigOptions) {
		o.ConfigFiles, o.CredentialsFiles = []string{p.ConfigFile}, []string{p.CredentialsFile}
	})
	return err
}

// boundAnswers limits what is read of an answer. The SDK does not.
func boundAnswers(stack *middleware.Stack) error {
	return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("boundAnswers", func(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (middleware.DeserializeOutput, middleware.Metadata, error) {
		out, metadata, err := next.HandleDeserialize(ctx, in)
		if resp, ok := out.RawResponse.(*smithyhttp.Response); ok && resp.Body != nil {
			resp.Body = struct {
				io.Reader
				io.Closer
			}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
		}
		return out, metadata, err
	}), middleware.After)
}

// source tells errors of the credentials that a role is assumed with from others.
type source struct{ aws.CredentialsProvider }

// Retrieve returns the credentials of the source.
func (s source) Retrieve(ctx context.Context) (aws.Credentials, error) {
	got, err := s.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return aws.Credentials{}, &sourceError{err}
	}
	return got, nil
}

type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

var errAnswer = errors.New("it is no answer of STS")

// failure puts an error of the SDK into words. What AWS says is quoted only for errors
// whose texts are known to repeat nothing of a request's signature and headers.
func (g Grant) failure(ctx context.Context, err error) *Error {
	again := fmt.Sprintf("run `drawbridge grant %s` again", g.Name)
	e := &Error{role: g.RoleARN}
	if _, ok := errors.AsType[*sourceError](err); ok {
		e.Code, e.Reason = CodeSource, "the host has no credentials to assume the role with"
		e.Next = again
		if g.Profile.Name != "" {
			// What tools of the host print in between could be anything.
			e.err = fmt.Errorf("profile %q of %s gives none", g.Profile.Name, g.Profile.ConfigFile)
			e.Next = fmt.Sprintf("log in anew, e.g. with `aws sso login --profile %s`", g.Profile.Name)
		}
		return e
	}
	api, isAnswer := errors.AsType[smithy.APIError](err)
	switch {
	case !isAnswer && (errors.Is(err, errAnswer) || isUnreadable(err)):
		e.Code, e.Reason, e.Next = CodeAnswer, "what came is no answer of STS", "look at the sts_endpoint of the grant, and at proxies on the way"
	case !isAnswer:
		e.Code, e.Reason, e.Next = CodeNetwork, "STS could not be reached", "try again later"
		if cause := networkCause(ctx, err); cause != "" {
			e.err = errors.New(cause)
		}
	default:
		e.Code = cleanCode(api.ErrorCode())
		e.explain(api, again)
	}
	return e
}

// explain says what an error code of AWS means here.
func (e *Error) explain(api smithy.APIError, again string) {
	quote := func() { e.err = errors.New(clean(api.ErrorMessage())) }
	switch e.Code {
	case "AccessDenied", "AccessDeniedException":
		e.IsDenied, e.Reason, e.Next = true, "AWS does not let the source of the grant assume the role", "look at the role's trust policy, its external ID, and what the source is allowed"
		quote()
	case "ValidationError", "MalformedPolicyDocument", "PackedPolicyTooLarge", "RegionDisabledException":
		e.IsDenied, e.Reason, e.Next = true, "AWS does not take the request", "look at the grant's duration and region, and "+again
		quote()
	case "ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "SignatureDoesNotMatch", "UnrecognizedClientException", "InvalidAccessKeyId", "IncompleteSignature", "MissingAuthenticationToken":
		e.IsDenied, e.Reason, e.Next = true, "AWS does not accept the credentials that the role is assumed with", again+", with ones that are good"
	case "RequestTimeTooSkewed", "RequestExpired":
		e.Reason, e.Next = "the clock of the host is wrong", "set it"
	default:
		e.Reason, e.Next = "STS cannot answer at the moment", "try again later"
	}
}

// isUnreadable reports whether an answer came, and was none of STS's.
func isUnreadable(err error) bool {
	resp, came := errors.AsType[*smithyhttp.ResponseError](err)
	_, bad := errors.AsType[*smithy.DeserializationError](err)
	return came && resp.HTTPStatusCode() != 0 || bad
}

// networkCause says what went wrong with a connection.
func networkCause(ctx context.Context, err error) string {
	if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		return "there was no answer in time"
	}
	if sent, ok := errors.AsType[*smithyhttp.RequestSendError](err); ok {
		return clean(sent.Err.Error())
	}
	return ""
}

// cleanCode returns an error code as one word.
func cleanCode(code string) string {
	const most = 64
	word := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' {
			return r
		}
		return -1
	}, code)
	return word[:min(len(word), most)]
}

// clean returns a bounded line of printable text.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, text)
	return strings.TrimSpace(text[:min(len(text), maxErrorMessage)])
}
