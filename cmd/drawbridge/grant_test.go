package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

func TestAGrantIsTakenFromStandardInput(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, input string }{
		{"alone", acmeSecret},
		{"with a line end", acmeSecret + "\r\n"},
		{"as a field", "token=" + acmeSecret + "\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newService(t, acmeSecret)
			c := newGrantCLI(t, s)
			got := c.runInput(tt.input, "grant", "acme")
			want := "GRANT         acme\n" +
				"provider      acme\n" +
				"service       Acme\n" +
				"stored        from standard input\n" +
				"checked       the service accepts it\n" +
				"sent to       api.acme.example in Authorization\n" +
				"sandbox sees  $ACME_TOKEN = acme_drawbridge0000000000000\n" +
				"agents        may not use it; `drawbridge grant allow acme` lets them\n"
			if diff := cmp.Diff(result{want, "", 0}, got, cmp.AllowUnexported(result{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			c.expectStored("acme", acmeSecret, credential.SourceStdin)
			c.expectSecret(acmeSecret, got.out, got.err)
			if diff := cmp.Diff([]string{"api.acme.example/me"}, s.requests()); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatIsNoCredentialOnStandardInputIsNotStored(t *testing.T) {
	t.Parallel()
	s := newService(t, acmeSecret)
	c := newGrantCLI(t, s)
	for name, input := range map[string]string{
		"standard input is empty":                    " \n",
		"standard input has several lines":           acmeSecret + "\n" + acmeSecret + "\n",
		"the value does not look like a token":       acmeSecret[:len(acmeSecret)-1],
		"token is the placeholder that":              "acme_drawbridge0000000000000",
		"standard input has more than 65536 bytes":   strings.Repeat(acmeSecret, 4000),
		"the value does not look like a token (it b": "token=" + acmeSecret + " x",
	} {
		got := c.runInput(input, "grant", "acme")
		got.expect(t, exitFailed, name, "next: ")
		c.expectSecret(acmeSecret, got.out, got.err)
	}
	c.expectNotStored("acme")
	if n := len(s.requests()); n != 0 {
		t.Errorf("the service was asked %d times", n)
	}
}

func TestAGrantIsTakenFromAVariableIfThatIsWanted(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t, acmeSecret))
	got := c.run("grant", "acme", "--from", "env")
	got.expect(t, exitFailed, "$ACME_TOKEN or $ACME_KEY is not set", "next: set one of them, or use --from stdin, login or prompt")
	c.expectNotStored("acme")

	c.env = append(c.env, "ACME_KEY="+acmeSecret)
	c.run("grant", "acme").expect(t, exitFailed, "standard input is empty")
	got = c.run("grant", "acme", "--from", "env")
	got.expect(t, 0, "from $ACME_KEY", "the service accepts it")
	c.expectStored("acme", acmeSecret, credential.SourceEnv)
	c.expectSecret(acmeSecret, got.out, got.err)
}

func TestAGrantIsTakenFromALoginIfThatIsWanted(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t, openaiSecret))
	c.run("grant", "openai", "--from", "login").expect(t, exitFailed, "there is no login to take over", "next: log in with the tool, or use --from stdin, env or prompt")
	c.run("grant", "acme", "--from", "login").expect(t, exitFailed, "no tool of it is known here", "next: use --from stdin, env or prompt")
	c.expectNotStored("openai")

	c.logIn()
	got := c.run("grant", "codex", "--from", "login") // by the alias
	got.expect(t, 0, "GRANT         openai", "auth.json", "~/.codex/auth.json", "the service accepts it")
	c.expectStored("openai", openaiSecret, credential.SourceLogin)
	c.expectSecret(openaiSecret, got.out, got.err)
}

func TestALoginIsTakenOverUntilItExpires(t *testing.T) {
	t.Parallel()
	const secret = "sk-ant-oat01-tOpSeCrEt-0123456789abcdef"
	c := newGrantCLI(t, newService(t))
	dir := filepath.Join(filepath.Dir(c.home), "user", ".claude")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	login := func(expires time.Time) {
		t.Helper()
		write(t, filepath.Join(dir, ".credentials.json"), fmt.Sprintf(
			`{"claudeAiOauth": {"accessToken": %q, "refreshToken": "sk-ant-ort01-tOpSeCrEt", "expiresAt": %d, "scopes": ["user:inference"], "subscriptionType": "pro"}}`,
			secret, expires.UnixMilli()))
	}
	write(t, filepath.Join(dir, ".credentials.json"), fmt.Sprintf(`{"claudeAiOauth": {"accessToken": %q, "expiresAt": 1}}`, secret))
	c.run("grant", "claude", "--from", "login").expect(t, exitFailed, "has expired", "next: log in with the tool")
	c.expectNotStored("claude")
	login(time.Now().Add(5*time.Hour + time.Minute))
	got := c.run("grant", "claude", "--from", "login")
	got.expect(t, 0, "(in 5h)", "scopes        user:inference", "not asked whether the service accepts it", "~/.claude/.credentials.json")
	stored := c.expectStored("claude", secret, credential.SourceLogin)
	if stored.Metadata["subscription_type"] != "pro" || stored.RefreshToken.Reveal() != "sk-ant-ort01-tOpSeCrEt" {
		t.Errorf("the rest of the login: %v, %v", stored.Metadata, !stored.RefreshToken.IsZero())
	}
	for _, text := range []string{secret, stored.RefreshToken.Reveal()} {
		c.expectSecret(text, got.out, got.err, c.must("grant", "show", "claude"), c.must("grant", "list", "-o", "json"))
	}
}

func TestALoginIsNotSentToAnotherHost(t *testing.T) {
	t.Parallel()
	const secret = "npm_tOpSeCrEt0123456789"
	s := newService(t, secret)
	c := newGrantCLI(t, s)
	write(t, filepath.Join(filepath.Dir(c.home), "user", ".npmrc"), "//registry.npmjs.org/:_authToken="+secret+"\n")
	got := c.run("grant", "npm:npm.example.com", "--from", "login")
	got.expect(t, exitFailed, "is for registry.npmjs.org, and not for npm:npm.example.com")
	c.expectNotStored("npm:npm.example.com")
	if diff := cmp.Diff([]string(nil), s.requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	c.run("grant", "npm", "--from", "login").expect(t, 0, "registry.npmjs.org in Authorization")
	c.expectStored("npm", secret, credential.SourceLogin)
	c.runInput(secret, "grant", "npm:npm.example.com").expect(t, 0, "npm.example.com in Authorization", "!registry.npmjs.org")
	if diff := cmp.Diff([]string{"registry.npmjs.org/-/whoami", "npm.example.com/-/whoami"}, s.requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestFieldsThatAreNoSecretAreSet(t *testing.T) {
	t.Parallel()
	const key, appKey = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210fedcba98"
	s := newService(t, key)
	c := newGrantCLI(t, s)
	lines := "token=" + key + "\napp_key=" + appKey + "\n"
	c.runInput(lines, "grant", "datadog", "--set", "site=nowhere.example").expect(t, exitFailed, "does not look like a site", "next: add --set site=")
	c.expectNotStored("datadog")
	got := c.runInput(lines, "grant", "datadog", "--set", "site=datadoghq.eu")
	got.expect(t, 0, "api.datadoghq.eu, http-intake.logs.datadoghq.eu in Dd-Api-Key", "api.datadoghq.eu in Dd-Application-Key")
	stored := c.expectStored("datadog", key, credential.SourceStdin)
	if stored.Values["app_key"].Reveal() != appKey || stored.Metadata["site"] != "datadoghq.eu" {
		t.Errorf("fields: %v, %v", stored.Values, stored.Metadata)
	}
	for _, secret := range []string{key, appKey} {
		c.expectSecret(secret, got.out, got.err)
	}
	if diff := cmp.Diff([]string{"api.datadoghq.eu/api/v1/validate"}, s.requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}

	c.runInput("some-secret-of-it", "grant", "mcp:tickets").expect(t, exitFailed, "url is missing", "next: add --set url=https://mcp.example.com/mcp")
	c.runInput("some-secret-of-it", "grant", "mcp:tickets", "--set", "url=https://mcp.example.com:8443/mcp").
		expect(t, 0, "mcp.example.com port [8443] in Authorization, paths /mcp /mcp/**", "nothing: the header is added on the way")
}

func TestARejectedCredentialIsNotStored(t *testing.T) {
	t.Parallel()
	s := newService(t, acmeSecret)
	c := newGrantCLI(t, s)
	other := strings.Replace(acmeSecret, "acme_t", "acme_T", 1)
	got := c.runInput(other, "grant", "acme")
	got.expect(t, exitFailed, "the service rejects the credential (status 401)", "next: nothing is stored; get it anew from the service, and run `drawbridge grant acme` again")
	c.expectNotStored("acme")
	c.expectSecret(other, got.out, got.err)

	c.runInput(acmeSecret, "grant", "acme").expect(t, 0, "the service accepts it", "!in place of")
	// The earlier one stays.
	c.runInput(other, "grant", "acme").expect(t, exitFailed, "rejects")
	c.expectStored("acme", acmeSecret, credential.SourceStdin)
	// What is not asked is not rejected.
	c.runInput(other, "grant", "acme", "--no-verify").expect(t, 0, "--no-verify", "in place of the earlier one")
	c.expectStored("acme", other, credential.SourceStdin)
	if n := len(s.requests()); n != 3 {
		t.Errorf("the service was asked %d times, want 3", n)
	}
}

func TestACredentialThatCannotBeCheckedIsStoredWithAWarning(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, want string
		hinder     func(*service, *cli)
	}{
		{"out of order", "the service answered with status 503", func(s *service, _ *cli) { s.set(http.StatusServiceUnavailable) }},
		{"elsewhere", "the service answered with status 302", func(s *service, _ *cli) { s.set(http.StatusFound) }},
		{"unreachable", "connection refused", func(_ *service, c *cli) { c.env = append(c.env, "HTTPS_PROXY=http://127.0.0.1:1") }},
		{"not trusted", "certificate signed by unknown authority", func(_ *service, c *cli) { c.env = append(c.env, "SSL_CERT_FILE="+os.DevNull) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newService(t, acmeSecret)
			c := newGrantCLI(t, s)
			tt.hinder(s, c)
			got := c.runInput(acmeSecret, "grant", "acme")
			got.expect(t, 0, "warning: the credential could not be checked", tt.want, "checked       could not be checked with the service")
			c.expectStored("acme", acmeSecret, credential.SourceStdin)
			c.expectSecret(acmeSecret, got.out, got.err)
		})
	}
}

func TestACredentialOnTheCommandLineIsRefusedAndNotRepeated(t *testing.T) {
	t.Parallel()
	s := newService(t, acmeSecret)
	c := newGrantCLI(t, s)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"acme", acmeSecret}, "next: leave it out to be asked, or pipe it in with `--from stdin`"},
		{[]string{acmeSecret}, "the NAME looks like a credential"},
		{[]string{"acme:" + acmeSecret}, "the NAME looks like a credential"},
		{[]string{"acme", "--set", "token=" + acmeSecret}, "--set takes no token"},
		{[]string{"acme", "--set", acmeSecret}, "--set wants key=value"},
		{[]string{"acme", "--set", acmeSecret + "=x"}, "has no field"},
		{[]string{"acme", "--from", acmeSecret}, "--from does not name a source"},
		{[]string{"acme", "--token", acmeSecret}, "unknown flag --token"},
		{[]string{"acme", "--token=" + acmeSecret}, "unknown flag --token"},
		{[]string{"npm", "--set", "host=npm.example.com"}, "next: write `drawbridge grant npm:VALUE`"},
	} {
		got := c.runInput(acmeSecret, append([]string{"grant"}, tt.args...)...)
		got.expect(t, exitUsage, tt.want, "next: ")
		c.expectSecret(acmeSecret, got.out, got.err)
	}
	c.expectNotStored("acme")
	if n := len(s.requests()); n != 0 {
		t.Errorf("the service was asked %d times", n)
	}
}

