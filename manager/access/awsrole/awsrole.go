// Package awsrole is the role of AWS that a grant lets runs act in: what is stored of
// it, which hosts it is about, and how a session of it is begun.
//
// # What it guarantees
//
// A session lasts for an hour at most, bears a name that is given for it, and is begun
// with what the grant names and nothing else: keys that are stored, or a profile of the
// host's own configuration, which is read anew each time. Keys in the environment of
// the process are never used. Requests and answers are bounded in time, number and
// size. Errors hold nothing of a key.
//
// # What it does not do
//
// It keeps no session, and does not know who asks for one.
package awsrole

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/lazyregexp"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// Provider is what the names of grants for AWS begin with: "aws", or "aws:NAME" where
// there are several.
const Provider = "aws"

// The fields of a grant, as they are stored.
const (
	FieldRole        = "role_arn"
	FieldRegion      = "region"
	FieldDuration    = "duration"
	FieldExternalID  = "external_id"
	FieldHosts       = "hosts"        // patterns, with spaces between them
	FieldEndpoint    = "sts_endpoint" // in place of that of the region
	FieldProfile     = "profile"      // of the host's configuration, where there are no keys
	FieldAccessKeyID = "access_key_id"
	FieldSecretKey   = "secret_access_key"
	FieldToken       = "session_token"

	fieldConfig      = "config_file" // where that profile is
	fieldCredentials = "credentials_file"
)

// Bounds of a session, of which the first is that of AWS.
const (
	MinDuration     = 15 * time.Minute
	MaxDuration     = time.Hour
	DefaultDuration = 30 * time.Minute

	maxExternalID = 1224 // bytes; AWS's own bound
)

// ErrField says that a field of a grant is missing or wrong.
var ErrField = errors.New("a field of the grant is not usable")

// Grant is a role that runs may act in, and what it is assumed with.
type Grant struct {
	Name       string // of the grant
	RoleARN    string
	Region     string
	Duration   time.Duration
	ExternalID string // that the role asks for; may be empty
	Hosts      []string
	Endpoint   string // of STS; empty is that of the region

	// Either keys, or a profile of files.
	Keys    Keys
	Profile Profile
}

// Keys are those of a user, or of a session.
type Keys struct {
	AccessKeyID, SecretAccessKey credential.Secret
	SessionToken                 credential.Secret // may be empty
}

// Profile is a part of the host's own configuration of AWS.
type Profile struct {
	Name                        string
	ConfigFile, CredentialsFile string // absolute
}

// Read takes a profile from the fields of a grant.
func (p *Profile) Read(fields map[string]string) {
	*p = Profile{Name: fields[FieldProfile], ConfigFile: fields[fieldConfig], CredentialsFile: fields[fieldCredentials]}
}

var (
	namePattern   = lazyregexp.New(`^[a-z0-9][a-z0-9._-]*$`)
	rolePattern   = lazyregexp.New(`^arn:(aws[a-z-]*):iam::[0-9]{12}:role/[\x21-\x7e]{1,512}$`)
	regionPattern = lazyregexp.New(`^[a-z]{2,}(-[a-z0-9]+){2,4}$`)
	externalID    = lazyregexp.New(`^[\w+=,.@:/-]{2,}$`)
	accessKeyID   = lazyregexp.New(`^[A-Z0-9]{16,128}$`)
	sessionName   = lazyregexp.New(`^[\w+=,.@-]{2,64}$`)
)

// IsGrant reports whether a name is that of a grant for AWS.
func IsGrant(name string) bool { return strings.HasPrefix(name, Provider+":") || name == Provider }

// ParseName checks the name of a grant for AWS.
func ParseName(name string) (credential.Grant, error) {
	instance, has := strings.CutPrefix(name, Provider+":")
	if name != Provider && (!has || !namePattern.MatchString(instance)) {
		return "", fmt.Errorf("use grant %.80q: write aws, or aws:NAME with lower-case letters, digits and . _ -", name)
	}
	return credential.ParseGrant(name)
}

// New returns the grant that fields describe, those of keys included. The error
// matches ErrField, and quotes nothing secret.
func New(name string, fields map[string]string, keys Keys) (Grant, error) {
	g := Grant{
		Name: name, RoleARN: fields[FieldRole], Region: fields[FieldRegion], ExternalID: fields[FieldExternalID],
		Endpoint: fields[FieldEndpoint], Hosts: strings.Fields(fields[FieldHosts]), Duration: DefaultDuration, Keys: keys,
	}
	g.Profile.Read(fields)
	if text := fields[FieldDuration]; text != "" {
		var err error
		if g.Duration, err = time.ParseDuration(text); err != nil {
			return Grant{}, fieldError(FieldDuration, "write it as 15m or 1h")
		}
	}
	return g, g.check()
}

func fieldError(field, mend string) error { return fmt.Errorf("%w: %s: %s", ErrField, field, mend) }

