package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/awsrole"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/provider"
	"github.com/drawbridge-mcp/drawbridge/manager/access/renewal"
	"github.com/drawbridge-mcp/drawbridge/manager/access/sshagent"
)

// States of a grant beyond those of the store.
const (
	// stateUnusable says that no provider can use what is stored.
	stateUnusable = "unusable"
	// stateMissing says that agents may use what is not stored.
	stateMissing = "missing"
)

// grantView is a grant as programs read it. It holds nothing secret.
type grantView struct {
	Name      string            `json:"name"`
	Provider  string            `json:"provider"`
	State     string            `json:"state"`
	Reason    string            `json:"reason,omitempty"` // why it is not ok, and how to mend it
	Hosts     []string          `json:"hosts"`
	Allowed   bool              `json:"allowed_to_agents"`
	Source    string            `json:"source,omitempty"`
	Scopes    []string          `json:"scopes,omitempty"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	CreatedAt *time.Time        `json:"created_at,omitempty"`
	ExpiresAt *time.Time        `json:"expires_at,omitempty"`
	Renews    bool              `json:"renews"` // before it expires, while a run uses it
	RenewedAt *time.Time        `json:"renewed_at,omitempty"`
}

// views returns all grants of the profile, by name, with those that agents may use
// though they are not stored.
func (g *grants) views(ctx context.Context) ([]grantView, error) {
	entries, err := g.store.List(ctx)
	if err != nil {
		return nil, err
	}
	allowed, err := g.store.Allowed()
	if err != nil {
		return nil, err
	}
	views := make([]grantView, 0, len(entries)) // never null in JSON
	for _, e := range entries {
		v := g.view(ctx, e)
		v.Allowed = slices.Contains(allowed, e.Grant)
		views = append(views, v)
	}
	for _, id := range allowed {
		if slices.ContainsFunc(entries, func(e credential.Entry) bool { return e.Grant == id }) {
			continue
		}
		views = append(views, grantView{
			Name: string(id), Provider: id.Provider(), State: stateMissing, Hosts: []string{}, Allowed: true,
			Reason: fmt.Sprintf("agents may use %s, which is not stored; run `drawbridge grant %s`, or `drawbridge grant disallow %s`", id, g.ref(id), g.ref(id)),
		})
	}
	slices.SortStableFunc(views, func(a, b grantView) int { return strings.Compare(a.Name, b.Name) })
	return views, nil
}

// view returns what can be told of a stored grant.
func (g *grants) view(ctx context.Context, e credential.Entry) grantView {
	v := grantView{
		Name: string(e.Grant), Provider: e.Provider, State: string(e.State), Reason: e.Reason, Hosts: []string{},
		Source: string(e.Source), Scopes: e.Scopes, Metadata: e.Metadata, CreatedAt: instant(e.CreatedAt), ExpiresAt: instant(e.ExpiresAt),
		RenewedAt: instant(e.Renewal.RenewedAt),
	}
	if e.Grant == "" {
		v.Name, v.Reason = e.File, e.File+": "+e.Reason
	}
	if e.State == credential.StateUnreadable {
		return v
	}
	switch e.Provider {
	case sshagent.Provider:
		g.sshView(ctx, &v, e.Grant)
		return v
	case awsrole.Provider:
		g.awsView(ctx, &v, e.Grant)
		return v
	}
	_, resolved, err := g.use(ctx, e.Grant)
	v.Renews = err == nil && e.HasRefreshToken && resolved.Renewal != nil && !e.Renewal.IsFinal
	if err != nil {
		v.State, v.Reason = stateUnusable, fmt.Sprintf("%s: %v", e.Grant, err)
		return v
	}
	for _, rule := range resolved.Rules {
		for _, host := range rule.Hosts {
			if !slices.Contains(v.Hosts, host) {
				v.Hosts = append(v.Hosts, host)
			}
		}
	}
	problem, next := renewal.Problem(e.Renewal, "drawbridge grant "+g.ref(e.Grant), time.Now())
	switch {
	case problem != "":
		v.Reason = fmt.Sprintf("%s: %s; %s", e.Grant, problem, next)
	case e.State == credential.StateExpired && v.Renews:
		v.Reason = fmt.Sprintf("%s has expired, and is renewed when a run uses it; `drawbridge grant refresh %s` does that now", e.Grant, g.ref(e.Grant))
	case e.State == credential.StateExpired:
		v.Reason = fmt.Sprintf("%s has expired; run `drawbridge grant %s`", e.Grant, g.ref(e.Grant))
	}
	return v
}

// renewsText says how long a credential lasts beyond its expiry.
func renewsText(cred credential.Credential, resolved provider.Resolved) string {
	switch {
	case cred.ExpiresAt.IsZero() && cred.RefreshToken.IsZero():
		return ""
	case cred.RefreshToken.IsZero() || resolved.Renewal == nil:
		return "no: there is no refresh token"
	case cred.Renewal.IsFinal:
		return "no: the service has refused that"
	case cred.ExpiresAt.IsZero():
		return "when the service does not accept it any more, while a run uses it"
	}
	return "before it expires, while a run uses it"
}

// use returns the provider of a stored grant, and what it comes to for a run.
func (g *grants) use(ctx context.Context, id credential.Grant) (provider.Provider, provider.Resolved, error) {
	cred, err := g.store.Get(ctx, id)
	if err != nil {
		return provider.Provider{}, provider.Resolved{}, err
	}
	p, err := g.catalog.Of(cred)
	if err != nil {
		return provider.Provider{}, provider.Resolved{}, err
	}
	resolved, err := p.Resolve(cred.Fields())
	return p, resolved, err
}

// addUse adds where a credential is sent, and what the sandbox has in its place.
func (f *facts) addUse(r provider.Resolved) {
	f.addEach("sent to", sentTo(r.Rules))
	var inside []string
	for _, v := range r.Env {
		inside = append(inside, "$"+v.Name+" = "+shorten(v.Value, maxPlaceholder))
	}
	for _, file := range r.Files {
		inside = append(inside, "~/"+file.Path)
	}
	if len(inside) == 0 {
		inside = []string{"nothing: the header is added on the way"}
	}
	f.addEach("sandbox sees", inside)
}

// addEach adds a name with several values, a line each.
func (f *facts) addEach(name string, values []string) {
	for _, value := range values {
		f.add(name, value)
		name = ""
	}
}

// maxPlaceholder is how much of a placeholder is shown: enough to recognise it.
const maxPlaceholder = 48

// sentTo says for each header where it is sent.
func sentTo(rules []provider.Rule) []string {
	var lines []string
	for _, rule := range rules {
		hosts := slices.Clone(rule.Hosts)
		if !slices.Equal(rule.Ports, []uint16{443}) {
			for i := range hosts {
				hosts[i] += fmt.Sprintf(" port %v", rule.Ports)
			}
		}
		line := strings.Join(hosts, ", ") + " in " + rule.Header
		if len(rule.Paths) > 0 {
			line += ", paths " + strings.Join(rule.Paths, " ")
		}
		lines = append(lines, line)
	}
	return lines
}

// field is a reference to a field in a template of a provider.
var field = regexp.MustCompile(`{{-?\s*\.(\w+)\s*-?}}`)

// hostsOf names the hosts of a provider, with the fields that they depend on in
// capitals.
func hostsOf(p provider.Provider) []string {
	hosts := []string{} // never null in JSON
	for _, injection := range p.Injections {
		for _, host := range injection.Hosts {
			host = field.ReplaceAllStringFunc(host, func(ref string) string {
				return strings.ToUpper(field.FindStringSubmatch(ref)[1])
			})
			if !slices.Contains(hosts, host) {
				hosts = append(hosts, host)
			}
		}
	}
	if len(hosts) == 0 {
		hosts = append(hosts, "that of URL")
	}
	return hosts
}
