package manager

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// A service of a run reaches nothing outside, so that what it is to serve, such as
// models, is fetched before: by a container of the same image that no run reaches,
// into a directory of the home. Services of runs see that and cannot write it: what a
// run could put there would be served to others.

// fetchTimeout bounds what is fetched at a time: a model of many gigabytes, over a
// slow line.
const fetchTimeout = 30 * time.Minute

// storeDir is the directory of the home with what is kept for a service.
func (m *Manager) storeDir(service string) string {
	return filepath.Join(m.opts.Home, "cache", service)
}

// storeOf is the part of it that the service sees.
func (m *Manager) storeOf(service string) string { return filepath.Join(m.storeDir(service), "store") }

// storeUser is the user whose files a store has, for a container without rights.
func (m *Manager) storeUser() string { return fmt.Sprintf("%d:%d", os.Geteuid(), os.Getegid()) }

// fetchForServices fetches what services are to serve and what is not there yet.
func (m *Manager) fetchForServices(ctx context.Context, c *creation) error {
	for i, w := range c.opts.services {
		if len(w.Models) == 0 {
			continue
		}
		// makeSandbox comes later: nothing of a run can be in the way.
		if err := m.fetchModels(ctx, c, w, c.spec.Services[i]); err != nil {
			return wrapf(err, "fetch models for the service %s", w.Name)
		}
	}
	return nil
}

func (m *Manager) fetchModels(ctx context.Context, c *creation, w serviceWish, s runtime.ServiceSpec) error {
	runner, can := c.driver.(runtime.ServiceRunner)
	if !can {
		return failf(CodeUnsupported, "leave them out", "the runtime %s runs no services", c.driver.Type())
	}
	dir := m.storeDir(w.Name)
	for _, path := range []string{m.storeOf(w.Name), filepath.Join(dir, "fetched")} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return err
		}
	}
	unlock, err := storage.LockFile(ctx, filepath.Join(dir, ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	s.Mounts = []runtime.MountConfig{{Source: m.storeOf(w.Name), Target: w.Store}}
	for _, model := range w.Models {
		sum := sha256.Sum256([]byte(model))
		mark := filepath.Join(dir, "fetched", hex.EncodeToString(sum[:]))
		if _, err := os.Stat(mark); err == nil {
			continue
		}
		if c.opts.Progress != nil {
			c.opts.Progress("fetching " + model + " for " + w.Name)
		}
		bound, cancel := context.WithTimeout(ctx, fetchTimeout)
		err := runner.FetchForService(bound, runtime.ServiceFetch{
			Run: c.row.ID, Home: runtime.HomeHash(m.opts.Home), Service: s, Ready: w.Ready, Commands: [][]string{w.Fetch(model)},
		})
		cancel()
		if err != nil {
			return &Error{Code: AsError(err).Code, Message: model, Next: "check its name, and that containers of the engine reach its registry", Err: err}
		}
		if err := os.WriteFile(mark, []byte(model+"\n"), 0o600); err != nil {
			return err
		}
	}
	return nil
}
