package credential

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const profilesName = "profiles"

// Dir returns the directory of the store in a home.
func Dir(home string) string { return filepath.Join(home, "credentials") }

// Options are the options of a store. The zero value is that of the default
// profile with the operating system's keyring.
type Options struct {
	Profile string  // empty for the default one
	Backend Backend // from DRAWBRIDGE_KEYRING, see ParseBackend

	// Keyring is used in place of the operating system's.
	Keyring Keyring
	// KeyringTimeout bounds one call to the keyring; zero is
	// DefaultKeyringTimeout.
	KeyringTimeout time.Duration
}

// Store holds the grants of one profile. All profiles of a home share an identity.
// It is safe for concurrent use, also by several processes, and needs no closing.
type Store struct {
	root    string // directory of the default profile; holds the lock and the record
	dir     string // directory of this profile
	profile string
	keyFile string // where the identity is without a keyring
	account string // of a new identity in the keyring
	backend Backend
	keyring *boundedKeyring

	// checkpoint is called before each step that changes what is on disk or in
	// the keyring. Tests end a store's work there.
	checkpoint func(step string) error

	mu     sync.Mutex
	cached keys // guarded by mu; nil until they have been read
}

// Open opens the store in dir, an absolute path below a home that exists, and
// makes its directories. It neither waits for the lock nor asks the keyring.
func Open(dir string, opts Options) (*Store, error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("open the grants: %q is not an absolute path", dir)
	}
	if opts.Profile != "" && !profilePattern.MatchString(opts.Profile) || len(opts.Profile) > maxFileName {
		return nil, &Error{Op: fmt.Sprintf("use %.80q as a profile", opts.Profile), Kind: ErrName, Next: "use letters, digits, - and _, with a letter or digit first"}
	}
	if _, err := ParseBackend(string(opts.Backend)); err != nil {
		return nil, err
	}
	dir = filepath.Clean(dir)
	home, err := homeOf(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{
		root: dir, dir: dir, profile: opts.Profile, backend: opts.Backend,
		keyFile: filepath.Join(filepath.Dir(dir), keyFileName), account: accountOf(home),
		keyring:    newBoundedKeyring(opts.Keyring, opts.KeyringTimeout),
		checkpoint: func(string) error { return nil },
	}
	dirs := []string{dir}
	if s.profile != "" {
		s.dir = filepath.Join(dir, profilesName, s.profile)
		dirs = append(dirs, filepath.Join(dir, profilesName), s.dir)
	}
	for _, d := range dirs {
		if err := ensureDir(d); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Profile returns the profile, empty for the default one.
func (s *Store) Profile() string { return s.profile }

// Put stores a credential under its grant, in place of the one that is there. It
// makes the identity of a home that holds no credential yet.
func (s *Store) Put(ctx context.Context, c Credential) error {
	g, err := ParseGrant(string(c.Grant))
	if err != nil {
		return err
	}
	op := fmt.Sprintf("store grant %s", g)
	if c.CreatedAt.IsZero() {
		c.CreatedAt = time.Now()
	}
	if err := c.check(); err != nil {
		return &Error{Op: op, Kind: ErrInvalid, Err: err}
	}
	plain, err := encode(c, s.profile)
	if err != nil {
		return &Error{Op: op, Kind: ErrInvalid, Err: err}
	}
	return s.write(ctx, func() error {
		if err := s.checkRoom(g); err != nil {
			return err
		}
		k, err := s.ensureKeys(ctx)
		if err != nil {
			return err
		}
		if err := s.writeSealed(s.path(g), k, plain); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		return nil
	})
}

// checkRoom makes sure that a grant may be added.
func (s *Store) checkRoom(g Grant) error {
	names, err := listFiles(s.dir)
	if err != nil {
		return err
	}
	if len(names) < MaxGrants || slices.Contains(names, fileName(g)) {
		return nil
	}
	return &Error{Op: fmt.Sprintf("store grant %s", g), Kind: ErrLimit, Err: fmt.Errorf("there are %d grants", len(names)), Next: "run `drawbridge revoke NAME` for one that nobody needs"}
}

func (s *Store) writeSealed(path string, k keys, plain []byte) error {
	sealed, err := k.seal(plain)
	if err != nil {
		return err
	}
	if err := s.checkpoint("write " + filepath.Base(path)); err != nil {
		return err
	}
	return writeAtomic(path, sealed)
}

// Get returns the credential of a grant, expired or not. The error matches
// ErrNotFound, ErrDecrypt or ErrIdentity.
func (s *Store) Get(ctx context.Context, g Grant) (Credential, error) {
	if _, err := ParseGrant(string(g)); err != nil {
		return Credential{}, err
	}
	op := fmt.Sprintf("read grant %s", g)
	c, err := s.read(ctx, g)
	if err == nil {
		return c, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return Credential{}, notFound(op, g)
	}
	if _, told := errors.AsType[*Error](err); told {
		return Credential{}, fmt.Errorf("%s: %w", op, err)
	}
	return Credential{}, undecryptable(op, s.path(g), g, err)
}

// read returns the credential of a grant. A rotation may have encrypted its file to
// an identity that this process has not seen, and then it looks again.
func (s *Store) read(ctx context.Context, g Grant) (Credential, error) {
	// The file comes first: where there is none, nobody has to unlock a keyring.
	if _, err := os.Lstat(s.path(g)); err != nil {
		return Credential{}, err
	}
	plain, err := s.readSealed(ctx, s.path(g))
	if isOtherKey(err) {
		s.cache(nil)
		plain, err = s.readSealed(ctx, s.path(g))
	}
	if err != nil {
		return Credential{}, err
	}
	return decode(plain, s.profile, g)
}

func (s *Store) readSealed(ctx context.Context, path string) ([]byte, error) {
	k, err := s.loadKeys(ctx)
	if err != nil {
		return nil, err
	}
	sealed, err := readPrivate(path, maxFile)
	if err != nil {
		return nil, err
	}
	return k.unseal(sealed)
}

// List returns what can be told of every grant, by name. A grant that cannot be
// read is part of it, with the reason.
func (s *Store) List(ctx context.Context) ([]Entry, error) {
	names, err := listFiles(s.dir)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	entries := make([]Entry, 0, len(names))
	var locked error // the identity's error, so that a keyring is asked once
	for _, name := range names {
		g, ok := grantOf(name)
		if !ok {
			entries = append(entries, Entry{File: name, State: StateUnreadable, Reason: "this is not the name of a grant's file; move it away"})
			continue
		}
		if locked != nil {
			entries = append(entries, Entry{Grant: g, File: name, State: StateUnreadable, Reason: locked.Error()})
			continue
		}
		c, err := s.Get(ctx, g)
		switch {
		case errors.Is(err, ErrNotFound): // deleted meanwhile
			continue
		case errors.Is(err, ErrIdentity):
			locked = err
			fallthrough
		case err != nil:
			entries = append(entries, Entry{Grant: g, File: name, State: StateUnreadable, Reason: err.Error()})
		default:
			entries = append(entries, entryOf(c, name, now))
		}
	}
	slices.SortStableFunc(entries, func(a, b Entry) int { return strings.Compare(string(a.Grant), string(b.Grant)) })
	return entries, ctx.Err()
}

// Delete removes a grant, and the permission of agents to use one of that name.
// It works also where the grant cannot be read. The error matches ErrNotFound.
func (s *Store) Delete(ctx context.Context, g Grant) error {
	if _, err := ParseGrant(string(g)); err != nil {
		return err
	}
	return s.write(ctx, func() error {
		if _, err := os.Lstat(s.path(g)); errors.Is(err, fs.ErrNotExist) {
			return &Error{Op: fmt.Sprintf("delete grant %s", g), Kind: ErrNotFound, Next: "run `drawbridge grant list`"}
		}
		// The permission goes first: it must not outlive what it was given for.
		// Where that cannot be done, the secret goes all the same.
		err := s.changeAllowed(func(all []Grant) []Grant { return without(all, g) })
		if err := s.checkpoint("delete " + fileName(g)); err != nil {
			return err
		}
		if err = errors.Join(err, removeFile(s.path(g))); err != nil {
			return fmt.Errorf("delete grant %s: %w", g, err)
		}
		return nil
	})
}

// write runs what changes the store while nobody else does.
func (s *Store) write(ctx context.Context, change func() error) error {
	unlock, err := lock(ctx, s.root)
	if err != nil {
		return err
	}
	// A call that was given up must not undo what the next writer does.
	defer s.keyring.whenSettled(unlock)
	for _, dir := range []string{s.root, s.dir} {
		if err := sweepTemp(dir); err != nil {
			return fmt.Errorf("remove what a writer has left: %w", err)
		}
	}
	return change()
}

func (s *Store) path(g Grant) string { return filepath.Join(s.dir, fileName(g)) }

// listFiles returns the names of the grants' files in a directory.
func listFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the grants: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if strings.HasSuffix(entry.Name(), fileSuffix) && !strings.HasPrefix(entry.Name(), tempPrefix) {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// profileFile is a grant's file of any profile.
type profileFile struct {
	profile string
	path    string
	grant   Grant // empty where the name is not that of a grant
}

// allFiles returns the files that are encrypted to the identity, of all profiles.
func (s *Store) allFiles() ([]profileFile, error) {
	profiles := []string{""}
	entries, err := os.ReadDir(filepath.Join(s.root, profilesName))
	if ignoreMissing(err) != nil {
		return nil, fmt.Errorf("list the profiles: %w", err)
	}
	for _, entry := range entries {
		if entry.IsDir() && profilePattern.MatchString(entry.Name()) {
			profiles = append(profiles, entry.Name())
		}
	}
	var files []profileFile
	for _, profile := range profiles {
		dir := s.root
		if profile != "" {
			dir = filepath.Join(s.root, profilesName, profile)
		}
		names, err := listFiles(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			g, _ := grantOf(name)
			files = append(files, profileFile{profile: profile, path: filepath.Join(dir, name), grant: g})
		}
	}
	return files, nil
}
