package awsrole

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

var testKeys = Keys{AccessKeyID: credential.NewSecret("AKIADRAWBRIDGE000001"), SecretAccessKey: credential.NewSecret("secret")}

func TestGrantIsStoredAndRead(t *testing.T) {
	t.Parallel()
	fields := map[string]string{FieldRole: role, FieldRegion: "eu-central-1", FieldDuration: "1h", FieldExternalID: "x1", FieldHosts: " s3.eu-central-1.amazonaws.com  *.on.aws ", FieldEndpoint: "https://vpce.example.com"}
	withKeys, err := New("aws:prod", fields, testKeys)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(fields, InProfile("dev", "/home/a", func(string) string { return "" }))
	delete(fields, FieldHosts)
	ofProfile, err := New("aws", fields, Keys{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []Grant{withKeys, ofProfile} {
		stored := want.Credential(credential.SourceLogin)
		got, err := FromCredential(stored)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(credential.Secret{}), cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Errorf("%v (-want +got)\n%s", err, diff)
		}
		for name, text := range stored.Metadata {
			if strings.Contains(text, "secret") || strings.Contains(text, "AKIA") {
				t.Errorf("%s is %q", name, text)
			}
		}
		if got.Duration != time.Hour {
			t.Errorf("it lasts %v", got.Duration)
		}
	}
	if diff := cmp.Diff([]string{"s3.eu-central-1.amazonaws.com", "*.on.aws"}, withKeys.Patterns()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestGrantThatCannotBeUsedSaysWhichField(t *testing.T) {
	t.Parallel()
	good := map[string]string{FieldRole: role, FieldRegion: "eu-central-1"}
	if _, err := New("aws", good, testKeys); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ field, value string }{
		"no role":            {FieldRole, ""},
		"a user":             {FieldRole, "arn:aws:iam::123456789012:user/a"},
		"a strange role":     {FieldRole, "arn:aws:iam::123456789012:role/a\nb"},
		"a far partition":    {FieldRole, "arn:aws-iso:iam::123456789012:role/a"},
		"no region":          {FieldRegion, ""},
		"a host as region":   {FieldRegion, "x.evil.test/"},
		"no duration":        {FieldDuration, "long"},
		"too short":          {FieldDuration, "14m"},
		"too long":           {FieldDuration, "61m"},
		"a bad external ID":  {FieldExternalID, "a b"},
		"plain HTTP":         {FieldEndpoint, "http://sts.test"},
		"a password":         {FieldEndpoint, "https://a:b@sts.test"},
		"another host":       {FieldHosts, "evil.test"},
		"an ending":          {FieldHosts, "evilamazonaws.com"},
		"everything":         {FieldHosts, "*"},
		"a pattern in a way": {FieldHosts, "s3.*.amazonaws.com"},
		"a port":             {FieldHosts, "s3.amazonaws.com:8443"},
		"a profile and keys": {FieldProfile, "dev"},
	} {
		fields := map[string]string{test.field: test.value}
		for k, v := range good {
			if k != test.field {
				fields[k] = v
			}
		}
		if _, err := New("aws", fields, testKeys); !errors.Is(err, ErrField) || !strings.Contains(err.Error(), test.field) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, keys := range map[string]Keys{
		"no secret":     {AccessKeyID: testKeys.AccessKeyID},
		"no ID":         {SecretAccessKey: testKeys.SecretAccessKey},
		"a strange ID":  {AccessKeyID: credential.NewSecret("s3cr3t key"), SecretAccessKey: testKeys.SecretAccessKey},
		"a bad token":   {testKeys.AccessKeyID, testKeys.SecretAccessKey, credential.NewSecret("s3cr3t\x01")},
		"no source":     {},
		"a token alone": {SessionToken: credential.NewSecret("s3cr3t")},
	} {
		if _, err := New("aws", good, keys); !errors.Is(err, ErrField) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNamesOfGrants(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{"aws": true, "aws:prod": true, "aws:a.b_c-1": true, "aws:": false, "aws:A": false, "aws:a b": false, "awsx": false, "aws:a/b": false} {
		if _, err := ParseName(name); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
		if IsGrant(name) != strings.HasPrefix(name, "aws:") && name != "aws" {
			t.Errorf("%s is taken for another", name)
		}
	}
}

func TestHostsAreThoseOfTheRegion(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		role, region string
		want         []string
	}{
		"usual": {role, "eu-central-1", []string{"*.eu-central-1.amazonaws.com", "*.eu-central-1.api.aws", "sts.amazonaws.com", "iam.amazonaws.com", "route53.amazonaws.com", "cloudfront.amazonaws.com", "organizations.amazonaws.com"}},
		"the first": {role, "us-east-1", []string{"*.us-east-1.amazonaws.com", "*.us-east-1.api.aws", "sts.amazonaws.com", "iam.amazonaws.com", "route53.amazonaws.com", "cloudfront.amazonaws.com", "organizations.amazonaws.com",
			"s3.amazonaws.com", "*.s3.amazonaws.com"}},
		"China": {"arn:aws-cn:iam::123456789012:role/r", "cn-north-1", []string{"*.cn-north-1.amazonaws.com.cn", "*.cn-north-1.api.amazonwebservices.com.cn", "iam.cn-north-1.amazonaws.com.cn", "route53.amazonaws.com.cn", "organizations.cn-northwest-1.amazonaws.com.cn"}},
	} {
		if diff := cmp.Diff(test.want, PatternsOf(map[string]string{FieldRole: test.role, FieldRegion: test.region})); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
	if got := PatternsOf(map[string]string{FieldRegion: "eu-central-1"}); got != nil {
		t.Errorf("of no role: %v", got)
	}
}

func TestProfileIsThatOfThePerson(t *testing.T) {
	t.Parallel()
	env := map[string]string{}
	get := func(name string) string { return env[name] }
	want := map[string]string{FieldProfile: "default", fieldConfig: "/home/a/.aws/config", fieldCredentials: "/home/a/.aws/credentials"}
	if diff := cmp.Diff(want, InProfile("", "/home/a", get)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	env["AWS_PROFILE"], env["AWS_CONFIG_FILE"], env["AWS_SHARED_CREDENTIALS_FILE"] = "dev", "/c", "/k"
	want = map[string]string{FieldProfile: "dev", fieldConfig: "/c", fieldCredentials: "/k"}
	if diff := cmp.Diff(want, InProfile("", "/home/a", get)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := InProfile("named", "/home/a", get)[FieldProfile]; got != "named" {
		t.Errorf("got %s", got)
	}
}
