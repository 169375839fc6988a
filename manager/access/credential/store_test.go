package credential

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestACredentialComesBackAsItWasStored(t *testing.T) {
	t.Parallel()
	dir := newHome(t)
	put(t, open(t, dir, inFile), github(), named("ssh:github.com"), named("mcp:a/b@c"))
	s := open(t, dir, inFile)
	for _, g := range []Grant{"github", "ssh:github.com", "mcp:a/b@c"} {
		same(t, named(g), get(t, s, g))
	}

	changed := github()
	changed.Values = map[string]Secret{"token": NewSecret("another"), "more": NewSecret("two")}
	changed.RefreshToken, changed.ExpiresAt, changed.Metadata, changed.Scopes = Secret{}, time.Time{}, nil, nil
	put(t, s, changed)
	same(t, changed, get(t, open(t, dir, inFile), "github"))
}

func TestNobodyFindsTheSecretInTheDirectory(t *testing.T) {
	t.Parallel()
	dir := newHome(t)
	s := open(t, dir, inFile)
	put(t, s, github(), named("mcp:context7"))
	if err := errors.Join(s.Allow(t.Context(), "github"), s.Rotate(t.Context())); err != nil {
		t.Fatal(err)
	}
	for path, content := range snapshot(t, filepath.Dir(dir)) {
		for _, form := range []string{secretText, base64.StdEncoding.EncodeToString([]byte(secretText)), "octocat"} {
			if strings.Contains(content, form) || strings.Contains(path, form) {
				t.Errorf("%s holds %s", path, form)
			}
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	for _, d := range []string{dir} {
		if info, err := os.Stat(d); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", d, info.Mode(), err)
		}
	}
}

func TestNothingPrintsASecret(t *testing.T) {
	t.Parallel()
	c := github()
	hidden := struct{ inner Credential }{c}
	printed := []string{c.Values["token"].String(), c.RefreshToken.GoString()}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%10.3s"} {
		printed = append(printed, fmt.Sprintf(format, c), fmt.Sprintf(format, &c), fmt.Sprintf(format, hidden), fmt.Sprintf(format, c.Values["token"]))
	}
	marshalled, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	printed = append(printed, string(marshalled))
	for _, text := range printed {
		if strings.Contains(text, secretText) || strings.Contains(text, fmt.Sprintf("%x", secretText)) {
			t.Errorf("it printed %s", text)
		}
	}
	if !strings.Contains(string(marshalled), masked) || c.Values["token"].Reveal() != secretText {
		t.Errorf("marshalled: %s", marshalled)
	}
}

func TestAGrantThatIsNotThereIsSaidSo(t *testing.T) {
	t.Parallel()
	s := open(t, newHome(t), Options{Keyring: newFaultyKeyring()})
	_, err := s.Get(t.Context(), "npm:registry.npmjs.org")
	wantError(t, err, ErrNotFound, "run `drawbridge grant npm:registry.npmjs.org`")
	wantError(t, s.Delete(t.Context(), "github"), ErrNotFound)
}

func TestNamesCannotLeadOutOfTheDirectory(t *testing.T) {
	t.Parallel()
	s := open(t, newHome(t), inFile)
	for _, name := range []string{
		"", ".", "..", "../x", "/etc/passwd", "a/../b", "a//b", "a/", "a/.", "A", "gíthub", "a b", "a\x00", "a\nb", "a%2fb", "-a", ":x", "a\\b",
		strings.Repeat("a", 300), strings.Repeat("a:", 60),
	} {
		if _, err := ParseGrant(name); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", name, err)
		}
		wantError(t, s.Put(t.Context(), named(Grant(name))), ErrName)
		_, err := s.Get(t.Context(), Grant(name))
		wantError(t, err, ErrName)
		wantError(t, s.Delete(t.Context(), Grant(name)), ErrName)
		wantError(t, s.Allow(t.Context(), Grant(name)), ErrName)
	}
	for _, name := range []string{"github", "ssh:github.com", "mcp:context7", "a/b", "a..b", "x@y", "0-_.@:/x", strings.Repeat("a", 150)} {
		g, err := ParseGrant(name)
		if err != nil {
			t.Errorf("%q: %v", name, err)
		}
		file := fileName(g)
		if back, ok := grantOf(file); !ok || back != g || filepath.Base(file) != file {
			t.Errorf("%q is in %q, which is that of %q", name, file, back)
		}
	}
	for _, profile := range []string{"..", "a/b", "-a", "a.b", strings.Repeat("a", 300)} {
		if _, err := Open(newHome(t), Options{Profile: profile}); !errors.Is(err, ErrName) {
			t.Errorf("profile %q: %v", profile, err)
		}
	}
	if g := Grant("mcp:a:b"); g.Provider() != "mcp" || g.Instance() != "a:b" || Grant("github").Instance() != "" {
		t.Error("the parts of a name")
	}
}