func TestMistakesAreToldWithWhatMendsThem(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t))
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"grant"}, exitUsage, "grant needs a NAME\n  next: name what it is for, e.g. `drawbridge grant github`"},
		{[]string{"grant", "githbu"}, exitFailed, "there is no such provider\n  next: did you mean github? see `drawbridge grant providers`"},
		{[]string{"grant", "lst"}, exitUsage, "next: did you mean `drawbridge grant list`?"},
		{[]string{"grant", "mcp"}, exitFailed, "name is missing\n  next: name it mcp:NAME"},
		{[]string{"grant", "github:x"}, exitFailed, "github has one grant only"},
		{[]string{"grant", "acme", "--from", "prompt"}, exitUsage, "nobody to ask: standard input is no terminal\n  next: use --from stdin, env or login"},
		{[]string{"grant", "acme", "--set", "speed=1"}, exitUsage, "the acme provider has no field \"speed\"\n  next: leave --set out; it has none to set"},
		{[]string{"grant", "show"}, exitUsage, "show needs the NAME of a grant\n  next: name a grant; `drawbridge grant list` shows them"},
		{[]string{"grant", "show", "a", "b"}, exitUsage, "show takes one grant"},
		{[]string{"grant", "show", "acme"}, exitFailed, "there is no such grant\n  next: run `drawbridge grant acme`"},
		{[]string{"grant", "allow", "acme"}, exitFailed, "there is no such grant\n  next: run `drawbridge grant acme`"},
		{[]string{"grant", "allow", "ACME"}, exitFailed, "not a valid name\n  next: use lower-case letters"},
		{[]string{"revoke", "acme"}, exitUsage, "nobody to ask: standard input is no terminal\n  next: add --yes"},
		{[]string{"revoke", "--yes", "acme"}, exitFailed, "there is no such grant\n  next: run `drawbridge grant list`"},
		{[]string{"grant", "list", "--profile", "../x"}, exitFailed, "not a valid name\n  next: use letters, digits"},
		{[]string{"grant", "list", "x"}, exitUsage, "list takes no arguments"},
	} {
		got := c.run(tt.args...)
		got.expect(t, tt.code, tt.want)
		if got.out != "" {
			t.Errorf("%v: output %q", tt.args, got.out)
		}
	}
	c.env = append(c.env, "DRAWBRIDGE_KEYRING=wallet")
	c.run("grant", "list").expect(t, exitFailed, `DRAWBRIDGE_KEYRING="wallet"`, "unset it to use the keyring where there is one")
}

