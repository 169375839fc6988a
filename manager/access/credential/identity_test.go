package credential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

func TestTheIdentityIsInTheKeyringWhereThereIsOne(t *testing.T) {
	t.Parallel()
	dir, k := newHome(t), newFaultyKeyring()
	s := open(t, dir, Options{Keyring: k})
	put(t, s, github())
	if len(k.entries) != 1 || !strings.Contains(k.entries["drawbridge/"+s.account], "AGE-SECRET-KEY-") {
		t.Errorf("the keyring holds %d entries", len(k.entries))
	}
	if _, err := os.Stat(s.keyFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a file as well: %v", err)
	}
	for path, content := range snapshot(t, filepath.Dir(dir)) {
		if strings.Contains(content, "AGE-SECRET-KEY-") {
			t.Errorf("%s holds the identity", path)
		}
	}
	same(t, github(), get(t, open(t, dir, Options{Keyring: k}), "github"))
}

func TestWithoutAKeyringTheIdentityIsAFile(t *testing.T) {
	t.Parallel()
	dir, k := newHome(t), newFaultyKeyring()
	k.set(ErrNoKeyring, nil)
	s := open(t, dir, Options{Keyring: k})
	put(t, s, github())
	if info, err := os.Stat(s.keyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	// A keyring that comes later changes nothing.
	k.set(nil, nil)
	same(t, github(), get(t, open(t, dir, Options{Keyring: k}), "github"))

	// The fallback is not for those who ask for the keyring.
	_, err := open(t, newHome(t), Options{Backend: BackendKeyring, Keyring: k}).Get(t.Context(), "x")
	wantError(t, err, ErrNotFound)
	k.set(ErrNoKeyring, nil)
	wantError(t, open(t, newHome(t), Options{Backend: BackendKeyring, Keyring: k}).Put(t.Context(), github()), ErrIdentity)
}

func TestTheRealKeyringOfThisMachineIsUsedOrSeenToBeAbsent(t *testing.T) {
	// Not parallel: it sets variables.
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	if mayHaveKeyring() {
		t.Skip("this system has a keyring that a test must not write to")
	}
	dir := newHome(t)
	put(t, open(t, dir, Options{}), github())
	same(t, github(), get(t, open(t, dir, Options{}), "github"))
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "gone"))
	dir = newHome(t)
	put(t, open(t, dir, Options{}), github())
	same(t, github(), get(t, open(t, dir, Options{}), "github"))
}

// A keyring that holds the identity and cannot be used must never be mistaken for
// one that holds none: a new identity would make all grants unreadable.
func TestAKeyringThatFailsIsNeverReplaced(t *testing.T) {
	t.Parallel()
	locked := errors.New("the collection is locked")
	for what, err := range map[string]error{"locked": locked, "absent": ErrNoKeyring, "emptied": ErrNoEntry} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir, k := newHome(t), newFaultyKeyring()
			put(t, open(t, dir, Options{Keyring: k}), github())
			before := snapshot(t, filepath.Dir(dir))
			k.set(err, nil)
			s := open(t, dir, Options{Keyring: k})
			_, getErr := s.Get(t.Context(), "github")
			wantError(t, getErr, ErrIdentity, "keyring", "; ")
			for _, err := range []error{s.Put(t.Context(), named("new")), s.Put(t.Context(), github()), s.Rotate(t.Context())} {
				wantError(t, err, ErrIdentity)
			}
			entries, listErr := s.List(t.Context())
			if listErr != nil || len(entries) != 1 || entries[0].State != StateUnreadable || !strings.Contains(entries[0].Reason, "keyring") {
				t.Errorf("list: %+v, %v", entries, listErr)
			}
			// The file back end does not serve as a way around it.
			wantError(t, open(t, dir, Options{Keyring: k, Backend: BackendFile}).Put(t.Context(), named("new")), ErrIdentity, "unset DRAWBRIDGE_KEYRING")
			same(t, before, snapshot(t, filepath.Dir(dir)))
			k.set(nil, nil)
			same(t, github(), get(t, s, "github"))
		})
	}
}

func TestALockedKeyringIsNotTakenForNoneInANewHome(t *testing.T) {
	t.Parallel()
	dir, k := newHome(t), newFaultyKeyring()
	k.set(errors.New("the collection is locked"), nil)
	s := open(t, dir, Options{Keyring: k})
	wantError(t, s.Put(t.Context(), github()), ErrIdentity, "locked", "DRAWBRIDGE_KEYRING=file")
	same(t, []string{filepath.Join(dir, lockName)}, namesOf(snapshot(t, filepath.Dir(dir))))
}