// check makes sure that a grant can be used.
func (g Grant) check() error {
	match := rolePattern.FindStringSubmatch(g.RoleARN)
	switch {
	case match == nil:
		return fieldError(FieldRole, "write the ARN of a role, as arn:aws:iam::123456789012:role/NAME")
	case partitions[match[1]].suffix == "":
		return fieldError(FieldRole, fmt.Sprintf("the partition %s is not supported", match[1]))
	case !regionPattern.MatchString(g.Region):
		return fieldError(FieldRegion, "write the name of a region, as eu-central-1")
	case g.Duration < MinDuration || g.Duration > MaxDuration || g.Duration%time.Second != 0:
		return fieldError(FieldDuration, fmt.Sprintf("choose from %d to %d minutes", int(MinDuration.Minutes()), int(MaxDuration.Minutes())))
	case len(g.ExternalID) > maxExternalID || g.ExternalID != "" && !externalID.MatchString(g.ExternalID):
		return fieldError(FieldExternalID, "it has characters that AWS does not take")
	}
	if err := checkEndpoint(g.Endpoint); err != nil {
		return err
	}
	if err := g.checkHosts(); err != nil {
		return err
	}
	return g.checkSource()
}

func checkEndpoint(text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fieldError(FieldEndpoint, "write it as https://HOST")
	}
	return nil
}

// checkSource makes sure that there is one source, and all of it.
func (g Grant) checkSource() error {
	k, p := g.Keys, g.Profile
	if k == (Keys{}) {
		switch {
		case p.Name == "" || len(p.Name) > 128 || strings.ContainsFunc(p.Name, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return fieldError(FieldProfile, "name a profile of the AWS configuration of this machine, or give keys")
		case !filepath.IsAbs(p.ConfigFile) || !filepath.IsAbs(p.CredentialsFile):
			return fieldError(FieldProfile, "the paths of its files have to be absolute")
		}
		return nil
	}
	switch {
	case p != Profile{}:
		return fieldError(FieldProfile, "leave it out, or the keys")
	case !accessKeyID.MatchString(k.AccessKeyID.Reveal()):
		return fieldError(FieldAccessKeyID, "it has capitals and digits, and often begins with AKIA or ASIA")
	case !isToken(k.SecretAccessKey.Reveal()):
		return fieldError(FieldSecretKey, "it is missing, or has characters that none has")
	case !k.SessionToken.IsZero() && !isToken(k.SessionToken.Reveal()):
		return fieldError(FieldToken, "it has characters that none has")
	}
	return nil
}

// isToken reports whether a text can be a key: printable ASCII without spaces.
func isToken(text string) bool {
	const most = 16 << 10 // bytes
	return text != "" && len(text) <= most && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}

// Credential returns what is stored of the grant.
func (g Grant) Credential(source credential.Source) credential.Credential {
	c := credential.Credential{
		Grant: credential.Grant(g.Name), Provider: Provider, Source: source, Values: map[string]credential.Secret{}, Metadata: map[string]string{},
	}
	for name, text := range map[string]string{
		FieldRole: g.RoleARN, FieldRegion: g.Region, FieldDuration: g.Duration.String(), FieldExternalID: g.ExternalID,
		FieldHosts: strings.Join(g.Hosts, " "), FieldEndpoint: g.Endpoint,
		FieldProfile: g.Profile.Name, fieldConfig: g.Profile.ConfigFile, fieldCredentials: g.Profile.CredentialsFile,
	} {
		if text != "" {
			c.Metadata[name] = text
		}
	}
	for name, secret := range map[string]credential.Secret{FieldAccessKeyID: g.Keys.AccessKeyID, FieldSecretKey: g.Keys.SecretAccessKey, FieldToken: g.Keys.SessionToken} {
		if !secret.IsZero() {
			c.Values[name] = secret
		}
	}
	return c
}

// FromCredential returns the grant that is stored.
func FromCredential(c credential.Credential) (Grant, error) {
	if _, err := ParseName(string(c.Grant)); err != nil {
		return Grant{}, err
	}
	g, err := New(string(c.Grant), c.Metadata, Keys{c.Values[FieldAccessKeyID], c.Values[FieldSecretKey], c.Values[FieldToken]})
	if err != nil {
		return Grant{}, fmt.Errorf("use grant %s: %w; run `drawbridge grant %s` again", c.Grant, err, c.Grant)
	}
	return g, nil
}

// InProfile returns the fields of a profile of the host's configuration, in the files
// that variables of AWS name, or else in those of the user.
func InProfile(profile, home string, getenv func(string) string) map[string]string {
	file := func(variable, name string) string { return cmp.Or(getenv(variable), filepath.Join(home, ".aws", name)) }
	return map[string]string{
		FieldProfile: cmp.Or(profile, getenv("AWS_PROFILE"), "default"),
		fieldConfig:  file("AWS_CONFIG_FILE", "config"), fieldCredentials: file("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
	}
}
