package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/access/awsrole/ststest"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

const testRole = "arn:aws:iam::123456789012:role/agents"

// newAWSCLI is the program on a machine that reaches AWS's server of the tests.
func newAWSCLI(t *testing.T) (*cli, *ststest.Server) {
	t.Helper()
	c, s := newGrantCLI(t, newService(t)), ststest.Start(t)
	c.env = append(c.env, "DRAWBRIDGE_EXTRA_CA="+s.File)
	for _, name := range []string{"AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"} {
		c.env = append(c.env, name+"=")
	}
	return c, s
}

// awsArgs are the arguments for a grant that is good with a server.
func awsArgs(s *ststest.Server, name string, more ...string) []string {
	return append([]string{"grant", name, "--set", "role_arn=" + testRole, "--set", "region=eu-central-1", "--set", "sts_endpoint=" + s.URL}, more...)
}

// configured writes the AWS configuration of the person.
func (c *cli) configured(config, credentials string) (dir string) {
	c.t.Helper()
	dir = filepath.Join(filepath.Dir(c.home), "user", ".aws")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		c.t.Fatal(err)
	}
	write(c.t, filepath.Join(dir, "config"), config)
	write(c.t, filepath.Join(dir, "credentials"), credentials)
	return dir
}

var personsKeys = fmt.Sprintf("aws_access_key_id=%s\naws_secret_access_key=%s\n", ststest.AccessKeyID, ststest.SecretAccessKey)

func TestAWSGrantNamesAProfileAndCopiesNoKey(t *testing.T) {
	t.Parallel()
	c, s := newAWSCLI(t)
	dir := c.configured("[profile dev]\nregion = us-west-2\n", "[dev]\n"+personsKeys)
	got := c.run(awsArgs(s, "aws", "--set", "profile=dev", "--set", "external_id=tenant-1", "--set", "duration=1h")...)
	got.expect(t, 0, "GRANT         aws\n", "role          "+testRole, "assumed with  the profile dev of "+filepath.Join(dir, "config"), "checked       AWS lets it be assumed",
		"external ID   tenant-1", "region        eu-central-1", "*.eu-central-1.amazonaws.com", "credentials of the role for 60 minutes, when it asks", "drawbridge grant allow aws")
	stored, err := c.store("").Get(t.Context(), "aws")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"role_arn": testRole, "region": "eu-central-1", "duration": "1h0m0s", "external_id": "tenant-1", "sts_endpoint": s.URL,
		"profile": "dev", "config_file": filepath.Join(dir, "config"), "credentials_file": filepath.Join(dir, "credentials"),
	}
	if diff := cmp.Diff(want, stored.Metadata); diff != "" || len(stored.Values) != 0 || stored.Source != credential.SourceLogin {
		t.Errorf("stored %d secrets from %s, (-want +got)\n%s", len(stored.Values), stored.Source, diff)
	}
	if calls := s.Calls(); len(calls) != 1 || calls[0] != (ststest.Call{RoleARN: testRole, SessionName: "drawbridge-grant", ExternalID: "tenant-1", Duration: "3600", Region: "eu-central-1"}) {
		t.Errorf("asked for %+v", calls)
	}
	c.run("grant", "list").expect(t, 0, "aws ", " ok ", "*.eu-central-1.amazonaws.com")
	c.run("grant", "show", "aws").expect(t, 0, "the profile dev", testRole)
	c.run(awsArgs(s, "aws", "--from", "login", "--set", "profile=dev")...).expect(t, 0, "in place of the earlier grant")
	c.run("grant", "allow", "aws").expect(t, 0, "aws: agents may use it")
	c.run("revoke", "--yes", "aws").expect(t, 0)
	c.expectNotStored("aws")
}

func TestAWSGrantStoresKeysThatItIsGiven(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		give   func(c *cli, args []string) result
		source credential.Source
	}{
		"on standard input": {func(c *cli, args []string) result {
			return c.runInput("access_key_id="+ststest.AccessKeyID+"\nsecret_access_key="+ststest.SecretAccessKey+"\n", args...)
		}, credential.SourceStdin},
		"in the environment": {func(c *cli, args []string) result {
			c.env = append(c.env, "AWS_ACCESS_KEY_ID="+ststest.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+ststest.SecretAccessKey)
			return c.run(append(args, "--from", "env")...)
		}, credential.SourceEnv},
		"at a terminal": {func(c *cli, args []string) result {
			term := c.atTerminal(append(args, "--from", "prompt")...)
			term.typed("Access key ID: ", ststest.AccessKeyID+enter)
			term.typed("Secret access key: ", ststest.SecretAccessKey+enter)
			term.typed("Session token (Enter leaves it out): ", enter)
			return term.end()
		}, credential.SourcePrompt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, s := newAWSCLI(t)
			got := test.give(c, awsArgs(s, "aws:prod"))
			got.expect(t, 0, "aws:prod", "keys in the grant, encrypted", "AWS lets it be assumed", "30 minutes")
			stored, err := c.store("").Get(t.Context(), "aws:prod")
			if err != nil {
				t.Fatal(err)
			}
			if stored.Values["access_key_id"].Reveal() != ststest.AccessKeyID || stored.Values["secret_access_key"].Reveal() != ststest.SecretAccessKey || stored.Source != test.source {
				t.Errorf("stored %+v", stored)
			}
			shown := c.run("grant", "show", "aws:prod")
			shown.expect(t, 0, "keys in the grant")
			c.expectSecret(ststest.SecretAccessKey, got.out, got.err, shown.out, c.run("grant", "list", "--output", "json").out)
		})
	}
}