func TestAHomeThatOthersMayWriteInIsRefused(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t, acmeSecret))
	if err := os.Chmod(c.home, 0o777); err != nil {
		t.Fatal(err)
	}
	c.runInput(acmeSecret, "grant", "acme").expect(t, exitFailed, "others may write in it (mode 0777)", "next: run `chmod 700 "+c.home+"`")
	if err := os.Chmod(c.home, 0o700); err != nil {
		t.Fatal(err)
	}
	c.runInput(acmeSecret, "grant", "acme").expect(t, 0)
}

func TestAGrantMakesTheHome(t *testing.T) {
	t.Parallel()
	s := newService(t, openaiSecret)
	c := newGrantCLI(t, s)
	c.home = filepath.Join(c.home, "new")
	c.runInput(openaiSecret, "grant", "openai").expect(t, 0)
	c.expectStored("openai", openaiSecret, credential.SourceStdin)
	info, err := os.Stat(c.home)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the home: %v, %v", info, err)
	}
}

func TestFilesThatCannotBeReadAreTold(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, want string
		spoil      func(c *cli, file string)
	}{
		{"others may read it", "others may use it (mode 0644)", func(c *cli, file string) {
			if err := os.Chmod(file, 0o644); err != nil {
				c.t.Error(err)
			}
		}},
		{"corrupt", "run `drawbridge grant acme` to store it anew", func(c *cli, file string) {
			if err := os.WriteFile(file, []byte("age-encryption.org/v1\nnonsense"), 0o600); err != nil {
				c.t.Error(err)
			}
		}},
		{"without its key", "bring it back from a backup", func(c *cli, _ string) {
			if err := os.Remove(filepath.Join(c.home, "identity.age.key")); err != nil {
				c.t.Error(err)
			}
		}},
		{"its key is in a keyring", "unlock the keyring and try again", func(c *cli, _ string) { c.lockKeyring() }},
		{"its key is in a keyring that is forbidden", "unset DRAWBRIDGE_KEYRING", func(c *cli, _ string) {
			c.lockKeyring()
			c.env = append(c.env, "DRAWBRIDGE_KEYRING=file")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newGrantCLI(t, newService(t, acmeSecret))
			c.runInput(acmeSecret, "grant", "acme").expect(t, 0)
			c.run("grant", "show", "acme").expect(t, 0, "state         ok")
			tt.spoil(c, filepath.Join(credential.Dir(c.home), "acme.age"))
			if got := c.run("grant", "list"); got.code != 0 || !strings.Contains(got.out, "unreadable") || !strings.Contains(got.err, tt.want) {
				t.Errorf("list: %+v, want %q", got, tt.want)
			}
			c.run("grant", "show", "acme").expect(t, exitFailed, tt.want, "  next: ")
			c.run("revoke", "--yes", "acme").expect(t, 0)
			c.run("grant", "list").expect(t, 0, "no grants")
		})
	}
}

