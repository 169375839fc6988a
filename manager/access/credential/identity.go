package credential

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
)

// Backend says where the identity is kept.
type Backend string

// The back ends. BackendAuto is the keyring, or the file where there is no keyring.
const (
	BackendAuto    Backend = ""
	BackendKeyring Backend = "keyring"
	BackendFile    Backend = "file"
)

// ParseBackend returns the back end that DRAWBRIDGE_KEYRING names.
func ParseBackend(value string) (Backend, error) {
	switch b := Backend(value); b {
	case BackendAuto, BackendKeyring, BackendFile:
		return b, nil
	}
	return "", fmt.Errorf("use DRAWBRIDGE_KEYRING=%.80q: want keyring or file; unset it to use the keyring where there is one", value)
}

const (
	recordName  = "identity.json"
	keyFileName = "identity.age.key"
	maxRecord   = 4 << 10
	maxKeys     = 16 << 10
)

// errNoIdentity says that no identity is where it would be: one may be made where
// no credential needs it.
var errNoIdentity = errors.New("there is none")

// errForbidden says that the identity is where it may not be read from.
var errForbidden = errors.New("it is in the keyring, which DRAWBRIDGE_KEYRING=file forbids to use")

// record says in the clear which identity the credentials are encrypted to and
// where it is. Without it, a keyring that is locked or gone would look like one
// that has never held anything, and another identity like the right one.
type record struct {
	Version    int      `json:"version"`
	Backend    Backend  `json:"backend"`
	Account    string   `json:"account,omitempty"` // in the keyring
	Recipients []string `json:"recipients"`        // public keys; two while a rotation is on its way
}

// keys are the identities of a store. There are two while a rotation is on its
// way; the last one is what is encrypted to.
type keys []*age.X25519Identity

func (k keys) current() *age.X25519Identity { return k[len(k)-1] }

func (k keys) recipients() []string {
	var all []string
	for _, id := range k {
		all = append(all, id.Recipient().String())
	}
	return all
}

// text is what the back ends hold: a line for each identity.
func (k keys) text() string {
	var b strings.Builder
	for _, id := range k {
		b.WriteString(id.String() + "\n")
	}
	return b.String()
}

// parseKeys is the reverse of text. Its errors do not quote what it reads.
func parseKeys(text string) (keys, error) {
	ids, err := age.ParseIdentities(strings.NewReader(text))
	if err != nil || len(ids) > 2 {
		return nil, errors.New("what is stored there is not an identity")
	}
	var k keys
	for _, id := range ids {
		x, ok := id.(*age.X25519Identity)
		if !ok {
			return nil, errors.New("what is stored there is an identity of another kind")
		}
		k = append(k, x)
	}
	return k, nil
}

// accountOf returns the account of a home in the keyring, which all homes of a
// user share.
func accountOf(home string) string {
	sum := sha256.Sum256([]byte(home))
	return "home-" + hex.EncodeToString(sum[:8])
}

