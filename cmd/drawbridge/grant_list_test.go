package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager/access/awsrole"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
	"github.com/drawbridge-mcp/drawbridge/manager/access/sshagent"
)

// listed returns the grants as programs read them, without the times.
func (c *cli) listed(args ...string) []grantView {
	c.t.Helper()
	var answer struct{ Grants []grantView }
	if err := json.Unmarshal([]byte(c.must(append([]string{"grant", "list", "--output", "json"}, args...)...)), &answer); err != nil {
		c.t.Fatal(err)
	}
	for i := range answer.Grants {
		answer.Grants[i].CreatedAt = nil
	}
	return answer.Grants
}

func TestGrantsAreListedWithoutTheirSecrets(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t, acmeSecret, openaiSecret))
	if diff := cmp.Diff([]grantView{}, c.listed()); diff != "" {
		t.Errorf("no grants (-want +got):\n%s", diff)
	}
	c.run("grant", "list").expect(t, 0, "no grants; `drawbridge grant github` makes one")

	c.runInput(openaiSecret, "grant", "openai").expect(t, 0)
	c.runInput(acmeSecret, "grant", "acme").expect(t, 0)
	c.must("grant", "allow", "codex") // by the alias
	text := c.must("grant", "list")
	want := "GRANT   PROVIDER  STATE  AGENTS  AGE  EXPIRES  HOSTS\n" +
		"acme    acme      ok     no      0s   -        api.acme.example\n" +
		"openai  openai    ok     yes     0s   -        api.openai.com us.api.openai.com eu.api.openai.com\n"
	if diff := cmp.Diff(want, regexp.MustCompile(`(?m) \d+s `).ReplaceAllString(text, " 0s ")); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
	views := []grantView{
		{Name: "acme", Provider: "acme", State: "ok", Hosts: []string{"api.acme.example"}, Source: "stdin"},
		{Name: "openai", Provider: "openai", State: "ok", Hosts: []string{"api.openai.com", "us.api.openai.com", "eu.api.openai.com"}, Allowed: true, Source: "stdin"},
	}
	if diff := cmp.Diff(views, c.listed()); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
	for _, secret := range []string{acmeSecret, openaiSecret} {
		c.expectSecret(secret, text, c.must("grant", "list", "-o", "json"),
			c.must("grant", "show", "acme"), c.must("grant", "show", "-o", "json", "acme"),
			c.must("grant", "show", "openai"), c.must("grant", "show", "-o", "json", "openai"))
	}
}

func TestAnExpiredGrantIsListedAsSuch(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t))
	put := func(id credential.Grant, expires time.Time) {
		t.Helper()
		err := c.store("").Put(context.Background(), credential.Credential{
			Grant: id, Provider: "mcp", Source: credential.SourceLogin, Scopes: []string{"read"}, ExpiresAt: expires,
			Values:   map[string]credential.Secret{"token": credential.NewSecret(acmeSecret)},
			Metadata: map[string]string{"name": id.Instance(), "url": "https://mcp.example.com/"},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	put("mcp:old", time.Now().Add(-3*time.Hour))
	put("mcp:new", time.Now().Add(3*time.Hour+time.Minute))
	got := c.run("grant", "list")
	got.expect(t, 0, "expired", "3h ago", "in 3h", "mcp:old has expired; run `drawbridge grant mcp:old`", "!mcp:new has expired")
	c.run("grant", "show", "mcp:old").expect(t, 0, "state         expired", "scopes        read")
	c.run("grant", "show", "mcp:new").expect(t, 0, "state         ok")
}

func TestAgentsMayUseWhatIsAllowed(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t, acmeSecret, openaiSecret))
	allowed := func(want ...credential.Grant) {
		t.Helper()
		got, err := c.store("").Allowed()
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("allowed: %v (-want +got):\n%s", err, diff)
		}
	}
	c.runInput(acmeSecret, "grant", "acme").expect(t, 0)
	c.runInput(openaiSecret, "grant", "openai").expect(t, 0)
	allowed()
	c.run("grant", "allow", "acme", "npm").expect(t, exitFailed, "read grant npm: there is no such grant")
	allowed() // all or none
	c.run("grant", "allow", "openai", "acme").expect(t, 0, "openai: agents may use it; `drawbridge grant disallow openai` ends that\nacme: agents may use it")
	allowed("acme", "openai")
	c.run("grant", "show", "acme").expect(t, 0, "agents        may use it")
	c.run("grant", "disallow", "openai").expect(t, 0, "openai: agents may not use it; `drawbridge grant allow openai` lets them")
	allowed("acme")
	c.run("grant", "disallow", "openai").expect(t, 0) // again
	// The permission stays when a credential is replaced, and goes with the grant.
	c.runInput(acmeSecret, "grant", "acme").expect(t, 0, "agents        may use it")
	c.run("revoke", "--yes", "acme").expect(t, 0)
	allowed()
	c.runInput(acmeSecret, "grant", "acme").expect(t, 0, "agents        may not use it")
}

