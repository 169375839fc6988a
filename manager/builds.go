package manager

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/deps"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Build is what is kept of one build of an image: the newest fifty of them.
type Build = storage.Build

// buildIDPrefix begins the IDs of builds.
const buildIDPrefix = "build_"

// buildGate is the gate of one build, if an image is really built. What its steps
// request is decided and recorded like what a run requests, under an ID of its own.
type buildGate struct {
	m       *Manager
	image   string
	request daemon.RegisterRequest // but for what belongs to the ID

	// Set by Open.
	store *storage.BuildStore
	build Build
	token string
}

var _ runtime.BuildGate = (*buildGate)(nil)

// newBuildGate returns the gate of a build of a plan for a run with these options: it
// lets through to where the plan's items come from, and to what the run may reach. It
// looks into nothing, so that no step has to trust the gate's authority; what rules
// allow by method and path is not allowed.
func (m *Manager) newBuildGate(plan *deps.Plan, image string, opts *Options) (*buildGate, error) {
	mode, own := NetworkStrict, opts.NetworkRules
	switch opts.Network {
	case NetworkPermissive:
		mode = NetworkPermissive
	case NetworkNone:
		own = nil
	}
	rules, err := wholeRules(own)
	if err != nil {
		return nil, err
	}
	limit, err := wholeRules(m.opts.NetworkLimit)
	if err != nil {
		return nil, err
	}
	if len(m.opts.NetworkLimit) > 0 {
		// Who allows builds allows what they are made of.
		limit = append(limit, plan.Hosts()...)
	}
	return &buildGate{m: m, image: image, request: daemon.RegisterRequest{
		NetworkPolicy: string(mode), NetworkRules: append(rules, plan.Hosts()...), NetworkLimit: limit, LogLimit: networkLogLimit,
	}}, nil
}

// wholeRules leaves out what rules say of methods and paths, see policy.Rule.Whole.
func wholeRules(texts []string) ([]string, error) {
	var rules []string
	for _, text := range texts {
		rule, err := policy.ParseRule(text)
		if err != nil {
			return nil, failf(CodeInvalidArgument, "write a rule as HOST, HOST:PORT, or \"HOST allow|deny METHOD /path\"", "%v", err)
		}
		if whole, usable := rule.Whole(); usable {
			rules = append(rules, whole.String())
		}
	}
	return rules, nil
}

// Open registers the build with the gate.
func (g *buildGate) Open(ctx context.Context) (err error) {
	g.m.sweepBuilds(ctx)
	id := buildIDPrefix + randomHex(runIDDigits)
	g.store = g.m.store.BuildStore(id)
	g.build = Build{ID: id, Image: g.image, Holder: g.m.holder.ID(), Started: time.Now()}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.store.Remove())
		}
	}()
	if err := g.store.Create(g.build, networkLogLimit); err != nil {
		return err
	}
	g.request.RunID, g.request.GateDir, g.request.LogDir = id, g.store.GateDir(), g.store.NetworkLogDir()
	got, err := g.m.gate.client.Register(ctx, g.request)
	if err != nil {
		g.m.unregister(context.WithoutCancel(ctx), id) // the answer may have been lost
		return err
	}
	g.token = got.Token
	return nil
}

// Dial connects a step to the gate.
func (g *buildGate) Dial(ctx context.Context) (net.Conn, error) {
	return daemon.Dial(ctx, g.store.GateDir(), g.token)
}

// Close ends the registration and records the end. To a failure it adds which hosts
// were refused.
func (g *buildGate) Close(ctx context.Context, failed error) error {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), gateTimeout)
	defer cancel()
	g.m.unregister(late, g.build.ID)
	g.build.Ended = time.Now()
	if failed != nil {
		if _, is := errors.AsType[*runtime.BuildError](failed); is {
			if refused := g.refused(); len(refused) > 0 {
				failed = &RefusedBuildError{Build: g.build.ID, Hosts: refused, cause: failed}
			}
		}
		g.build.Failed = failed.Error()
	}
	if err := errors.Join(g.store.CloseGate(), g.store.Save(g.build)); err != nil {
		g.m.log.Warn("the end of a build could not be recorded", zap.String("build", g.build.ID), zap.Error(err))
	}
	return failed
}

