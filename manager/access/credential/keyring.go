package credential

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/zalando/go-keyring"
)

// keyringService is the name under which the operating system's keyring shows our
// entries.
const keyringService = "drawbridge"

// DefaultKeyringTimeout bounds a call to the keyring: long enough for a person to
// answer the dialog that unlocks it.
const DefaultKeyringTimeout = 30 * time.Second

// What a Keyring says of itself.
var (
	// ErrNoEntry says that the keyring works and holds no such entry.
	ErrNoEntry = errors.New("the keyring has no such entry")
	// ErrNoKeyring says that this machine or session has no keyring.
	ErrNoKeyring = errors.New("there is no keyring")
	// errKeyringSilent says that the keyring has not answered.
	errKeyringSilent = errors.New("the keyring does not answer")
)

// Keyring keeps small secrets by service and account. An error that matches
// neither ErrNoEntry nor ErrNoKeyring says that it may well hold the entry: it is
// locked, for instance. Calls may block for ever; the store bounds them, and
// makes one at a time.
type Keyring interface {
	// Get returns a value. The error matches ErrNoEntry where there is none.
	Get(service, account string) (string, error)
	// Set stores a value in place of the one that is there.
	Set(service, account, value string) error
}

// systemKeyring is that of the operating system.
type systemKeyring struct{}

func (systemKeyring) Get(service, account string) (string, error) {
	if !mayHaveKeyring() {
		return "", ErrNoKeyring
	}
	value, err := keyring.Get(service, account)
	return value, keyringError(err)
}

func (systemKeyring) Set(service, account, value string) error {
	if !mayHaveKeyring() {
		return ErrNoKeyring
	}
	return keyringError(keyring.Set(service, account, value))
}

func keyringError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, keyring.ErrNotFound):
		return ErrNoEntry
	case errors.Is(err, keyring.ErrUnsupportedPlatform), saysNoKeyring(err):
		return fmt.Errorf("%w: %w", ErrNoKeyring, err)
	}
	return err
}

// boundedKeyring makes calls to a keyring one at a time, and does not wait longer
// for one than its timeout. A call that has not come back keeps the next ones
// waiting: it may still write.
type boundedKeyring struct {
	keyring Keyring
	timeout time.Duration
	turn    chan struct{} // holds a token while a call is on its way

	mu   sync.Mutex
	late chan struct{} // guarded by mu; closed when the last call has come back
}

// systemTurn serialises the calls of all stores of this process to the one keyring
// that the operating system has.
var systemTurn = make(chan struct{}, 1)

func newBoundedKeyring(k Keyring, timeout time.Duration) *boundedKeyring {
	if timeout <= 0 {
		timeout = DefaultKeyringTimeout
	}
	if k == nil {
		return &boundedKeyring{keyring: systemKeyring{}, timeout: timeout, turn: systemTurn}
	}
	return &boundedKeyring{keyring: k, timeout: timeout, turn: make(chan struct{}, 1)}
}

func (b *boundedKeyring) get(ctx context.Context, account string) (string, error) {
	return b.call(ctx, func() (string, error) { return b.keyring.Get(keyringService, account) })
}

func (b *boundedKeyring) set(ctx context.Context, account, value string) error {
	_, err := b.call(ctx, func() (string, error) {
		return "", b.keyring.Set(keyringService, account, value)
	})
	return err
}

// whenSettled calls f as soon as no call that was given up can still write. That
// is at once, unless the keyring is silent.
func (b *boundedKeyring) whenSettled(f func()) {
	b.mu.Lock()
	late := b.late
	b.mu.Unlock()
	select {
	case <-late:
		f()
		return
	default:
	}
	if late == nil {
		f()
		return
	}
	go func() { // ends with the call, like the one that makes it
		<-late
		f()
	}()
}

func (b *boundedKeyring) call(ctx context.Context, do func() (string, error)) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.timeout, fmt.Errorf("%w within %v", errKeyringSilent, b.timeout))
	defer cancel()
	select {
	case b.turn <- struct{}{}:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	done := make(chan struct{})
	b.mu.Lock()
	b.late = done
	b.mu.Unlock()
	type answer struct {
		value string
		err   error
	}
	answered := make(chan answer, 1)
	// Nothing can stop this goroutine while the keyring is silent; it ends with
	// the call, and gives the turn back only then.
	go func() {
		defer func() {
			close(done)
			<-b.turn
		}()
		value, err := do()
		answered <- answer{value, err}
	}()
	select {
	case a := <-answered:
		return a.value, a.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}
