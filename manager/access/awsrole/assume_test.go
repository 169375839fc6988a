package awsrole

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/access/awsrole/ststest"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

const role = "arn:aws:iam::123456789012:role/agents"

// granted is a grant that is good with a server.
func granted(t *testing.T, s *ststest.Server, change ...func(map[string]string)) Grant {
	t.Helper()
	fields := map[string]string{FieldRole: role, FieldRegion: "eu-central-1", FieldEndpoint: s.URL}
	for _, c := range change {
		c(fields)
	}
	keys := Keys{AccessKeyID: credential.NewSecret(ststest.AccessKeyID), SecretAccessKey: credential.NewSecret(ststest.SecretAccessKey)}
	if fields[FieldProfile] != "" {
		keys = Keys{}
	}
	g, err := New("aws", fields, keys)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestSessionIsBegunWithTheKeysOfTheGrant(t *testing.T) {
	t.Parallel()
	s := ststest.Start(t)
	g := granted(t, s, func(f map[string]string) { f[FieldExternalID], f[FieldDuration] = "tenant/1", "45m" })
	got, err := Client{Roots: s.Roots}.Assume(t.Context(), g, "drawbridge-run_000000000001")
	if err != nil {
		t.Fatal(err)
	}
	given := s.Sessions()[0]
	if got.AccessKeyID != given.ID || got.SecretAccessKey.Reveal() != given.Secret || got.SessionToken.Reveal() != given.Token || got.Expires.Unix() != given.Expires.Unix() {
		t.Errorf("got %+v, want %+v", got, given)
	}
	want := []ststest.Call{{RoleARN: role, SessionName: "drawbridge-run_000000000001", ExternalID: "tenant/1", Duration: "2700", Region: "eu-central-1"}}
	if diff := cmp.Diff(want, s.Calls()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if text := fmt.Sprintf("%v %+v %#v", got, got, g); strings.Contains(text, given.Secret) || strings.Contains(text, given.Token) || strings.Contains(text, ststest.SecretAccessKey) {
		t.Errorf("a secret prints: %s", text)
	}
}

// profileOf writes a configuration of the host and returns the fields of a profile.
func profileOf(t *testing.T, profile, config, credentials string) func(map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"config": config, "credentials": credentials} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return func(f map[string]string) {
		f[FieldProfile], f[fieldConfig], f[fieldCredentials] = profile, filepath.Join(dir, "config"), filepath.Join(dir, "credentials")
	}
}

// The profile of the host counts, and not what is in the environment of this process.
func TestSessionIsBegunWithAProfileOfTheHost(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAOFSOMEBODYELSE01")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "another")
	t.Setenv("AWS_PROFILE", "other")
	t.Setenv("AWS_REGION", "us-west-2")
	s := ststest.Start(t)
	keys := fmt.Sprintf("aws_access_key_id = %s\naws_secret_access_key = %s\n", ststest.AccessKeyID, ststest.SecretAccessKey)
	process := `credential_process = printf '{"Version":1,"AccessKeyId":"` + ststest.AccessKeyID + `","SecretAccessKey":"` + ststest.SecretAccessKey + `"}'`
	for name, change := range map[string]func(map[string]string){
		"keys in the credentials": profileOf(t, "dev", "[profile dev]\nregion = eu-west-1\n", "[dev]\n"+keys),
		"keys in the config":      profileOf(t, "dev", "[profile dev]\n"+keys, ""),
		"the default one":         profileOf(t, "default", "", "[default]\n"+keys),
		"a program":               profileOf(t, "dev", "[profile dev]\n"+process+"\n", ""),
	} {
		before := len(s.Calls())
		if _, err := (Client{Roots: s.Roots}).Assume(t.Context(), granted(t, s, change), "name"); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if calls := s.Calls(); len(calls) != before+1 || calls[before].Region != "eu-central-1" {
			t.Errorf("%s: %+v", name, calls)
		}
	}
	for name, change := range map[string]func(map[string]string){
		"no such profile": profileOf(t, "dev", "[profile other]\n", ""),
		"no sign-in":      profileOf(t, "dev", "[profile dev]\nsso_session = x\nsso_account_id = 123456789012\nsso_role_name = r\n[sso-session x]\nsso_region = eu-central-1\nsso_start_url = https://127.0.0.1:1/\n", ""),
		"a bad program":   profileOf(t, "dev", "[profile dev]\ncredential_process = sh -c 'exit 1'\n", ""),
	} {
		_, err := (Client{Roots: s.Roots}).Assume(t.Context(), granted(t, s, change), "name")
		why, ok := errors.AsType[*Error](err)
		if !ok || why.Code != CodeSource || strings.Contains(err.Error(), "s3cr3t") || !strings.Contains(err.Error(), "aws sso login --profile dev") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestErrorsOfAWSSayWhatTheyMeanAndQuoteNoSecret(t *testing.T) {
	t.Parallel()
	canonical := "Canonical String was 'x-amz-security-token:T0p-s3cr3t'"
	for name, test := range map[string]struct {
		answer   http.HandlerFunc
		code     string
		denied   bool
		attempts int // 0 for any number within the bound
		want     string
	}{
		"not allowed":   {ststest.Fail(403, "AccessDenied", "User: arn:aws:iam::1:user/a is not authorized"), "AccessDenied", true, 1, "user/a is not authorized"},
		"too long":      {ststest.Fail(400, "ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration"), "ValidationError", true, 1, "MaxSessionDuration"},
		"bad signature": {ststest.Fail(403, "SignatureDoesNotMatch", canonical), "SignatureDoesNotMatch", true, 1, "drawbridge grant aws"},
		"expired":       {ststest.Fail(403, "ExpiredToken", canonical), "ExpiredToken", true, 1, "with ones that are good"},
		"throttled":     {ststest.Fail(400, "Throttling", "Rate exceeded"), "Throttling", false, maxAttempts, "try again later"},
		"down":          {ststest.Fail(503, "ServiceUnavailable", canonical), "ServiceUnavailable", false, maxAttempts, "try again later"},
		"strange code":  {ststest.Fail(403, "a b\nc", canonical), "abc", false, 1, "try again later"},
		"no XML":        {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>" + canonical)) }, CodeAnswer, false, 1, "no answer of STS"},
		"nothing":       {func(http.ResponseWriter, *http.Request) {}, CodeAnswer, false, 1, "no answer of STS"},
		"no keys": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>A</AccessKeyId></Credentials></AssumeRoleResult></AssumeRoleResponse>"))
		}, CodeAnswer, false, 1, "no answer of STS"},
		"endless": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>"))
			for i := 0; i < 4*maxAnswer; i += 1 << 10 {
				if _, err := w.Write([]byte(strings.Repeat("A", 1<<10))); err != nil {
					return
				}
			}
		}, CodeAnswer, false, 0, "no answer of STS"}, // an answer that is given up in its middle may look like a lost connection
		"redirect": {func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, "https://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}, CodeAnswer, false, 1, "no answer of STS"},
		"broken off": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, CodeNetwork, false, maxAttempts, "could not be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := ststest.Start(t)
			s.Answer(test.answer)
			_, err := Client{Roots: s.Roots}.Assume(t.Context(), granted(t, s), "name")
			why, ok := errors.AsType[*Error](err)
			if !ok || why.Code != test.code || why.IsDenied != test.denied || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v (%+v)", err, why)
			}
			if strings.Contains(err.Error(), "s3cr3t") || strings.Contains(why.Reason, "user/a") || strings.ContainsAny(err.Error(), "\n") {
				t.Errorf("it says %q", err)
			}
			if n := s.Attempts(); n > maxAttempts || test.attempts != 0 && n != test.attempts {
				t.Errorf("%d attempts", n)
			}
		})
	}
}

