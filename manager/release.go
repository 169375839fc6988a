package manager

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// releaseTimeout bounds the undoing of a failed create: an engine that hangs
// must not hold the caller for ever. What is left is found by the sweep.
const releaseTimeout = 60 * time.Second

// releaseStack holds the releases of what has been acquired so far. It has one
// owner and is not safe for concurrent use.
type releaseStack struct {
	releases []release
}

type release struct {
	what string
	do   func(context.Context) error
}

// push adds the release of something that was just acquired.
func (s *releaseStack) push(what string, do func(context.Context) error) {
	s.releases = append(s.releases, release{what, do})
}

// keep forgets the releases: what was acquired has a new owner.
func (s *releaseStack) keep() { s.releases = nil }

// unwind runs the releases, last first, each exactly once, and joins their
// errors. A cancelled ctx does not stop it; its own deadline does.
func (s *releaseStack) unwind(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	var errs []error
	for len(s.releases) > 0 {
		last := s.releases[len(s.releases)-1]
		s.releases = s.releases[:len(s.releases)-1]
		if err := last.do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("release %s: %w", last.what, err))
		}
	}
	return errors.Join(errs...)
}
