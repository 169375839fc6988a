package credential

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// childVar makes the test binary act as another process on a store.
const childVar = "CREDENTIAL_TEST_CHILD"

// children are what other processes do with a store; they end with an error.
var children = map[string]func(ctx context.Context, s *Store, arg string) error{
	// write stores its own grants and one that all others write, too.
	"write": func(ctx context.Context, s *Store, arg string) error {
		for i := range 10 {
			if err := errors.Join(
				s.Put(ctx, named(Grant(fmt.Sprintf("own-%s-%d", arg, i)))),
				s.Put(ctx, named("shared")),
				s.Allow(ctx, Grant(fmt.Sprintf("own-%s-%d", arg, i))),
			); err != nil {
				return err
			}
			if _, err := s.Get(ctx, "shared"); err != nil {
				return err
			}
		}
		return nil
	},
	"rotate": func(ctx context.Context, s *Store, _ string) error {
		for range 3 {
			if err := s.Rotate(ctx); err != nil {
				return err
			}
		}
		return nil
	},
	// die ends in the middle of a rotation, before the step of that number.
	"die": func(ctx context.Context, s *Store, arg string) error {
		left, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		s.checkpoint = func(string) error {
			if left == 0 {
				os.Exit(crashed)
			}
			left--
			return nil
		}
		return s.Rotate(ctx)
	},
	"renew": func(ctx context.Context, s *Store, _ string) error {
		_, err := s.Renew(ctx, "oauth:x", always, next)
		return err
	},
	"renew and die": func(ctx context.Context, s *Store, _ string) error {
		_, err := s.Renew(ctx, "oauth:x", always, func(context.Context, Credential) (Credential, error) {
			os.Exit(crashed)
			return Credential{}, nil
		})
		return err
	},
}

const crashed = 99

func TestMain(m *testing.M) {
	do := children[os.Getenv(childVar)]
	if do == nil {
		os.Exit(m.Run())
	}
	s, err := Open(os.Args[1], inFile)
	if err == nil {
		err = do(context.Background(), s, os.Args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child runs another process on a store, and returns how it ended.
func child(t *testing.T, what, dir, arg string) (code int, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], dir, arg)
	cmd.Env = append(os.Environ(), childVar+"="+what)
	var b strings.Builder
	cmd.Stderr = &b
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Error(err)
		return -1, ""
	}
	return cmd.ProcessState.ExitCode(), b.String()
}

func TestSeveralProcessesWriteAtOnce(t *testing.T) {
	t.Parallel()
	dir := newHome(t)
	var all sync.WaitGroup
	for _, what := range []string{"a", "b", "c"} { // one of them makes the identity
		all.Go(func() {
			if code, stderr := child(t, "write", dir, what); code != 0 {
				t.Errorf("writer %s ended with %d: %s", what, code, stderr)
			}
		})
	}
	all.Wait()
	all.Go(func() {
		if code, stderr := child(t, "rotate", dir, ""); code != 0 {
			t.Errorf("rotation ended with %d: %s", code, stderr)
		}
	})
	all.Go(func() {
		if code, stderr := child(t, "write", dir, "d"); code != 0 {
			t.Errorf("writer ended with %d: %s", code, stderr)
		}
	})
	all.Wait()
	s := open(t, dir, inFile)
	entries, err := s.List(t.Context())
	if err != nil || len(entries) != 41 {
		t.Fatalf("%d grants, %v", len(entries), err)
	}
	for _, e := range entries {
		if e.State != StateOK {
			t.Errorf("%s: %s", e.Grant, e.Reason)
		}
	}
	if allowed, err := s.Allowed(); err != nil || len(allowed) != 40 {
		t.Errorf("%d are allowed, %v", len(allowed), err)
	}
}

func TestAProcessThatDiesInARotationLosesNothing(t *testing.T) {
	t.Parallel()
	dir := newHome(t)
	s := open(t, dir, inFile)
	put(t, s, github(), named("mcp:a"))
	for n, code := 0, crashed; code != 0; n++ {
		var stderr string
		if code, stderr = child(t, "die", dir, strconv.Itoa(n)); code != 0 && code != crashed || n > 20 {
			t.Fatalf("after %d steps it ended with %d: %s", n, code, stderr)
		}
		for _, s := range []*Store{s, open(t, dir, inFile)} {
			same(t, github(), get(t, s, "github"))
			same(t, named("mcp:a"), get(t, s, "mcp:a"))
		}
	}
}
