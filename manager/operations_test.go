package manager

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
	"github.com/drawbridge-mcp/drawbridge/manager/access/proxy"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
)

// What a policy about operations denies, a run may not do where its rules let it go: from
// its first request, for all Managers, and under every daemon.
func TestRunMayNotDoWhatItsPolicyDenies(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	host := service(t)
	run := w.started(m, Options{
		Cmd:          shell("while [ ! -e stop ]; do wget -q -O - http://" + host + "/yes && echo; wget -q -O - http://" + host + "/%6Eo; wget -q -O - http://" + host + "/items//1; sleep 0.05; done"),
		NetworkRules: []string{host},
		KeepPolicy:   &config.KeepPolicy{Deny: []string{"get */no", "* */ITEMS/?"}},
	})
	if diff := cmp.Diff([]string{"keep_policy deny get */no, * */ITEMS/?"}, run.Denied); diff != "" {
		t.Error(diff)
	}
	client := daemon.NewClient(w.home, nil)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	served := func() int { return strings.Count(output(t, m, run.ID), "served /yes\n") }
	refused := func() (rules []string) {
		page, err := w.manager().NetworkLog(ctx, run.ID, NetworkQuery{Decision: proxy.Refused})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			rules = append(rules, e.Rule)
		}
		return rules
	}
	eventually(t, "an answer", func() bool { return served() > 0 && len(refused()) > 1 })
	health, err := client.Health(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(health.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another daemon", func() bool {
		again, err := client.Health(ctx)
		return err == nil && again.PID != health.PID && again.Runs == 1
	})
	before, known := served(), len(refused())
	eventually(t, "answers after the daemon's end", func() bool { return served() > before+1 && len(refused()) > known+2 })
	if text := output(t, m, run.ID); strings.Contains(text, "no") || strings.Contains(text, "items") {
		t.Errorf("what is denied was served: %q", text)
	}
	if got := fmt.Sprint(refused()); !strings.Contains(got, "keep_policy deny get */no") || !strings.Contains(got, "keep_policy deny * */ITEMS/?") {
		t.Errorf("refused by %s", got)
	}
	if rules, err := m.SuggestRules(ctx, run.ID, true); err != nil || rules != nil {
		t.Errorf("suggested: %v, %v", rules, err)
	}
	if err := os.WriteFile(run.Workspace+"/stop", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.ended(m, run.ID)
}

func TestAuditedOperationsAreRecordedAndDone(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	host := service(t)
	run := w.started(m, Options{
		Cmd:    shell(fetch("http://" + host + "/a")[2]),
		Config: parseConfig(t, "network: {rules: ['"+host+"'], keep_policy: {deny: [GET], mode: audit}}\n"),
	})
	w.ended(m, run.ID)
	page, err := m.NetworkLog(t.Context(), run.ID, NetworkQuery{Decision: proxy.Learned})
	if err != nil || len(page.Entries) != 1 || page.Entries[0].Rule != "keep_policy deny GET" || page.Entries[0].Status != 200 {
		t.Errorf("recorded %+v, %v", page.Entries, err)
	}
	if text := output(t, m, run.ID); !strings.Contains(text, "served /a") {
		t.Errorf("it got %q", text)
	}
	if rules, err := m.SuggestRules(t.Context(), run.ID, false); err != nil || rules != nil {
		t.Errorf("suggested: %v, %v", rules, err)
	}
}

// An MCP server whose tools are denied is reached at its URL alone, whatever a grant
// would let through.
func TestServersWithDeniedToolsAreReachedAtTheirURL(t *testing.T) {
	t.Parallel()
	grant := &config.MCPAuth{Grant: "mcp:docs", Header: "Authorization"}
	deny := &config.KeepPolicy{Deny: []string{"delete_*"}}
	for _, test := range []struct {
		server config.MCPServer
		want   string
	}{
		{config.MCPServer{URL: "https://docs.test/mcp"}, "docs.test allow * /mcp/**; docs.test allow * /mcp"},
		{config.MCPServer{URL: "https://docs.test/mcp", Auth: grant}, ""},
		{config.MCPServer{URL: "https://docs.test/mcp/", Policy: deny}, "docs.test allow * /mcp/**; docs.test allow * /mcp; docs.test deny * /**"},
		{config.MCPServer{URL: "https://docs.test/mcp", Auth: grant, Policy: deny}, "docs.test allow * /mcp/**; docs.test allow * /mcp; docs.test deny * /**"},
		{config.MCPServer{URL: "https://docs.test:8443", Policy: deny}, "docs.test:8443 allow * /**"},
		{config.MCPServer{URL: "https://docs.test/mcp", Auth: grant, Policy: &config.KeepPolicy{Deny: []string{"x"}, Mode: "audit"}}, ""},
	} {
		test.server.Name = "docs"
		got, err := withServers(Options{MCPServers: []config.MCPServer{test.server}})
		if err == nil {
			_, err = daemon.ParseRules("strict", got.NetworkRules)
		}
		if text := strings.Join(got.NetworkRules, "; "); err != nil || text != test.want {
			t.Errorf("%+v: got %s, %v; want %s", test.server, text, err, test.want)
		}
	}
	if _, err := withServers(Options{MCPServers: []config.MCPServer{{Name: "docs", URL: "http://localhost:1/mcp", Auth: grant, Policy: deny}}}); AsError(err).Code != CodeInvalidArgument {
		t.Errorf("a server that no policy can watch: %v", err)
	}
}