func TestLoginOfAWSIsOffered(t *testing.T) {
	t.Parallel()
	c, s := newAWSCLI(t)
	c.configured("", "[default]\n"+personsKeys)
	term := c.atTerminal(awsArgs(s, "aws")...)
	term.typed("Use the login of the profile default of ", "y"+enter)
	term.end().expect(t, 0, "the profile default", "AWS lets it be assumed")
}

func TestAWSGrantsThatCannotBeMadeSayWhy(t *testing.T) {
	t.Parallel()
	c, s := newAWSCLI(t)
	c.configured("[profile dev]\n[profile bad]\ncredential_process = false\n", "[dev]\n"+personsKeys)
	dev := []string{"--set", "profile=dev"}
	for name, test := range map[string]struct {
		args []string
		code int
		want []string
	}{
		"no role":               {[]string{"grant", "aws", "--set", "region=eu-central-1", "--set", "profile=dev"}, 1, []string{"add --set role_arn=arn:aws:iam::123456789012:role/NAME"}},
		"no region":             {[]string{"grant", "aws", "--set", "role_arn=" + testRole, "--set", "profile=dev"}, 1, []string{"add --set region=eu-central-1"}},
		"no such profile":       {awsArgs(s, "aws", "--set", "profile=none"), 1, []string{`there is no profile "none"`}},
		"a profile without":     {awsArgs(s, "aws", "--set", "profile=bad"), 1, []string{"nothing is stored", "aws sso login --profile bad"}},
		"too long":              {awsArgs(s, "aws", append(dev, "--set", "duration=2h")...), 1, []string{"from 15 to 60 minutes", "add --set duration=30m"}},
		"a host of others":      {awsArgs(s, "aws", append(dev, "--set", "hosts=evil.test")...), 1, []string{"evil.test", "is no host of AWS"}},
		"a bad name":            {awsArgs(s, "aws:A"), 2, []string{"aws:NAME"}},
		"a key as an argument":  {awsArgs(s, "aws", "--set", "secret_access_key=s3cr3t"), 2, []string{"--set takes no secret_access_key", "!s3cr3t"}},
		"an unknown field":      {awsArgs(s, "aws", "--set", "color=red"), 2, []string{`no field "color"`}},
		"nothing on its input":  {awsArgs(s, "aws"), 1, []string{"standard input is empty"}},
		"nothing in the env":    {awsArgs(s, "aws", "--from", "env"), 1, []string{"$AWS_ACCESS_KEY_ID"}},
		"a source of no use":    {awsArgs(s, "aws", "--from", "s3cr3t"), 2, []string{"use stdin, env, login or prompt", "!s3cr3t"}},
		"flags of others":       {awsArgs(s, "aws", "--fingerprint", "x"), 2, []string{"for SSH grants"}},
		"an endpoint of nobody": {append(awsArgs(s, "aws", dev...), "--set", "sts_endpoint=http://x"), 1, []string{"write it as https://HOST"}},
	} {
		t.Run(name, func(t *testing.T) {
			own := *c
			own.t = t
			own.run(test.args...).expect(t, test.code, test.want...)
		})
	}
	s.Answer(ststest.Fail(403, "AccessDenied", "User: arn:aws:iam::123456789012:user/me is not authorized"))
	c.run(awsArgs(s, "aws", dev...)...).expect(t, 1, "nothing is stored", "user/me is not authorized", "trust policy")
	c.expectNotStored("aws")
	c.run(awsArgs(s, "aws:unasked", append(dev, "--no-verify")...)...).expect(t, 0, "--no-verify")
	s.Answer(ststest.Fail(503, "ServiceUnavailable", "later"))
	c.run(awsArgs(s, "aws", dev...)...).expect(t, 0, "warning", "it is stored all the same", "could not be checked with AWS")
	if calls := s.Calls(); len(calls) != 0 {
		t.Errorf("sessions were begun: %+v", calls)
	}
	if got := c.run("grant", "list").out; !strings.Contains(got, "aws:unasked") {
		t.Errorf("listed %s", got)
	}
}