func TestAPermissionForWhatIsNotStoredIsListed(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t))
	if err := c.store("").Allow(context.Background(), "acme"); err != nil {
		t.Fatal(err)
	}
	c.run("grant", "list").expect(t, 0, "missing", "run `drawbridge grant acme`, or `drawbridge grant disallow acme`")
	c.run("grant", "disallow", "acme").expect(t, 0)
	c.run("grant", "list").expect(t, 0, "no grants", "!missing")
}

func TestRevokeRemovesAllThatItCan(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t, acmeSecret, openaiSecret))
	c.runInput(acmeSecret, "grant", "acme").expect(t, 0)
	c.runInput(openaiSecret, "grant", "openai").expect(t, 0)
	got := c.run("revoke", "--yes", "npm", "acme", "gemini", "acmecorp")
	got.expect(t, exitFailed, "delete grant npm: there is no such grant", "delete grant gemini: there is no such grant")
	if got.out != "acme\n" {
		t.Errorf("output %q", got.out)
	}
	c.expectNotStored("acme")
	c.expectStored("openai", openaiSecret, credential.SourceStdin)
}

func TestProfilesAreApart(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t, acmeSecret))
	c.runInput(acmeSecret, "grant", "acme", "--profile", "work").
		expect(t, 0, "profile       work", "`drawbridge grant allow --profile work acme` lets them")
	c.expectNotStored("acme")
	c.run("grant", "allow", "--profile", "work", "acme").expect(t, 0)
	c.run("grant", "show", "acme").expect(t, exitFailed, "there is no such grant")
	if got := c.listed("--profile", "work"); len(got) != 1 || !got[0].Allowed {
		t.Errorf("profile work: %+v", got)
	}

	c.env = append(c.env, "DRAWBRIDGE_PROFILE=work")
	c.run("grant", "show", "acme").expect(t, 0, "profile       work")
	c.run("grant", "list", "--profile", "").expect(t, 0, "no grants") // the flag goes first
	c.run("revoke", "--yes", "acme").expect(t, 0)
	c.run("grant", "list", "--profile", "work").expect(t, 0, "no grants")
}

func TestThereIsNothingToRotateWithoutGrants(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t, acmeSecret))
	c.run("grant", "rotate").expect(t, exitFailed, "there are none", "next: run `drawbridge grant NAME`")
	c.runInput(acmeSecret, "grant", "acme").expect(t, 0)
	c.run("grant", "rotate").expect(t, 0, "encrypted to a new key")
}

func TestRotateKeepsTheGrantsOfAllProfiles(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t, acmeSecret))
	c.runInput(acmeSecret, "grant", "acme").expect(t, 0)
	c.runInput(acmeSecret, "grant", "acme", "--profile", "work").expect(t, 0)
	key := filepath.Join(c.home, "identity.age.key")
	before, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	c.run("grant", "rotate").expect(t, 0, "encrypted to a new key")
	after, err := os.ReadFile(key)
	if err != nil || bytes.Equal(after, before) {
		t.Errorf("the key has not changed (%v)", err)
	}
	c.expectStored("acme", acmeSecret, credential.SourceStdin)
	c.run("grant", "show", "acme", "--profile", "work").expect(t, 0, "state         ok")
	c.expectSecret(acmeSecret)

	// Where one cannot be read, nothing changes.
	write(t, filepath.Join(credential.Dir(c.home), "acme.age"), "nonsense")
	c.run("grant", "rotate").expect(t, exitFailed, "cannot be decrypted", "next: run `drawbridge revoke acme`")
	if again, err := os.ReadFile(key); err != nil || !bytes.Equal(again, after) {
		t.Errorf("the key has changed (%v)", err)
	}
}

