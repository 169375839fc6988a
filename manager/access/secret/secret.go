// Package secret fetches secrets from where a person keeps them: 1Password, the
// parameter store of AWS Systems Manager, and the environment of this process.
//
// # What it guarantees
//
// Fetching is bounded in time, and values in number and size. A value is text that can be
// masked: see mask.MinSecret. Errors name what was asked for, and hold nothing of a value.
//
// # What it does not do
//
// It keeps no value, and does not know who may ask for which: see Pattern.
package secret

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/drawbridge-mcp/drawbridge/internal/mask"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// Bounds of the secrets of one run.
const (
	MaxSecrets = 64
	// MaxBytes is that of one value: what the largest parameter of AWS has. A key in PEM
	// and most files of credentials are smaller.
	MaxBytes = 8 << 10
	// MaxTotal is that of all values of a run. The guest needs up to a hundred times as
	// much memory to look for them in all forms.
	MaxTotal = 32 << 10
	// MinBytes is that of one value.
	MinBytes = mask.MinSecret

	timeout    = 30 * time.Second // for one: a person may have to unlock the store
	concurrent = 8                // that are fetched at the same time
)

// A provider fetches what a reference with its scheme names. The error says what mends it,
// where it is an Error; its ctx has a deadline.
type provider func(ctx context.Context, ref Reference) (string, error)

// Resolver fetches secrets. The zero value is not usable; see New.
type Resolver struct {
	providers map[string]provider // by scheme
	timeout   time.Duration
}

// New returns a Resolver for this process: its environment, its PATH, and the
// configuration of AWS of its user.
func New() *Resolver {
	return &Resolver{timeout: timeout, providers: map[string]provider{
		"env": fromEnvironment,
		"op":  fromOnePassword,
		"ssm": fromParameterStore,
	}}
}

// Error is why a secret is not there.
type Error struct {
	Variable  string // that it is for
	Reference string
	Reason    string
	Next      string // what mends it
}

func (e *Error) Error() string {
	return fmt.Sprintf("the secret %s for %s: %s; %s", e.Reference, e.Variable, e.Reason, e.Next)
}

// failure is an Error of which only the provider's part is known.
func failure(next, format string, args ...any) error {
	return &Error{Reason: fmt.Sprintf(format, args...), Next: next}
}

// Resolve fetches the secrets that variables refer to. The error joins those of all that
// are not there, each an Error, or is that of ctx.
func (r *Resolver) Resolve(ctx context.Context, references map[string]string) (map[string]credential.Secret, error) {
	if len(references) > MaxSecrets {
		return nil, fmt.Errorf("there are %d secrets, the limit is %d", len(references), MaxSecrets)
	}
	type answer struct {
		value string
		err   error
	}
	answers := map[Reference]*answer{} // each is fetched once
	byVariable := map[string]Reference{}
	for variable, text := range references {
		ref, err := Parse(text)
		if err == nil && (len(variable) > maxName || strings.ContainsAny(variable, "="+separator)) {
			err = errors.New("its variable cannot be named so")
		}
		if err != nil {
			return nil, fmt.Errorf("the secret for %.80q: %w", variable, err)
		}
		byVariable[variable], answers[ref] = ref, &answer{}
	}
	var fetching sync.WaitGroup
	slots := make(chan struct{}, concurrent)
	for ref, a := range answers {
		fetching.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			a.value, a.err = r.fetch(ctx, ref)
		})
	}
	fetching.Wait()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("fetch the secrets: %w", ctx.Err())
	}
	values, total := map[string]credential.Secret{}, 0
	var errs []error
	for _, variable := range slices.Sorted(maps.Keys(byVariable)) {
		ref := byVariable[variable]
		a := answers[ref]
		if told, ok := errors.AsType[*Error](a.err); ok {
			errs = append(errs, &Error{Variable: variable, Reference: ref.String(), Reason: told.Reason, Next: told.Next})
			continue
		}
		values[variable] = credential.NewSecret(a.value)
		total += len(a.value)
	}
	if len(errs) == 0 && total > MaxTotal {
		return nil, fmt.Errorf("the secrets have %d bytes together, the limit is %d; put large ones into a file", total, MaxTotal)
	}
	return values, errors.Join(errs...)
}

// fetch returns one value. Its errors are of type Error.
func (r *Resolver) fetch(ctx context.Context, ref Reference) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	value, err := r.providers[ref.scheme](ctx, ref)
	if err == nil {
		err = check(value)
	}
	if _, told := errors.AsType[*Error](err); err == nil || told && ctx.Err() == nil {
		return value, err
	}
	if ctx.Err() != nil {
		return "", failure("unlock or start what has it, and try again", "it was not there within %v", r.timeout)
	}
	return "", failure("try again", "%v", err)
}

// check refuses values that cannot be a variable, or cannot be masked.
func check(value string) error {
	switch {
	case value == "":
		return failure("store a value", "it is empty")
	case len(value) < MinBytes:
		return failure("use a longer one, or put it into env, where it is not taken for a secret",
			"it has fewer than %d bytes, and cannot be masked in output: too much would look like it", MinBytes)
	case len(value) > MaxBytes:
		return failure("put it into a file", "it has more than %d bytes", MaxBytes)
	case !utf8.ValidString(value) || strings.ContainsRune(value, 0):
		return failure("store it as text, e.g. in base64", "it is no text that a variable can have")
	}
	return nil
}
