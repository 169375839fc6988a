package secret

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/secret/ssmtest"
)

// fakeOP puts a program that stands for the CLI of 1Password, which cannot sign in here,
// into PATH.
func fakeOP(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	const script = `#!/bin/sh
[ "$1 $2" = "read --no-newline" ] || { echo "[ERROR] unknown call: $*" >&2; exit 2; }
case "$3" in
op://Dev/key/token) printf 'value of the vault' ;;
op://Dev/Open\ AI/api\ key) printf 'value with spaces' ;;
op://Dev/none/token) echo '[ERROR] 2026/01/01 "none" isn'"'"'t an item. Specify the item with its UUID' >&2; exit 1 ;;
op://Dev/big/token) while :; do echo muchmuch; done ;;
op://Dev/slow/token) exec sleep 600 ;;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "op"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func revealed(values map[string]credential.Secret) map[string]string {
	all := map[string]string{}
	for name, value := range values {
		all[name] = value.Reveal()
	}
	return all
}

func TestSecretsAreFetchedFromEveryStore(t *testing.T) {
	fakeOP(t)
	server := ssmtest.Start(t, map[string]string{"/prod/db/url": "postgres://u:p@db/x"})
	server.Use(t)
	server.Fail(http.StatusInternalServerError, "InternalServerError") // once
	t.Setenv("SECRET_OF_THE_TEST", "value of the shell")
	got, err := New().Resolve(t.Context(), map[string]string{
		"A": "env://SECRET_OF_THE_TEST", "B": "op://Dev/key/token", "C": "op://Dev/Open AI/api key",
		"D": "ssm:///prod/db/url", "E": "ssm://eu-central-1/prod/db/url", "F": "env://SECRET_OF_THE_TEST",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"A": "value of the shell", "B": "value of the vault", "C": "value with spaces", "D": "postgres://u:p@db/x", "E": "postgres://u:p@db/x", "F": "value of the shell",
	}
	if diff := cmp.Diff(want, revealed(got)); diff != "" {
		t.Error(diff)
	}
	if n := server.Requests(); n != 3 {
		t.Errorf("there were %d requests, want two and one that failed", n)
	}
}

// Every secret that is not there is named, with what mends it, and no error holds what
// was found.
func TestSecretsThatAreNotThere(t *testing.T) {
	fakeOP(t)
	server := ssmtest.Start(t, nil)
	server.Use(t)
	t.Setenv("SHORT_SECRET", "hunter2")
	t.Setenv("EMPTY_SECRET", "")
	t.Setenv("BIG_SECRET", strings.Repeat("x", MaxBytes+1))
	t.Setenv("BINARY_SECRET", "\xff\xfe123456789")
	for reference, want := range map[string][]string{
		"env://SECRET_THAT_NOBODY_SET": {"no variable SECRET_THAT_NOBODY_SET", "set it where drawbridge is started"},
		"env://SHORT_SECRET":           {"fewer than 8 bytes", "put it into env"},
		"env://EMPTY_SECRET":           {"it is empty"},
		"env://BIG_SECRET":             {"more than 8192 bytes"},
		"env://BINARY_SECRET":          {"no text"},
		"op://Dev/none/token":          {`1Password does not give it: [ERROR] 2026/01/01 "none" isn't an item`, "op read"},
		"op://Dev/big/token":           {"more than 8192 bytes"},
		"ssm:///prod/none":             {"AWS has no such parameter"},
	} {
		_, err := New().Resolve(t.Context(), map[string]string{"A": reference})
		told, ok := errors.AsType[*Error](err)
		if !ok || told.Variable != "A" || told.Reference != reference {
			t.Errorf("%s: %v", reference, err)
			continue
		}
		for _, part := range append(want, reference) {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", reference, err, part)
			}
		}
		if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "muchmuch") {
			t.Errorf("%s: %q holds what was found", reference, err)
		}
	}
	_, err := New().Resolve(t.Context(), map[string]string{"A": "env://SHORT_SECRET", "B": "ssm:///prod/none", "C": "op://Dev/key/token"})
	if err == nil || !strings.Contains(err.Error(), "for A") || !strings.Contains(err.Error(), "for B") || strings.Contains(err.Error(), "for C") {
		t.Errorf("of two that are missing: %v", err)
	}
}