func TestProvidersAreListed(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t))
	c.run("grant", "providers").expect(t, 0, "acme (acmecorp)", "$ACME_TOKEN $ACME_KEY", "api.acme.example", "npm[:HOST]", "mcp:NAME", "api.SITE", "that of URL", "!{{")
	var answer struct{ Providers []providerView }
	if err := json.Unmarshal([]byte(c.must("grant", "providers", "-o", "json")), &answer); err != nil {
		t.Fatal(err)
	}
	if len(answer.Providers) < 10 || answer.Providers[0].Name != "acme" {
		t.Fatalf("providers: %+v", answer.Providers)
	}
	want := providerView{
		Name: "acme", Title: "Acme", Aliases: []string{"acmecorp"}, Hosts: []string{"api.acme.example"}, IsValidated: true,
		Fields: []fieldView{{Name: "token", Prompt: "Acme token", Hint: "it begins with acme_", Env: []string{"ACME_TOKEN", "ACME_KEY"}, Secret: true}},
	}
	if diff := cmp.Diff(want, answer.Providers[0]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNamesOfGrantsAreCompletedWithoutTheKeyring(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t, acmeSecret))
	complete := func(args ...string) string {
		t.Helper()
		return c.must(append([]string{"__complete"}, args...)...)
	}
	if got := complete("revoke", ""); !strings.HasPrefix(got, ":4\n") {
		t.Errorf("without grants: %q", got)
	}
	c.runInput(acmeSecret, "grant", "acme").expect(t, 0)
	asked := c.lockKeyring()
	for _, args := range [][]string{{"revoke", ""}, {"grant", "show", ""}, {"grant", "allow", ""}, {"grant", "disallow", "a"}} {
		if got := complete(args...); !strings.HasPrefix(got, "acme\n") {
			t.Errorf("%v: %q", args, got)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the keyring was asked %d times", n)
	}
	if c.run("grant", "show", "acme"); asked.Load() == 0 {
		t.Error("a command that needs the key does not ask the keyring either")
	}
	if got := complete("revoke", "--profile", "work", ""); strings.Contains(got, "acme") {
		t.Errorf("of another profile: %q", got)
	}
	if got := complete("grant", ""); !strings.Contains(got, "acme\tAcme\n") || !strings.Contains(got, "github\tGitHub\n") {
		t.Errorf("providers: %q", got)
	}
}

func TestEveryCommandThatAMessageAboutGrantsNamesCanBeTyped(t *testing.T) {
	t.Parallel()
	// What stands for a name in the source of a message.
	name := strings.NewReplacer("VALUE:VALUE", "npm:npm.example.com", "%s", "github", "VALUE", "github", "NAME", "github")
	named := 0
	check := func(path string, source []byte) {
		isOther := filepath.Base(filepath.Dir(path)) == "drawbridge" && !strings.HasPrefix(filepath.Base(path), "grant")
		if strings.HasSuffix(path, "_test.go") || isOther {
			return
		}
		for _, text := range literals(t, path, source) {
			for _, m := range mention.FindAllStringSubmatch(text, -1) {
				line := name.Replace(m[1])
				if !strings.HasPrefix(line, "grant") && !strings.HasPrefix(line, "revoke") {
					continue
				}
				named++
				if problem := untypable(strings.Fields(line)); problem != "" {
					t.Errorf("%s names `drawbridge %s`: %s", path, m[1], problem)
				}
			}
		}
	}
	for _, dir := range []string{"manager/access", "cmd/drawbridge"} {
		walkFiles(t, filepath.Join("../..", dir), ".go", check)
	}
	if named < 20 {
		t.Errorf("only %d commands found in messages: the search is broken", named)
	}
	for _, line := range []string{"grant show", "grant list x", "grant github --form env", "revoke", "grant github acme", "grant rotete x"} {
		if untypable(strings.Fields(line)) == "" {
			t.Errorf("%q passes for a command", line)
		}
	}
}

// untypable says why a command line is none, or nothing. It runs nothing.
func untypable(words []string) string {
	a := &app{in: os.Stdin, out: &strings.Builder{}, err: &strings.Builder{}}
	root := a.newRoot()
	cmd, rest, err := root.Find(words)
	if err != nil || cmd == root {
		return "there is no such command"
	}
	if !cmd.Runnable() {
		return "it does nothing by itself"
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err.Error()
	}
	if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
		return err.Error()
	}
	return misnamed(cmd)
}

// misnamed says that the argument of grant is no provider.
func misnamed(cmd *cobra.Command) string {
	if cmd.Name() != "grant" {
		return ""
	}
	name := cmd.Flags().Arg(0)
	_, err := provider.Builtin().Lookup(name)
	switch {
	case sshagent.IsGrant(name):
		_, err = sshagent.ParseName(name)
	case awsrole.IsGrant(name):
		_, err = awsrole.ParseName(name)
	}
	if err != nil {
		return err.Error()
	}
	return ""
}
