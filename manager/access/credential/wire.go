package credential

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// wireVersion is the version of the plaintext in a file.
const wireVersion = 1

// wire is the plaintext of a file. Its names are what is on disk.
type wire struct {
	Version      int               `json:"version"`
	Grant        string            `json:"grant"`
	Profile      string            `json:"profile"`
	Provider     string            `json:"provider"`
	Kind         string            `json:"kind,omitempty"`
	Values       map[string]string `json:"values"`
	RefreshToken string            `json:"refresh_token,omitempty"`
	Scopes       []string          `json:"scopes,omitempty"`
	CreatedAt    time.Time         `json:"created_at"`
	ExpiresAt    *time.Time        `json:"expires_at,omitempty"`
	Source       Source            `json:"source"`
	Metadata     map[string]string `json:"metadata,omitempty"`
	Renewal      Renewal           `json:"renewal,omitzero"`
}

// encode returns the plaintext of a valid credential.
func encode(c Credential, profile string) ([]byte, error) {
	w := wire{
		Version: wireVersion, Grant: string(c.Grant), Profile: profile, Provider: c.Provider, Kind: c.Kind,
		Values: make(map[string]string, len(c.Values)), RefreshToken: c.RefreshToken.Reveal(), Scopes: c.Scopes,
		CreatedAt: c.CreatedAt.UTC().Round(0), Source: c.Source, Metadata: c.Metadata, Renewal: c.Renewal,
	}
	for name, value := range c.Values {
		w.Values[name] = value.Reveal()
	}
	if !c.ExpiresAt.IsZero() {
		at := c.ExpiresAt.UTC().Round(0)
		w.ExpiresAt = &at
	}
	plain, err := json.Marshal(w) //nolint:gosec // G117: it leaves memory encrypted only
	if err != nil {
		// Its text could quote what it failed on.
		return nil, errors.New("it cannot be encoded")
	}
	if len(plain) > MaxPlaintext {
		return nil, fmt.Errorf("%w: it has %d bytes, %d are allowed", ErrLimit, len(plain), MaxPlaintext)
	}
	return plain, nil
}

// decode returns the credential of a plaintext, which must be that of the grant in
// the profile. Its errors do not quote the plaintext.
func decode(plain []byte, profile string, g Grant) (Credential, error) {
	var w wire
	dec := json.NewDecoder(bytes.NewReader(plain))
	if err := dec.Decode(&w); err != nil {
		return Credential{}, errors.New("its content is malformed")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Credential{}, errors.New("its content goes on behind the end")
	}
	switch {
	case w.Version > wireVersion:
		return Credential{}, fmt.Errorf("its format has version %d, this program knows %d", w.Version, wireVersion)
	case w.Version < 1:
		return Credential{}, errors.New("its content has no version")
	case w.Grant != string(g) || w.Profile != profile:
		return Credential{}, errors.New("it holds another grant, or that of another profile")
	}
	c := Credential{
		Grant: g, Provider: w.Provider, Kind: w.Kind, Values: make(map[string]Secret, len(w.Values)),
		RefreshToken: NewSecret(w.RefreshToken), Scopes: w.Scopes, CreatedAt: w.CreatedAt, Source: w.Source, Metadata: w.Metadata, Renewal: w.Renewal,
	}
	for name, value := range w.Values {
		c.Values[name] = NewSecret(value)
	}
	if w.ExpiresAt != nil {
		c.ExpiresAt = *w.ExpiresAt
	}
	if err := c.check(); err != nil {
		return Credential{}, err
	}
	return c, nil
}

// check reports what keeps a credential from being stored, without its values.
func (c Credential) check() error {
	switch {
	case c.Provider == "":
		return errors.New("it names no provider")
	case len(c.Values) == 0 && len(c.Metadata) == 0:
		return errors.New("it has no values")
	case c.CreatedAt.IsZero():
		return errors.New("it does not say when it was made")
	case !slices.Contains(sources, c.Source):
		return fmt.Errorf("its source is not one of %v", sources)
	}
	texts := append([]string{c.Provider, c.Kind, c.RefreshToken.Reveal(), c.Renewal.Problem}, c.Scopes...)
	for name, value := range c.Values {
		if value.IsZero() || strings.TrimSpace(value.Reveal()) != value.Reveal() {
			return errors.New("a value is empty, or begins or ends with a space")
		}
		texts = append(texts, name, value.Reveal())
	}
	for name, text := range c.Metadata {
		if c.holds(text) {
			return errors.New("its metadata holds one of its secrets")
		}
		texts = append(texts, name, text)
	}
	for _, text := range texts {
		if !utf8.ValidString(text) {
			return errors.New("a part of it is not valid UTF-8")
		}
	}
	return checkTimes(c.CreatedAt, c.ExpiresAt, c.Renewal.BeganAt, c.Renewal.RenewedAt, c.Renewal.FailedAt)
}

// holds reports whether a text is one of the credential's secrets.
func (c Credential) holds(text string) bool {
	secret := NewSecret(text)
	if secret.IsZero() {
		return false
	}
	for _, value := range c.Values {
		if value.Equal(secret) {
			return true
		}
	}
	return c.RefreshToken.Equal(secret)
}

// checkTimes makes sure that times have a form in JSON, which has four digits for
// a year.
func checkTimes(times ...time.Time) error {
	for _, t := range times {
		if year := t.UTC().Year(); year < 0 || year > 9998 {
			return errors.New("a time in it is out of range")
		}
	}
	return nil
}