func (s *Store) readRecord() (*record, error) {
	data, err := readPrivate(filepath.Join(s.root, recordName), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // having no record is not an error
	}
	if err != nil {
		return nil, s.identityError(err, "mend that file, or bring it back from a backup")
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil || r.Version != 1 || len(r.Recipients) == 0 || (r.Backend != BackendKeyring && r.Backend != BackendFile) {
		return nil, s.identityError(fmt.Errorf("%s is malformed or of a newer version", filepath.Join(s.root, recordName)), "bring it back from a backup, or use the newer Drawbridge")
	}
	return &r, nil
}

func (s *Store) writeRecord(b Backend, account string, recipients []string) error {
	data, err := json.MarshalIndent(record{Version: 1, Backend: b, Account: account, Recipients: recipients}, "", "\t")
	if err != nil {
		return err
	}
	return writeAtomic(filepath.Join(s.root, recordName), append(data, '\n'))
}

// loadKeys returns the identities of the store, and makes none. The error matches
// errNoIdentity where none is in its place.
func (s *Store) loadKeys(ctx context.Context) (keys, error) {
	r, err := s.readRecord()
	if err != nil {
		return nil, err
	}
	if r == nil {
		k, _, err := s.findKeys(ctx)
		return k, err
	}
	if s.backend == BackendFile && r.Backend == BackendKeyring {
		return nil, s.identityError(errForbidden,
			fmt.Sprintf("unset DRAWBRIDGE_KEYRING, or move %s away and run `drawbridge grant NAME` for each grant", s.root))
	}
	s.mu.Lock()
	cached := s.cached
	s.mu.Unlock()
	if cached != nil && slices.Contains(r.Recipients, cached.current().Recipient().String()) {
		return cached, nil
	}
	k, err := s.readKeys(ctx, r.Backend, r.Account)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(r.Recipients, k.current().Recipient().String()) {
		return nil, s.identityError(fmt.Errorf("that in %s is another one than the grants were encrypted to", s.place(r.Backend, r.Account)), "put the right one back")
	}
	s.cache(k)
	return k, nil
}

func (s *Store) cache(k keys) {
	s.mu.Lock()
	s.cached = k
	s.mu.Unlock()
}

// findKeys looks for identities where there is no record: in a new home, after a
// crash between the making of the identity and of the record, or when the record
// was lost.
func (s *Store) findKeys(ctx context.Context) (keys, Backend, error) {
	if s.backend != BackendFile {
		k, err := s.readKeys(ctx, BackendKeyring, s.account)
		if err == nil || (!errors.Is(err, errNoIdentity) && !errors.Is(err, ErrNoKeyring)) || s.backend == BackendKeyring {
			return k, BackendKeyring, err
		}
	}
	k, err := s.readKeys(ctx, BackendFile, "")
	return k, BackendFile, err
}

// readKeys reads the identities from one place.
func (s *Store) readKeys(ctx context.Context, b Backend, account string) (keys, error) {
	text, err := s.readPlace(ctx, b, account)
	place := s.place(b, account)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrNoEntry):
		return nil, s.identityError(fmt.Errorf("%w in %s", errNoIdentity, place), "bring it back from a backup, or move "+s.root+" away and run `drawbridge grant NAME` for each grant")
	case errors.Is(err, ErrNoKeyring):
		return nil, s.identityError(fmt.Errorf("it is in %s: %w", place, err), "log in to the session that has the keyring, or start its service; for a new home, set DRAWBRIDGE_KEYRING=file")
	case err != nil && b == BackendKeyring:
		return nil, s.identityError(fmt.Errorf("read it from %s: %w", place, err), "unlock the keyring and try again; for a new home without one, set DRAWBRIDGE_KEYRING=file")
	case err != nil:
		return nil, s.identityError(err, "make "+place+" readable for this user alone")
	}
	k, err := parseKeys(text)
	if err != nil {
		return nil, s.identityError(fmt.Errorf("%s: %w", place, err), "bring it back from a backup")
	}
	return k, nil
}

func (s *Store) readPlace(ctx context.Context, b Backend, account string) (string, error) {
	if b == BackendKeyring {
		return s.keyring.get(ctx, account)
	}
	data, err := readPrivate(s.keyFile, maxKeys)
	return string(data), err
}

// writeKeys stores the identities in one place, and makes sure that they are
// there.
func (s *Store) writeKeys(ctx context.Context, b Backend, account string, k keys) error {
	var err error
	if b == BackendKeyring {
		err = s.keyring.set(ctx, account, k.text())
	} else {
		err = writeAtomic(s.keyFile, []byte(k.text()))
	}
	if err != nil {
		return fmt.Errorf("store the identity in %s: %w", s.place(b, account), err)
	}
	got, err := s.readKeys(ctx, b, account)
	if err != nil {
		return err
	}
	if !slices.Equal(got.recipients(), k.recipients()) {
		return s.identityError(fmt.Errorf("%s does not give back what was stored there", s.place(b, account)), "set DRAWBRIDGE_KEYRING=file")
	}
	return nil
}