func TestProfilesDoNotMeet(t *testing.T) {
	t.Parallel()
	dir := newHome(t)
	work := open(t, dir, Options{Profile: "work", Backend: BackendFile})
	put(t, work, github())
	s := open(t, dir, inFile)
	_, err := s.Get(t.Context(), "github")
	wantError(t, err, ErrNotFound)
	same(t, github(), get(t, work, "github"))

	// The same key opens both, and so the profile has to be in the file.
	copyFile(t, work.path("github"), s.path("github"))
	_, err = s.Get(t.Context(), "github")
	wantError(t, err, ErrDecrypt, "another profile")
}

func TestSwappedFilesAreFoundOut(t *testing.T) {
	t.Parallel()
	s := open(t, newHome(t), inFile)
	put(t, s, named("one"), named("two"))
	copyFile(t, s.path("one"), s.path("two"))
	_, err := s.Get(t.Context(), "two")
	wantError(t, err, ErrDecrypt, s.path("two"), "holds another grant", "run `drawbridge grant two`")
	get(t, s, "one")
}

func TestAFileThatIsDamagedIsAnErrorThatSaysSo(t *testing.T) {
	t.Parallel()
	dir := newHome(t)
	s := open(t, dir, inFile)
	put(t, s, named("fine"), github())
	whole, err := os.ReadFile(s.path("github"))
	if err != nil {
		t.Fatal(err)
	}
	damaged := map[string][]byte{
		"empty": {}, "text": []byte("hello"), "long": bytes.Repeat([]byte("x"), maxFile+1), "appended": append(bytes.Clone(whole), 'x'),
	}
	for n := 1; n < len(whole); n += 13 {
		damaged[fmt.Sprintf("cut at %d", n)] = whole[:n]
		flipped := bytes.Clone(whole)
		flipped[n] ^= 1
		damaged[fmt.Sprintf("flipped at %d", n)] = flipped
	}
	for what, content := range damaged {
		if err := os.WriteFile(s.path("github"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(t.Context(), "github"); !errors.Is(err, ErrDecrypt) || !strings.Contains(err.Error(), "run `drawbridge grant github`") || !strings.Contains(err.Error(), s.path("github")) {
			t.Errorf("%s: %v", what, err)
		}
	}
	entries, err := s.List(t.Context())
	if err != nil || len(entries) != 2 || entries[0].State != StateOK || entries[1].State != StateUnreadable || entries[1].Reason == "" {
		t.Errorf("list: %+v, %v", entries, err)
	}
	wantError(t, s.Rotate(t.Context()), ErrDecrypt, "revoke github")
	put(t, s, github()) // mends it
	get(t, s, "github")
}

func TestAFileThatOthersMayUseIsRefused(t *testing.T) {
	t.Parallel()
	dir := newHome(t)
	s := open(t, dir, inFile)
	put(t, s, github())
	for path, mode := range map[string]fs.FileMode{s.path("github"): 0o640, s.keyFile: 0o604, filepath.Join(dir, recordName): 0o660} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := open(t, dir, inFile).Get(t.Context(), "github")
		wantError(t, err, ErrUnsafe, "run `chmod 600 "+path)
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, mode := range []fs.FileMode{0o750, 0o705, 0o720, 0o777} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		_, err := Open(dir, inFile)
		wantError(t, err, ErrUnsafe, "run `chmod 700 "+dir)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// A link, a directory and a pipe are not read.
	for what, make := range map[string]func(path string) error{
		"link":      func(path string) error { return os.Symlink(s.keyFile, path) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"pipe":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
	} {
		path := s.path("odd")
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(t.Context(), "odd"); err == nil {
			t.Errorf("a %s was read", what)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheListTellsStatesAndNoSecrets(t *testing.T) {
	t.Parallel()
	s := open(t, newHome(t), inFile)
	expired := named("expired")
	expired.ExpiresAt = time.Now().Add(-time.Hour)
	put(t, s, named("mcp:z"), expired, github())
	if err := os.WriteFile(filepath.Join(s.dir, "Stray.age"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	entries, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]State{}
	for _, e := range entries {
		got[e.File] = e.State
	}
	same(t, map[string]State{"Stray.age": StateUnreadable, "expired.age": StateExpired, "github.age": StateOK, "mcp%3Az.age": StateOK}, got)
	want := entryOf(github(), "github.age", time.Now())
	same(t, want, entries[2])
	if text := fmt.Sprintf("%+v", entries); strings.Contains(text, secretText) {
		t.Errorf("it holds the secret: %s", text)
	}
}

func TestWhatCannotBeAGoodCredentialIsNotStored(t *testing.T) {
	t.Parallel()
	s := open(t, newHome(t), inFile)
	for what, change := range map[string]func(c *Credential){
		"no provider":   func(c *Credential) { c.Provider = "" },
		"no values":     func(c *Credential) { c.Values, c.Metadata = nil, nil },
		"empty value":   func(c *Credential) { c.Values = map[string]Secret{"token": {}} },
		"newline":       func(c *Credential) { c.Values["token"] = NewSecret(secretText + "\n") },
		"not text":      func(c *Credential) { c.Values["token"] = NewSecret(secretText + "\xff") },
		"no source":     func(c *Credential) { c.Source = "argv" },
		"secret beside": func(c *Credential) { c.Metadata["copy"] = secretText },
		"year 10000":    func(c *Credential) { c.ExpiresAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"too large":     func(c *Credential) { c.Metadata["more"] = strings.Repeat("x", MaxPlaintext) },
	} {
		c := github()
		change(&c)
		err := s.Put(t.Context(), c)
		if !errors.Is(err, ErrInvalid) || strings.Contains(err.Error(), secretText) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if files := snapshot(t, filepath.Dir(s.dir)); len(files) != 0 {
		t.Errorf("it left %v", namesOf(files))
	}
}

func TestThereIsAnEndToTheNumberOfGrants(t *testing.T) {
	t.Parallel()
	s := open(t, newHome(t), inFile)
	put(t, s, github())
	for i := range MaxGrants - 1 {
		if err := os.WriteFile(s.path(Grant(fmt.Sprintf("g%d", i))), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, s.Put(t.Context(), named("one-more")), ErrLimit, "drawbridge revoke")
	put(t, s, github()) // one that is there is replaced
}

func TestAgentsMayUseWhatThePersonAllowed(t *testing.T) {
	t.Parallel()
	dir := newHome(t)
	s := open(t, dir, inFile)
	put(t, s, github())
	allowed := func() []Grant {
		t.Helper()
		all, err := open(t, dir, inFile).Allowed()
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	same(t, []Grant(nil), allowed())
	if err := errors.Join(s.Allow(t.Context(), "npm", "github"), s.Allow(t.Context(), "github")); err != nil {
		t.Fatal(err)
	}
	same(t, []Grant{"github", "npm"}, allowed())
	if err := s.Disallow(t.Context(), "npm", "never"); err != nil {
		t.Fatal(err)
	}
	same(t, []Grant{"github"}, allowed())
	work, err := open(t, dir, Options{Profile: "work", Backend: BackendFile}).Allowed()
	if err != nil || len(work) != 0 {
		t.Errorf("another profile: %v, %v", work, err)
	}

	// A grant that is stored anew is another one.
	if err := s.Delete(t.Context(), "github"); err != nil {
		t.Fatal(err)
	}
	same(t, []Grant{}, allowed())

	put(t, s, github())
	for _, content := range []string{"", "{", `{"version":2,"grants":[]}`, `{"version":1,"grants":["../x"]}`} {
		if err := os.WriteFile(filepath.Join(dir, allowedName), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if all, err := s.Allowed(); err == nil {
			t.Errorf("%q allows %v", content, all)
		}
	}
	// The secret goes even so, and the error says what did not.
	if err := s.Delete(t.Context(), "github"); err == nil {
		t.Error("deleted without a word about the malformed file")
	}
	if _, err := os.Lstat(s.path("github")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
}

func TestAWriterWaitsForTheOthersAndGivesUpInTime(t *testing.T) {
	t.Parallel()
	s := open(t, newHome(t), inFile)
	unlock, err := lock(t.Context(), s.root)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantError(t, s.Put(ctx, github()), ErrBusy)
	time.AfterFunc(50*time.Millisecond, unlock)
	put(t, s, github())
}

func TestWhatADeadWriterLeftIsRemoved(t *testing.T) {
	t.Parallel()
	s := open(t, newHome(t), inFile)
	left := filepath.Join(s.dir, tempPrefix+"123")
	fresh := filepath.Join(s.dir, tempPrefix+"456")
	for _, path := range []string{left, fresh} {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-2 * tempAge)
	if err := os.Chtimes(left, old, old); err != nil {
		t.Fatal(err)
	}
	put(t, s, github())
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Error(err)
	}
}

func TestAFailureAtAnyStepOfAPutLosesNothing(t *testing.T) {
	t.Parallel()
	dir := newHome(t)
	put(t, open(t, dir, inFile), github())
	s := open(t, dir, inFile)
	s.checkpoint = func(step string) error { return fmt.Errorf("failure before %q", step) }
	changed := github()
	changed.Values["token"] = NewSecret("another")
	for _, err := range []error{s.Put(t.Context(), changed), s.Delete(t.Context(), "github"), s.Allow(t.Context(), "github")} {
		if err == nil {
			t.Error("the failure was not told")
		}
	}
	same(t, github(), get(t, open(t, dir, inFile), "github"))
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