// refused returns the hosts that the build was refused, each once.
func (g *buildGate) refused() []string {
	page, err := g.m.BuildLog(g.build.ID, NetworkQuery{Limit: maxPageEntries, Decision: "refused"})
	if err != nil {
		g.m.log.Warn("reading what a build requested failed", zap.String("build", g.build.ID), zap.Error(err))
	}
	var hosts []string
	for i := range page.Entries {
		host := ruleFor(&page.Entries[i], false)
		if host != "" && !slices.Contains(hosts, host) && len(hosts) < shownRefusals {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// RefusedBuildError is the failure of a build of which the gate refused requests.
type RefusedBuildError struct {
	Build string   // its ID
	Hosts []string // that were refused, as rules that would allow them
	cause error
}

// Error returns the failure and the hosts.
func (e *RefusedBuildError) Error() string {
	return fmt.Sprintf("%v\nthe gate refused the build: %s", e.cause, strings.Join(e.Hosts, ", "))
}

// Unwrap returns the failure.
func (e *RefusedBuildError) Unwrap() error { return e.cause }

// buildFailed is the error of a build for who asked for it.
func buildFailed(err error) error {
	if refused, is := errors.AsType[*RefusedBuildError](err); is {
		return &Error{Code: CodePolicyDenied, Message: "the image of the run could not be built", Err: err,
			Next: fmt.Sprintf("give the run a network rule for each host that it needs (%s); `drawbridge images trace %s` shows all requests of the build", strings.Join(refused.Hosts, ", "), refused.Build)}
	}
	if failed, is := errors.AsType[*runtime.BuildError](err); is {
		if strings.Contains(strings.ToLower(failed.Error()), "no space left on device") {
			return &Error{Code: CodeConflict, Message: "the image of the run could not be built", Retryable: true, Err: failed,
				Next: "make room on the disk of the engine; `drawbridge images prune` removes images that no run has used for a while"}
		}
		return &Error{Code: CodeInvalidArgument, Message: "the image of the run could not be built", Next: "mend the step, or leave out what needs it", Err: failed}
	}
	return err
}

// sweepBuilds ends what crashed processes have left of builds, and forgets old ones.
func (m *Manager) sweepBuilds(ctx context.Context) {
	ended, err := m.store.SweepBuilds(time.Now())
	if err != nil {
		m.log.Warn("the sweep of builds could not look everywhere", zap.Error(err))
	}
	for _, id := range ended {
		m.unregister(ctx, id)
	}
}

// Builds returns what is kept of the builds of this home, the newest first.
func (m *Manager) Builds() ([]Build, error) {
	builds, err := m.store.Builds()
	return builds, wrapf(err, "list the builds")
}

// BuildLog returns a part of what the steps of a build requested; ref is the ID of the
// build, or the tag of an image, whose last build it is then.
func (m *Manager) BuildLog(ref string, query NetworkQuery) (NetworkPage, error) {
	page, err := m.buildLog(ref, query)
	return page, wrapf(err, "read what the build %s requested", ref)
}

func (m *Manager) buildLog(ref string, query NetworkQuery) (NetworkPage, error) {
	builds, err := m.store.Builds()
	if err != nil {
		return NetworkPage{}, err
	}
	i := slices.IndexFunc(builds, func(b Build) bool { return b.ID == ref || b.Image == ref })
	if i < 0 {
		return NetworkPage{}, failf(CodeNotFound, "`drawbridge images builds` lists those that are kept", "there is no build %s", ref)
	}
	pos, err := query.check()
	if err != nil {
		return NetworkPage{}, err
	}
	reader, err := m.store.BuildStore(builds[i].ID).OpenNetworkLog()
	if errors.Is(err, logring.ErrNoLog) {
		return NetworkPage{}, nil // a crash came between
	}
	if err != nil {
		return NetworkPage{}, err
	}
	defer reader.Close()
	return pageOf(reader, pos, query)
}