// place names where the identity is, for a person.
func (s *Store) place(b Backend, account string) string {
	if b == BackendKeyring {
		return fmt.Sprintf("the keyring (service %s, account %s)", keyringService, account)
	}
	return s.keyFile
}

// ensureKeys returns the identities, and makes one where there is none and no
// credential needs it. The caller holds the lock.
func (s *Store) ensureKeys(ctx context.Context) (keys, error) {
	k, err := s.loadKeys(ctx)
	if err == nil {
		return k, s.ensureRecord(ctx)
	}
	if !errors.Is(err, errNoIdentity) && !errors.Is(err, ErrNoKeyring) && !errors.Is(err, errForbidden) {
		return nil, err
	}
	files, scanErr := s.allFiles()
	if scanErr != nil {
		return nil, scanErr
	}
	if len(files) > 0 {
		return nil, err
	}
	return s.makeKeys(ctx)
}

// ensureRecord records where the identity is, if a crash has kept the one who made
// it from that.
func (s *Store) ensureRecord(ctx context.Context) error {
	if r, err := s.readRecord(); r != nil || err != nil {
		return err
	}
	k, b, err := s.findKeys(ctx)
	if err != nil {
		return err
	}
	return s.writeRecord(b, s.accountIn(b), k.recipients())
}

func (s *Store) accountIn(b Backend) string {
	if b == BackendKeyring {
		return s.account
	}
	return ""
}

// makeKeys makes the identity of a store that has none. The identity is stored
// before it is recorded: after a crash in between, it is found.
func (s *Store) makeKeys(ctx context.Context) (keys, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("make an identity: %w", err)
	}
	k, b := keys{id}, BackendKeyring
	if s.backend == BackendFile {
		b = BackendFile
	}
	err = s.makeIn(ctx, b, k)
	if s.backend == BackendAuto && errors.Is(err, ErrNoKeyring) {
		b = BackendFile
		err = s.makeIn(ctx, b, k)
	}
	if err != nil {
		return nil, s.identityError(err, "unlock the keyring and try again; without one, set DRAWBRIDGE_KEYRING=file")
	}
	if err := s.writeRecord(b, s.accountIn(b), k.recipients()); err != nil {
		return nil, fmt.Errorf("record where the identity is: %w", err)
	}
	s.cache(k)
	return k, nil
}

// makeIn stores new identities in a place that is empty.
func (s *Store) makeIn(ctx context.Context, b Backend, k keys) error {
	if err := s.checkpoint("make identity"); err != nil {
		return err
	}
	switch _, err := s.readPlace(ctx, b, s.accountIn(b)); {
	case errors.Is(err, ErrNoEntry), errors.Is(err, fs.ErrNotExist):
	case err == nil:
		return fmt.Errorf("%s holds another identity already; move it away if nothing needs it", s.place(b, s.account))
	default:
		return err
	}
	return s.writeKeys(ctx, b, s.accountIn(b), k)
}

func (s *Store) identityError(cause error, next string) error {
	return &Error{Op: "open the grants in " + s.root, Kind: ErrIdentity, Err: cause, Next: next}
}

// seal encrypts a plaintext to the current identity.
func (k keys) seal(plain []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := age.Encrypt(&b, k.current().Recipient())
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// unseal is the reverse of seal, for any of the identities.
func (k keys) unseal(sealed []byte) ([]byte, error) {
	ids := make([]age.Identity, len(k))
	for i, id := range k {
		ids[i] = id
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), ids...)
	if err != nil {
		return nil, err
	}
	plain, err := readAtMost(r, MaxPlaintext)
	if err != nil {
		return nil, err
	}
	return plain, nil
}

// isOtherKey reports whether an error of unseal says that another identity is
// needed.
func isOtherKey(err error) bool {
	_, ok := errors.AsType[*age.NoIdentityMatchError](err)
	return ok
}

// homeOf returns the directory that a store's directory is in, by a path that
// does not depend on links.
func homeOf(dir string) (string, error) {
	home, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("open the grants: the home %s is not there", filepath.Dir(dir))
	}
	return home, err
}
