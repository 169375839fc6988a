package manager

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
	"github.com/drawbridge-mcp/drawbridge/manager/access/router"
	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
)

// A published port has a name, ENDPOINT.RUN.localhost, at one port of this machine for
// all runs of a home. The daemon listens there (package daemon, routing.go) and asks
// the Manager in its process which port of 127.0.0.1 is meant.

// RoutingPort returns the port of this machine at which published ports have names:
// proxy.port of config.yaml in the home.
func RoutingPort(ctx context.Context, home string) (int, error) {
	c, err := config.LoadHome(ctx, home)
	if errors.Is(err, config.ErrNone) {
		return config.DefaultProxyPort, nil
	}
	if err != nil {
		return 0, badConfig(err)
	}
	return cmp.Or(c.Proxy.Port, config.DefaultProxyPort), nil
}

// endpointURL is where an endpoint of a run is reached at a port of this machine; empty
// where the run's name cannot be part of a host name.
func endpointURL(endpoint, run string, port int) string {
	if !router.IsLabel(run) {
		return ""
	}
	return "http://" + onPort(router.Host(endpoint, run), port)
}

func onPort(host string, port int) string {
	return host + ":" + strconv.Itoa(cmp.Or(port, config.DefaultProxyPort))
}

// endpointEnv tells the command at which names it is reached: where its redirects have
// to lead, for instance. The names of the variables are those of moat.yaml.
func endpointEnv(run string, opts Options) []string {
	if len(opts.Ports) == 0 || !router.IsLabel(run) {
		return nil
	}
	host := onPort(run+"."+router.Domain, opts.proxyPort)
	env := []string{"MOAT_HOST=" + host, "MOAT_URL=http://" + host}
	for _, name := range slices.Sorted(maps.Keys(opts.Ports)) {
		variable := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		host := onPort(router.Host(name, run), opts.proxyPort)
		env = append(env, "MOAT_HOST_"+variable+"="+host, "MOAT_URL_"+variable+"=http://"+host)
	}
	return env
}

// addURLs adds the names of its ports to a run that is up.
func (m *Manager) addURLs(run *Run) {
	if len(run.HostPorts) == 0 || !run.State.Active() {
		return
	}
	if !router.IsLabel(run.Name) {
		run.URLsNote = "the run's name has a dot and cannot be part of a host name"
		return
	}
	routing := daemon.ReadRouting(m.opts.Home)
	run.URLsNote = routing.Problem
	if routing.Port == 0 {
		return
	}
	run.URLs = make(map[string]string, len(run.HostPorts))
	for name := range run.HostPorts {
		run.URLs[name] = endpointURL(name, run.Name, routing.Port)
	}
}

// route has the daemon give the ports of a run names that has just been started. It
// would do so by itself a moment later; without it the ports have addresses.
func (m *Manager) route(ctx context.Context, id string) {
	if m.gate.client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, gateTimeout)
	defer cancel()
	if _, err := m.gate.client.Route(ctx); err != nil {
		m.log.Warn("the ports of a run have no names yet", zap.String("run", id), zap.Error(err))
	}
}

// Routed returns the run that is up with this ID or name, and has published ports.
func (m *Manager) Routed(ctx context.Context, label string) (router.Run, bool, error) {
	var rows []storage.RunRow
	if ValidRunID(label) {
		row, err := m.row(ctx, label)
		if errors.Is(err, ErrRunNotFound) {
			return router.Run{}, false, nil
		}
		if err != nil {
			return router.Run{}, false, err
		}
		rows = append(rows, row)
	} else {
		var err error
		if rows, err = m.store.RunsByName(ctx, label, maxMatches); err != nil {
			return router.Run{}, false, err
		}
	}
	for i := range rows {
		if run, up, err := m.routed(&rows[i]); up || err != nil {
			return run, up, err
		}
	}
	return router.Run{}, false, nil
}

// AllRouted returns the runs that are up and have published ports.
func (m *Manager) AllRouted(ctx context.Context) ([]router.Run, error) {
	live := true
	var runs []router.Run
	for filter := (storage.Filter{Live: &live, Limit: maxListLimit}); ; {
		rows, next, err := m.store.ListRuns(ctx, filter)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			run, up, err := m.routed(&rows[i])
			if err != nil {
				return nil, err
			}
			if up {
				runs = append(runs, run)
			}
		}
		if next == "" {
			return runs, nil
		}
		filter.Before = next
	}
}

// routed is what the router has to know of a run; false if nobody can reach it.
func (m *Manager) routed(row *storage.RunRow) (router.Run, bool, error) {
	if !row.Ready || !State(row.State).Active() {
		return router.Run{}, false, nil
	}
	_, mt, err := m.documents.of(row)
	if err != nil || len(mt.HostPorts) == 0 {
		return router.Run{}, false, err
	}
	return router.Run{ID: row.ID, Name: row.Name, Endpoints: maps.Clone(mt.HostPorts)}, true, nil
}
