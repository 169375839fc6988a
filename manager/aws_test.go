package manager

import (
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/awsrole"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// A run with a grant for AWS says which role it acts in; it has no credentials of it to
// give. One without has none.
func TestRunTellsTheRoleThatItActsIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	const role = "arn:aws:iam::123456789012:role/agents"
	g, err := awsrole.New("aws", map[string]string{awsrole.FieldRole: role, awsrole.FieldRegion: "eu-central-1", awsrole.FieldDuration: "20m"},
		awsrole.Keys{AccessKeyID: credential.NewSecret("AKIADRAWBRIDGE000001"), SecretAccessKey: credential.NewSecret("s3cr3t-of-the-host")})
	if err != nil {
		t.Fatal(err)
	}
	store, err := credential.Open(credential.Dir(w.home), credential.Options{Backend: credential.BackendFile})
	if err == nil {
		err = store.Put(t.Context(), g.Credential(credential.SourceStdin))
	}
	if err != nil {
		t.Fatal(err)
	}
	made, err := m.Create(t.Context(), Options{Cmd: []string{"true"}, Grants: []string{"aws"}})
	if err != nil {
		t.Fatal(err)
	}
	run, err := m.Get(made.ID)
	if err != nil {
		t.Fatal(err)
	}
	p := run.AWSCredentialProvider
	if p == nil || p.RoleARN != role || p.Region != "eu-central-1" || p.SessionName != "drawbridge-"+run.ID || p.SessionDuration != 20*time.Minute {
		t.Errorf("it acts in %+v", p)
	}
	if got, err := p.Credentials(t.Context()); err == nil || !strings.Contains(err.Error(), "with its gate") {
		t.Errorf("got %+v, %v", got, err)
	}
	other, err := m.Create(t.Context(), Options{Cmd: []string{"true"}})
	if err != nil || other.AWSCredentialProvider != nil {
		t.Errorf("a run without the grant: %+v, %v", other, err)
	}
}
