package credential

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// secretText is in no file of a store, whatever is done to it.
const secretText = "ghp_tOpSeCrEtTeXtThatNobodyMaySee0123456"

// faultyKeyring is a fake, for faults alone: a real keyring cannot be locked, made
// to hang or taken away by a test, and a machine that runs tests has none. What
// works is tested with the real store, real age and real files.
type faultyKeyring struct {
	mu      sync.Mutex
	entries map[string]string
	err     error         // what every call returns, if any
	hang    chan struct{} // calls wait until it is closed, if any
}

func newFaultyKeyring() *faultyKeyring { return &faultyKeyring{entries: map[string]string{}} }

func (k *faultyKeyring) fault() error {
	k.mu.Lock()
	hang, err := k.hang, k.err
	k.mu.Unlock()
	if hang != nil {
		<-hang
	}
	return err
}

func (k *faultyKeyring) Get(service, account string) (string, error) {
	if err := k.fault(); err != nil {
		return "", err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	value, ok := k.entries[service+"/"+account]
	if !ok {
		return "", ErrNoEntry
	}
	return value, nil
}

func (k *faultyKeyring) Set(service, account, value string) error {
	if err := k.fault(); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.entries[service+"/"+account] = value
	return nil
}

func (k *faultyKeyring) set(err error, hang chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err, k.hang = err, hang
}

// newHome returns the directory of a store that is not there yet.
func newHome(t testing.TB) string {
	t.Helper()
	home := filepath.Join(t.TempDir(), "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(home, "credentials")
}

func open(t testing.TB, dir string, opts Options) *Store {
	t.Helper()
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// inFile are the options of most tests: the identity is a file, as on a machine
// without a keyring.
var inFile = Options{Backend: BackendFile}

func github() Credential {
	return Credential{
		Grant: "github", Provider: "github", Kind: "pat",
		Values:       map[string]Secret{"token": NewSecret(secretText)},
		RefreshToken: NewSecret(secretText + "-refresh"),
		Scopes:       []string{"repo", "read:org"},
		CreatedAt:    time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		ExpiresAt:    time.Date(2126, 1, 2, 3, 4, 5, 0, time.UTC),
		Source:       SourcePrompt,
		Metadata:     map[string]string{"login": "octocat"},
	}
}

func named(g Grant) Credential {
	c := github()
	c.Grant = g
	return c
}

func put(t testing.TB, s *Store, all ...Credential) {
	t.Helper()
	for _, c := range all {
		if err := s.Put(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
}

func get(t testing.TB, s *Store, g Grant) Credential {
	t.Helper()
	c, err := s.Get(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func same(t testing.TB, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// wantError checks the kind of an error, that it says what to do, and that it
// holds no secret.
func wantError(t testing.TB, err, kind error, parts ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error %v, want one that matches %q", err, kind)
	}
	for _, part := range parts {
		if !bytes.Contains([]byte(err.Error()), []byte(part)) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
	if bytes.Contains([]byte(err.Error()), []byte(secretText)) {
		t.Errorf("error %q holds the secret", err)
	}
}

// snapshot returns the content of all files below a directory.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func namesOf(files map[string]string) []string { return slices.Sorted(maps.Keys(files)) }