// lockKeyring makes the home one whose key is in a keyring that does not open: a
// bus that hangs up. It returns how often the bus has been asked.
func (c *cli) lockKeyring() *atomic.Int32 {
	c.t.Helper()
	record := filepath.Join(credential.Dir(c.home), "identity.json")
	text, err := os.ReadFile(record)
	if err != nil {
		c.t.Fatal(err)
	}
	write(c.t, record, strings.Replace(string(text), `"file"`, `"keyring"`, 1))
	dir, err := os.MkdirTemp("", "bus")
	if err != nil {
		c.t.Fatal(err)
	}
	bus, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", filepath.Join(dir, "bus"))
	if err != nil {
		c.t.Fatal(err)
	}
	done := make(chan struct{})
	asked := &atomic.Int32{}
	go func() {
		defer close(done)
		for {
			conn, err := bus.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			conn.Close()
		}
	}()
	c.t.Cleanup(func() {
		bus.Close()
		<-done
		os.RemoveAll(dir)
	})
	c.env = append(c.env, "DRAWBRIDGE_KEYRING=", "DBUS_SESSION_BUS_ADDRESS=unix:path="+filepath.Join(dir, "bus"))
	return asked
}

func TestACorruptProviderIsToldAndTheOthersWork(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t, acmeSecret))
	write(t, filepath.Join(c.home, "providers", "broken.yaml"), "name: broken\ntitel: Broken\n")
	c.runInput(acmeSecret, "grant", "acme").expect(t, 0, "warning: ", "broken.yaml", "did you mean title?")
	c.run("grant", "broken").expect(t, exitFailed, "warning: ", "there is no such provider")
	// Without its provider a grant is unusable, and can be revoked.
	if err := os.Remove(filepath.Join(c.home, "providers", "acme.yaml")); err != nil {
		t.Fatal(err)
	}
	c.run("grant", "list").expect(t, 0, "unusable", `find provider "acme"`)
	c.run("grant", "show", "acme").expect(t, 0, "unusable")
	c.run("revoke", "--yes", "acme").expect(t, 0)
}

func TestACommandThatIsInterruptedStoresNothing(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t, acmeSecret))
	b := c.start("grant", "acme") // waits for its input
	eventually(t, "the store is open", func() bool {
		_, err := os.Stat(credential.Dir(c.home))
		return err == nil
	})
	b.signal(syscall.SIGINT)
	if code := b.wait(); code != exitFailed || !strings.Contains(b.err.String(), "interrupted") {
		t.Errorf("exit code %d, %s", code, b.err)
	}
	c.expectNotStored("acme")
}