func TestAWSSaysWhyThereIsNoParameter(t *testing.T) {
	server := ssmtest.Start(t, map[string]string{"/a": "value of the store"})
	server.Use(t)
	ask := func() error {
		_, err := New().Resolve(t.Context(), map[string]string{"A": "ssm:///a"})
		return err
	}
	for code, want := range map[string]string{
		"AccessDeniedException": "kms:Decrypt", "ExpiredTokenException": "log in anew", "SomethingElse": "status 400",
	} {
		server.Fail(http.StatusBadRequest, code)
		if err := ask(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "what AWS says") {
			t.Errorf("%s: %v", code, err)
		}
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "another")
	if err := ask(); err == nil || !strings.Contains(err.Error(), "does not accept the credentials") || strings.Contains(err.Error(), "another") {
		t.Errorf("with another key: %v", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	if err := ask(); err == nil || !strings.Contains(err.Error(), "no credentials for AWS") {
		t.Errorf("without keys: %v", err)
	}
	t.Setenv("AWS_REGION", "")
	if err := ask(); err == nil || !strings.Contains(err.Error(), "no region is known") {
		t.Errorf("without a region: %v", err)
	}
	t.Setenv("AWS_ENDPOINT_URL_SSM", "http://198.51.100.1")
	t.Setenv("AWS_REGION", ssmtest.Region)
	if err := ask(); err == nil || !strings.Contains(err.Error(), "no URL of HTTPS") {
		t.Errorf("in the clear: %v", err)
	}
}

func TestSlowStoresAreNotWaitedFor(t *testing.T) {
	fakeOP(t)
	r := New()
	r.timeout = 100 * time.Millisecond
	_, err := r.Resolve(t.Context(), map[string]string{"A": "op://Dev/slow/token"})
	if err == nil || !strings.Contains(err.Error(), "it was not there within 100ms") {
		t.Errorf("a slow one: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := New().Resolve(ctx, map[string]string{"A": "op://Dev/slow/token"}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := New().Resolve(t.Context(), map[string]string{"A": "op://Dev/key/token"}); err == nil || !strings.Contains(err.Error(), "there is no program op") {
		t.Errorf("without op: %v", err)
	}
}

func TestSecretsTogetherAreBounded(t *testing.T) {
	references := map[string]string{}
	for i := range MaxTotal/MaxBytes + 1 {
		name := fmt.Sprintf("PART_%d_OF_TOO_MUCH", i)
		t.Setenv(name, strings.Repeat("x", MaxBytes))
		references[name] = "env://" + name
	}
	if _, err := New().Resolve(t.Context(), references); err == nil || !strings.Contains(err.Error(), "the limit is 32768") {
		t.Errorf("too much: %v", err)
	}
	for i := range MaxSecrets + 1 {
		references[fmt.Sprint("V", i)] = "env://PATH"
	}
	if _, err := New().Resolve(t.Context(), references); err == nil || !strings.Contains(err.Error(), "the limit is 64") {
		t.Errorf("too many: %v", err)
	}
}

func TestPatternsNameWhatTheySay(t *testing.T) {
	t.Parallel()
	for pattern, refs := range map[string]map[string]bool{
		"env://A":              {"env://A": true, "env://AB": false, "env://B": false},
		"op://Dev/*":           {"op://Dev/item/field": true, "op://Dev/item/section/field": true, "op://Development/item/field": false, "op://Prod/item/field": false},
		"op://Dev/item/*":      {"op://Dev/item/field": true, "op://Dev/items/field": false},
		"op://Dev/item/field":  {"op://Dev/item/field": true, "op://Dev/item/field2": false},
		"ssm:///prod/*":        {"ssm:///prod/db": true, "ssm:///product": false, "ssm://eu-west-1/prod/db": false},
		"ssm://eu-west-1/db/*": {"ssm://eu-west-1/db/url": true, "ssm://eu-west-2/db/url": false},
	} {
		p, err := ParsePattern(pattern)
		if err != nil {
			t.Errorf("%s: %v", pattern, err)
			continue
		}
		for text, want := range refs {
			ref, err := Parse(text)
			if err != nil || p.Matches(ref) != want {
				t.Errorf("%s matches %s: %v, want %v; %v", pattern, text, !want, want, err)
			}
		}
	}
	for _, pattern := range []string{"", "*", "env://*", "env://A*", "op://*", "op:///*", "op://Dev*", "op://*/item/*", "op://Dev/../*", "ssm://*", "ssm:///prod*", "s3cr3t-0123456789", "http://a/*"} {
		if _, err := ParsePattern(pattern); err == nil {
			t.Errorf("%q is taken for a pattern", pattern)
		} else if strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("the error quotes it: %v", err)
		}
	}
	for _, text := range []string{"op://Dev/../Prod/item/field", "op://Dev/./field", "op://Dev/item", "env://A-B", "env://", "ssm://prod", "ssm:///a\x00b", "op://Dev/item/fi\neld"} {
		if _, err := Parse(text); err == nil {
			t.Errorf("%q is taken for a reference", text)
		}
	}
}

func TestFileOfSecretsIsOfOneRun(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	store, err := credential.Open(credential.Dir(home), credential.Options{Backend: credential.BackendFile})
	if err != nil {
		t.Fatal(err)
	}
	const run, value = "run_0123456789ab", "one=value\nof two lines"
	path := filepath.Join(home, "secrets.age")
	if err := WriteFile(t.Context(), store, path, run, map[string]credential.Secret{"A": credential.NewSecret(value), "B": credential.NewSecret("another value")}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if info, _ := os.Stat(path); err != nil || strings.Contains(string(data), "value") || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has %q, %v, %v", data, info.Mode(), err)
	}
	got, err := ReadFile(t.Context(), store, path, run)
	if diff := cmp.Diff(map[string]string{"A": value, "B": "another value"}, revealed(got)); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if _, err := ReadFile(t.Context(), store, path, "run_ba9876543210"); err == nil || !strings.Contains(err.Error(), "another run's") {
		t.Errorf("for another run: %v", err)
	}
	if err := store.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(t.Context(), store, path, run); !errors.Is(err, credential.ErrDecrypt) || !strings.Contains(err.Error(), "create it again") {
		t.Errorf("after a rotation: %v", err)
	}
}
