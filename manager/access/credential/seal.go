package credential

import (
	"context"
	"fmt"
)

// Seal encrypts what is no grant, and lies elsewhere, as grants are encrypted. It makes
// the identity of a home that has none. After a Rotate nobody can read it any more.
func (s *Store) Seal(ctx context.Context, plain []byte) (sealed []byte, err error) {
	err = s.write(ctx, func() error {
		k, err := s.ensureKeys(ctx)
		if err != nil {
			return err
		}
		sealed, err = k.seal(plain)
		return err
	})
	return sealed, err
}

// Unseal is the reverse of Seal. The error matches ErrDecrypt or ErrIdentity.
func (s *Store) Unseal(ctx context.Context, sealed []byte) ([]byte, error) {
	unseal := func() ([]byte, error) {
		k, err := s.loadKeys(ctx)
		if err != nil {
			return nil, err
		}
		return k.unseal(sealed)
	}
	plain, err := unseal()
	if isOtherKey(err) {
		s.cache(nil)
		plain, err = unseal()
	}
	if isOtherKey(err) {
		return nil, fmt.Errorf("%w: the key of grants is another one by now (`drawbridge grant rotate`)", ErrDecrypt)
	}
	return plain, err
}