func TestSlowServerIsGivenUp(t *testing.T) {
	t.Parallel()
	s := ststest.Start(t)
	entered := make(chan struct{}, maxAttempts)
	s.Answer(func(_ http.ResponseWriter, req *http.Request) {
		entered <- struct{}{}
		<-req.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-entered
		cancel()
	}()
	_, err := Client{Roots: s.Roots}.Assume(ctx, granted(t, s), "name")
	if why, ok := errors.AsType[*Error](err); !ok || why.Code != CodeNetwork || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("got %v", err)
	}
}

func TestServerHasToBeTheOneThatItSays(t *testing.T) {
	t.Parallel()
	s, other := ststest.Start(t), ststest.Start(t)
	_, err := Client{Roots: other.Roots}.Assume(t.Context(), granted(t, s), "name")
	if why, ok := errors.AsType[*Error](err); !ok || why.Code != CodeNetwork || !strings.Contains(err.Error(), "certificate") || s.Attempts() != 0 {
		t.Errorf("got %v", err)
	}
	if _, err := (Client{Roots: s.Roots}).Assume(t.Context(), granted(t, s), "a b"); err == nil || s.Attempts() != 0 {
		t.Errorf("a name that none can have: %v", err)
	}
}

// Keys that are not those of the server's user are found out: it does check.
func TestServerOfTheTestsChecksSignatures(t *testing.T) {
	t.Parallel()
	s := ststest.Start(t)
	g := granted(t, s)
	g.Keys.SecretAccessKey = credential.NewSecret("another")
	_, err := Client{Roots: s.Roots}.Assume(t.Context(), g, "name")
	if why, ok := errors.AsType[*Error](err); !ok || why.Code != "SignatureDoesNotMatch" || len(s.Calls()) != 0 {
		t.Errorf("got %v", err)
	}
	g.Keys.SessionToken, g.Keys.AccessKeyID = credential.NewSecret("token"), credential.NewSecret("ASIADRAWBRIDGE000001")
	if _, err := (Client{Roots: s.Roots}).Assume(t.Context(), g, "name"); err == nil {
		t.Error("keys of nobody are good")
	}
}
