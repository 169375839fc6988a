// Package credential is the store of grants: one encrypted file for each, and
// the key that opens them.
//
// # What it guarantees
//
// A file is encrypted with age to the home's own X25519 identity, which is in the
// keyring of the operating system or, where there is none, in a file beside the
// store. The name and the profile of a grant are part of what is encrypted, so
// that files which were swapped are found out. Every file is written to a
// temporary name, synced and renamed, and so a crash leaves the old one or the
// new one. Writers of several processes wait for each other; readers wait for
// nobody. An identity is never replaced by another one as long as anything needs
// it: whatever cannot be read is an error that says how to mend it.
//
// # What it does not do
//
// It does not tell who wrote a file: whoever may write in the directory can make
// one, or bring an older one back. That is why the directories and files must be
// this user's alone. It does not know what a credential is good for; package
// provider does. It neither logs nor reports a secret.
package credential

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/lazyregexp"
)

// Limits of what is stored.
const (
	// MaxGrants is how many grants a profile holds: far more than a person has,
	// and few enough to list them at once.
	MaxGrants = 1000
	// MaxPlaintext is the greatest size in bytes of one credential; a file is
	// hardly larger.
	MaxPlaintext = 64 << 10
	// maxFile leaves room for the header of age and for its chunks.
	maxFile = MaxPlaintext + 4<<10
	// maxFileName keeps the names of files, and of temporary ones, below the
	// 255 bytes that file systems take.
	maxFileName = 200
)

// Grant is the name of a grant, such as "github" or "ssh:github.com".
type Grant string

var (
	grantPattern   = lazyregexp.New(`^[a-z0-9][a-z0-9._:@/-]*$`)
	profilePattern = lazyregexp.New(`^[a-zA-Z0-9][a-zA-Z0-9_-]*$`)
)

// ParseGrant returns the grant of a name. The error matches ErrName.
func ParseGrant(name string) (Grant, error) {
	if !grantPattern.MatchString(name) {
		return "", &Error{Op: fmt.Sprintf("use %.80q as the name of a grant", name), Kind: ErrName,
			Next: "use lower-case letters, digits and . _ : @ / -, with a letter or digit first"}
	}
	for segment := range strings.SplitSeq(name, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return "", &Error{Op: fmt.Sprintf("use %.80q as the name of a grant", name), Kind: ErrName, Next: "leave out empty parts, `.` and `..` between slashes"}
		}
	}
	if n := len(fileName(Grant(name))); n > maxFileName {
		return "", &Error{Op: fmt.Sprintf("use %.80q as the name of a grant", name), Kind: ErrName, Next: "choose a shorter one"}
	}
	return Grant(name), nil
}

// Provider returns what stands before the first colon: the provider of the grant.
func (g Grant) Provider() string {
	name, _, _ := strings.Cut(string(g), ":")
	return name
}

// Instance returns what stands behind the first colon, and is empty where there
// is none.
func (g Grant) Instance() string {
	_, instance, _ := strings.Cut(string(g), ":")
	return instance
}

// String returns the name.
func (g Grant) String() string { return string(g) }

// Source says where a credential came from.
type Source string

// The sources of credentials.
const (
	SourcePrompt Source = "prompt" // typed or pasted by a person
	SourceStdin  Source = "stdin"
	SourceEnv    Source = "env"   // an environment variable
	SourceLogin  Source = "login" // an existing login of a tool, or one made for the grant
)

var sources = []Source{SourcePrompt, SourceStdin, SourceEnv, SourceLogin}

// Credential is what a grant stands for.
type Credential struct {
	Grant    Grant
	Provider string            // name of the provider that knows how to use it
	Kind     string            // which of the provider's kinds it is, where there are several
	Values   map[string]Secret // by the name of the provider's field; none only where Metadata says where the secret is

	// RefreshToken renews the credential where the service has such a thing.
	RefreshToken Secret
	// Renewal is how renewing it went.
	Renewal Renewal

	Scopes    []string
	CreatedAt time.Time // Put sets it where it is zero
	ExpiresAt time.Time // zero if it does not expire
	Source    Source

	// Metadata is what else the provider has to know; nothing in it is secret.
	Metadata map[string]string
}

// Renewal is what is remembered of renewing a credential. Nothing in it is secret.
type Renewal struct {
	// BeganAt is when the attempt began that is under way, or that a crash cut off;
	// zero where there is none.
	BeganAt time.Time `json:"began_at,omitzero"`
	// RenewedAt is when the credential was renewed last, zero if it never was.
	RenewedAt time.Time `json:"renewed_at,omitzero"`
	// FailedAt is when the last attempt failed, zero if it did not; Failures is how
	// many have failed since the last one that did not.
	FailedAt time.Time `json:"failed_at,omitzero"`
	Failures int       `json:"failures,omitempty"`
	Problem  string    `json:"problem,omitempty"` // why
	// IsFinal says that it will fail again until a person does something.
	IsFinal bool `json:"final,omitempty"`
}

// IsExpired reports whether the credential has expired at a time.
func (c Credential) IsExpired(now time.Time) bool {
	return !c.ExpiresAt.IsZero() && !now.Before(c.ExpiresAt)
}

// Fields returns the metadata and the revealed values, as a provider takes them
// together. The result is secret.
func (c Credential) Fields() map[string]string {
	fields := maps.Clone(c.Metadata)
	if fields == nil {
		fields = make(map[string]string, len(c.Values))
	}
	for name, value := range c.Values {
		fields[name] = value.Reveal()
	}
	return fields
}

// State says whether a grant can be used.
type State string

// The states of a grant.
const (
	StateOK         State = "ok"
	StateExpired    State = "expired"
	StateUnreadable State = "unreadable"
)

// Entry is what a list tells of a grant. It holds nothing secret.
type Entry struct {
	Grant  Grant // empty where the name of the file is not one that the store gives
	File   string
	State  State
	Reason string // why it is unreadable, and how to mend it

	// The rest is empty where the grant is unreadable.
	Provider  string
	Kind      string
	Scopes    []string
	CreatedAt time.Time
	ExpiresAt time.Time
	Source    Source
	Metadata  map[string]string
	Renewal   Renewal
	// HasRefreshToken says that there is something to renew it with.
	HasRefreshToken bool
}

func entryOf(c Credential, file string, now time.Time) Entry {
	state := StateOK
	if c.IsExpired(now) {
		state = StateExpired
	}
	return Entry{
		Grant: c.Grant, File: file, State: state, Provider: c.Provider, Kind: c.Kind, Scopes: slices.Clone(c.Scopes),
		CreatedAt: c.CreatedAt, ExpiresAt: c.ExpiresAt, Source: c.Source, Metadata: maps.Clone(c.Metadata),
		Renewal: c.Renewal, HasRefreshToken: !c.RefreshToken.IsZero(),
	}
}