// A server gets its credential in the header that it expects, which its grant states.
func TestHeadersOfServersAreThoseOfTheirGrants(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	put := func(name, url, header string) {
		w.put(credential.Credential{
			Grant: credential.Grant(name), Provider: "mcp", Values: map[string]credential.Secret{"token": credential.NewSecret("a-key-0123456789")},
			Metadata: map[string]string{"name": strings.TrimPrefix(name, "mcp:"), "url": url, "header": header},
		})
	}
	put("mcp:context7", "https://mcp.context7.com/mcp", "CONTEXT7_API_KEY")
	put("mcp:docs", "https://docs.test/mcp", "Authorization")
	create := func(file string) (*Run, error) {
		return m.Create(t.Context(), Options{Image: w.image, Cmd: shell("true"), Config: parseConfig(t, file)})
	}
	if _, err := create("mcp: [context7]\n"); err != nil {
		t.Errorf("one of the catalog: %v", err)
	}
	if _, err := create("mcp: [{name: docs, url: 'https://docs.test/mcp', auth: {grant: 'mcp:docs', header: authorization}}]\n"); err != nil {
		t.Errorf("the header of the grant: %v", err)
	}
	_, err := create("mcp: [{name: docs, url: 'https://docs.test/mcp', auth: {grant: 'mcp:docs', header: X-Key}}]\n")
	if e := AsError(err); e == nil || e.Code != CodeInvalidArgument || !strings.Contains(e.Next, "drawbridge grant mcp:docs --set url=https://docs.test/mcp --set header=X-Key") {
		t.Errorf("another header: %v", err)
	}
	_, err = create("mcp: [{name: tickets, url: 'https://tickets.test/mcp', auth: {grant: 'mcp:tickets', header: X-Key}}]\n")
	if err == nil || !strings.Contains(err.Error(), "mcp:tickets") {
		t.Errorf("a grant that is not there: %v", err)
	}
	grants, err := m.Grants(t.Context())
	if err != nil || len(grants) != 2 || !slices.Equal(grants[0].Hosts, []string{"mcp.context7.com"}) || !slices.Equal(grants[0].Headers, []string{"CONTEXT7_API_KEY"}) {
		t.Errorf("the grants are %+v, %v", grants, err)
	}
}

func TestPoliciesAboutOperationsAreChecked(t *testing.T) {
	t.Parallel()
	server := func(p config.KeepPolicy) Options {
		return Options{MCPServers: []config.MCPServer{{Name: "docs", URL: "https://docs.test/mcp", Policy: &p}}}
	}
	requests := func(p config.KeepPolicy) Options { return Options{KeepPolicy: &p} }
	got, err := withOperations(server(config.KeepPolicy{Pack: "linear-readonly"}))
	if diff := cmp.Diff([]string{"mcp docs deny * except list_*, get_*, search_*"}, describe(got.operations)); diff != "" || err != nil {
		t.Errorf("%v: %s", err, diff)
	}
	for says, opts := range map[string]Options{
		"no policy about tools has the name": server(config.KeepPolicy{Pack: "x"}),
		"reads no policies from files":       server(config.KeepPolicy{File: "x.yaml"}),
		"not complete":                       server(config.KeepPolicy{Deny: []string{"["}}),
		"no policy about HTTP requests":      requests(config.KeepPolicy{Pack: "linear-readonly"}),
		"such as a/b":                        requests(config.KeepPolicy{File: "a/b"}),
		"is no method":                       requests(config.KeepPolicy{Deny: []string{"delete_issue"}}),
	} {
		if _, err := withOperations(opts); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %q", err, says)
		}
	}
	none := requests(config.KeepPolicy{Deny: []string{"GET"}})
	none.Network = NetworkNone
	if got, err := withOperations(none); err != nil || got.operations != nil {
		t.Errorf("without a network: %+v, %v", got.operations, err)
	}
}