func TestAHangingKeyringCostsItsTimeoutAndNoMore(t *testing.T) {
	t.Parallel()
	dir, k := newHome(t), newFaultyKeyring()
	put(t, open(t, dir, Options{Keyring: k}), github())
	hang := make(chan struct{})
	k.set(nil, hang)
	s := open(t, dir, Options{Keyring: k, KeyringTimeout: 50 * time.Millisecond})
	begin := time.Now()
	for range 3 { // the second one does not pile up behind the first
		_, err := s.Get(t.Context(), "github")
		wantError(t, err, ErrIdentity, "does not answer within 50ms")
	}
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("it took %v", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := open(t, dir, Options{Keyring: k}).Get(ctx, "github")
	wantError(t, err, context.Canceled)
	close(hang)
	same(t, github(), get(t, s, "github"))
}

func TestAWriteToAHangingKeyringKeepsOtherWritersOutUntilItIsOver(t *testing.T) {
	t.Parallel()
	dir, k := newHome(t), newFaultyKeyring()
	put(t, open(t, dir, Options{Keyring: k}), github())
	s := open(t, dir, Options{Keyring: k, KeyringTimeout: 50 * time.Millisecond})
	hang := make(chan struct{})
	s.checkpoint = func(step string) error {
		if step == "store both identities" {
			k.set(nil, hang)
		}
		return nil
	}
	if err := s.Rotate(t.Context()); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Fatalf("rotate: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantError(t, open(t, dir, Options{Keyring: k}).Rotate(ctx), ErrBusy)
	k.set(nil, nil)
	close(hang)
	other := open(t, dir, Options{Keyring: k})
	if err := other.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, other, open(t, dir, Options{Keyring: k})} {
		same(t, github(), get(t, s, "github"))
	}
}

func TestAnIdentityThatIsNotTheRightOneIsSaidToBe(t *testing.T) {
	t.Parallel()
	dir := newHome(t)
	s := open(t, dir, inFile)
	put(t, s, github())
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	right, err := os.ReadFile(s.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	for what, content := range map[string]string{
		"another": other.String(), "of another kind": hybrid.String(), "not an identity": "AGE-SECRET-KEY-1" + secretText, "empty": "",
		"not an identity of either": strings.Repeat(string(right), 3), "more than 16384 bytes": strings.Repeat("#", maxKeys+1),
	} {
		if err := os.WriteFile(s.keyFile, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := open(t, dir, inFile).Get(t.Context(), "github")
		wantError(t, err, ErrIdentity, "; ")
		if !strings.Contains(err.Error(), strings.TrimSuffix(what, " of either")) && what != "empty" {
			t.Errorf("%s: %v", what, err)
		}
		wantError(t, open(t, dir, inFile).Put(t.Context(), named("new")), ErrIdentity)
		if got, err := os.ReadFile(s.keyFile); err != nil || !bytes.Equal(got, []byte(content)) {
			t.Errorf("%s was replaced, %v", what, err)
		}
	}
	if err := os.Remove(s.keyFile); err != nil {
		t.Fatal(err)
	}
	_, err = open(t, dir, inFile).Get(t.Context(), "github")
	wantError(t, err, ErrIdentity, s.keyFile, "backup")
	wantError(t, open(t, dir, inFile).Put(t.Context(), named("new")), ErrIdentity)
	// Not even in a profile that holds nothing: all of them share the identity.
	wantError(t, open(t, dir, Options{Profile: "new", Backend: BackendFile}).Put(t.Context(), named("new")), ErrIdentity)
	if _, err := os.Stat(s.keyFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a new one was made: %v", err)
	}
	// Without grants nothing is lost.
	if err := s.Delete(t.Context(), "github"); err != nil {
		t.Fatal(err)
	}
	put(t, open(t, dir, inFile), github())
	same(t, github(), get(t, open(t, dir, inFile), "github"))
}

func TestAFileThatAnotherIdentityOpensIsAnError(t *testing.T) {
	t.Parallel()
	a, b := open(t, newHome(t), inFile), open(t, newHome(t), inFile)
	put(t, a, github())
	put(t, b, github())
	copyFile(t, b.path("github"), a.path("github"))
	_, err := a.Get(t.Context(), "github")
	wantError(t, err, ErrDecrypt, "identity", "run `drawbridge grant github`")
}

func TestALostRecordIsFoundAgain(t *testing.T) {
	t.Parallel()
	for what, opts := range map[string]Options{"keyring": {Keyring: newFaultyKeyring()}, "file": inFile} {
		dir := newHome(t)
		put(t, open(t, dir, opts), github())
		path := filepath.Join(dir, recordName)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir, opts)
		same(t, github(), get(t, s, "github"))
		put(t, s, named("new"))
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := os.WriteFile(path, []byte(`{"version":2}`), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := open(t, dir, opts).Get(t.Context(), "github")
		wantError(t, err, ErrIdentity, "newer")
	}
}

func TestAHomeMayBeMoved(t *testing.T) {
	t.Parallel()
	dir, k := newHome(t), newFaultyKeyring()
	put(t, open(t, dir, Options{Keyring: k}), github())
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.Rename(filepath.Dir(dir), moved); err != nil {
		t.Fatal(err)
	}
	s := open(t, filepath.Join(moved, "credentials"), Options{Keyring: k})
	same(t, github(), get(t, s, "github"))
	if err := s.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, github(), get(t, s, "github"))
}

func TestOpenRefusesWhatIsNoPlaceForAStore(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", "relative", file, link, filepath.Join(file, "credentials"), "/does/not/exist/credentials"} {
		if _, err := Open(dir, inFile); err == nil {
			t.Errorf("opened %q", dir)
		}
	}
	if _, err := Open(newHome(t), Options{Backend: "elsewhere"}); err == nil {
		t.Error("opened with an unknown back end")
	}
	for value, want := range map[string]Backend{"": BackendAuto, "file": BackendFile, "keyring": BackendKeyring} {
		if got, err := ParseBackend(value); got != want || err != nil {
			t.Errorf("%q: %q, %v", value, got, err)
		}
	}
}

// failAt makes a store fail before its n-th step, and tells the steps.
func failAt(s *Store, n int) *[]string {
	var steps []string
	s.checkpoint = func(step string) error {
		steps = append(steps, step)
		if len(steps) > n {
			return fmt.Errorf("failure before %q", step)
		}
		return nil
	}
	return &steps
}

func TestARotationReplacesTheIdentity(t *testing.T) {
	t.Parallel()
	for what, opts := range map[string]Options{"keyring": {Keyring: newFaultyKeyring()}, "file": inFile} {
		dir := newHome(t)
		s := open(t, dir, opts)
		reader := open(t, dir, opts) // keeps the old identity in memory
		put(t, s, github(), named("mcp:a"))
		work := opts
		work.Profile = "work"
		put(t, open(t, dir, work), named("w"))
		old := get(t, reader, "github")
		before, err := s.loadKeys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sealed := snapshot(t, dir)
		if err := s.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		after, err := open(t, dir, opts).loadKeys(t.Context())
		if err != nil || len(after) != 1 || after[0].String() == before[0].String() {
			t.Errorf("%s: %d identities, %v", what, len(after), err)
		}
		for path, content := range snapshot(t, dir) {
			if !strings.HasSuffix(path, fileSuffix) {
				continue
			}
			if _, err := before.unseal([]byte(content)); !isOtherKey(err) || content == sealed[path] {
				t.Errorf("%s: the old identity opens %s: %v", what, path, err)
			}
		}
		for _, s := range []*Store{s, reader, open(t, dir, opts)} {
			same(t, old, get(t, s, "github"))
			put(t, s, named("later"))
		}
		same(t, named("w"), get(t, open(t, dir, work), "w"))
	}
}

func TestARotationThatFailsAtAnyStepLosesNothing(t *testing.T) {
	t.Parallel()
	for _, opts := range []Options{{Keyring: newFaultyKeyring()}, inFile} {
		for n, done := 0, false; !done; n++ {
			dir := newHome(t)
			want := []Credential{github(), named("mcp:a"), named("ssh:b")}
			put(t, open(t, dir, opts), want...)
			work := opts
			work.Profile = "work"
			put(t, open(t, dir, work), named("w"))
			old := open(t, dir, opts)
			get(t, old, "github")

			failing := open(t, dir, opts)
			steps := failAt(failing, n)
			done = failing.Rotate(t.Context()) == nil
			check := func(when string) {
				t.Helper()
				for _, s := range []*Store{old, failing, open(t, dir, opts)} {
					for _, c := range want {
						if got, err := s.Get(t.Context(), c.Grant); err != nil || got.Grant != c.Grant || !got.Values["token"].Equal(c.Values["token"]) {
							t.Errorf("%s, %s: %v", when, c.Grant, err)
						}
					}
				}
				same(t, named("w"), get(t, open(t, dir, work), "w"))
			}
			check(fmt.Sprintf("after the failure at %v", *steps))
			put(t, old, named("new")) // writers go on
			if err := open(t, dir, opts).Rotate(t.Context()); err != nil {
				t.Fatalf("it is not resumed after %v: %v", *steps, err)
			}
			want = append(want, named("new"))
			check(fmt.Sprintf("after it was resumed from %v", *steps))
			if k, err := open(t, dir, opts).loadKeys(t.Context()); err != nil || len(k) != 1 {
				t.Errorf("%d identities are left, %v", len(k), err)
			}
			if done && len(*steps) != 8 {
				t.Errorf("the steps are %q", *steps)
			}
		}
	}
}

func TestAnEmptyStoreHasNothingToRotate(t *testing.T) {
	t.Parallel()
	s := open(t, newHome(t), inFile)
	err := s.Rotate(t.Context())
	if err == nil || errors.Is(err, ErrIdentity) || !strings.Contains(err.Error(), "there are none; run `drawbridge grant NAME`") || strings.Contains(err.Error(), "backup") {
		t.Errorf("got %v", err)
	}
	// The mirror: with grants, an identity that is missing is a loss.
	put(t, s, github())
	if err := os.Remove(s.keyFile); err != nil {
		t.Fatal(err)
	}
	wantError(t, open(t, s.root, inFile).Rotate(t.Context()), ErrIdentity, "backup")
}
