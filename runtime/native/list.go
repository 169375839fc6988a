//go:build linux

package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// entry says in Options.StateDir that a sandbox exists. It is made before anything
// else of the sandbox, and removed after everything.
type entry struct {
	Handle json.RawMessage   `json:"handle"`
	Labels map[string]string `json:"labels"`
}

// entrySuffix tells entries from other files.
const entrySuffix = ".sandbox"

func (d *Driver) entries() string { return filepath.Join(d.options.StateDir, "sandboxes") }

func (d *Driver) entryOf(run string) string { return filepath.Join(d.entries(), run+entrySuffix) }

// enter records a sandbox.
func (d *Driver) enter(h *handle, spec runtime.Spec) error {
	if err := os.MkdirAll(d.entries(), 0o700); err != nil {
		return fmt.Errorf("list the sandbox: %w", err)
	}
	encoded, err := h.encode()
	if err != nil {
		return err
	}
	labels := make(map[string]string, len(spec.Labels)+3)
	maps.Copy(labels, spec.Labels)
	labels[runtime.LabelRun], labels[runtime.LabelHome], labels[runtime.LabelRole] = spec.ID, spec.Home, runtime.RoleSandbox
	data, err := json.Marshal(entry{Handle: json.RawMessage(encoded), Labels: labels})
	if err != nil {
		return fmt.Errorf("list the sandbox: %w", err)
	}
	fresh, err := os.CreateTemp(d.entries(), "new-")
	if err != nil {
		return fmt.Errorf("list the sandbox: %w", err)
	}
	_, err = fresh.Write(data)
	err = errors.Join(err, fresh.Close())
	if err == nil {
		// Unlike a renaming, this never replaces another's.
		err = os.Link(fresh.Name(), d.entryOf(h.Run))
	}
	err = errors.Join(err, os.Remove(fresh.Name()))
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("there is a sandbox of that name: %w", runtime.ErrConflict)
	}
	if err != nil {
		return fmt.Errorf("list the sandbox: %w", err)
	}
	return nil
}

// own makes the caller the only one, in any process, that removes a sandbox; false
// if it has been removed.
func (d *Driver) own(ctx context.Context, run string) (release func(), ok bool, err error) {
	f, err := os.Open(d.entryOf(run))
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, false, errors.Join(err, f.Close())
		}
		if err := sleep(ctx, endLook); err != nil {
			return nil, false, errors.Join(err, f.Close())
		}
	}
	if _, err := os.Stat(d.entryOf(run)); err != nil {
		return nil, false, f.Close() // who had it before has removed it
	}
	return func() { _ = f.Close() }, true, nil
}

// List returns the sandboxes that carry all of labels.
func (d *Driver) List(ctx context.Context, labels map[string]string) ([]runtime.Object, error) {
	d.pool.sweep()
	found, err := os.ReadDir(d.entries())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the native sandboxes: %w: %w", runtime.ErrUnavailable, err)
	}
	objects := make([]runtime.Object, 0, len(found))
	for _, f := range found {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !strings.HasSuffix(f.Name(), entrySuffix) {
			continue
		}
		object, ok, err := d.object(filepath.Join(d.entries(), f.Name()), labels)
		if err != nil {
			return nil, fmt.Errorf("list the native sandboxes: %w", err)
		}
		if ok {
			objects = append(objects, object)
		}
	}
	return objects, nil
}

// object reads one entry; false if it has gone, or has other labels.
func (d *Driver) object(path string, labels map[string]string) (runtime.Object, bool, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return runtime.Object{}, false, nil
	}
	if err != nil {
		return runtime.Object{}, false, err
	}
	var e entry
	if err := json.Unmarshal(data, &e); err != nil {
		return runtime.Object{}, false, fmt.Errorf("read %s: %w", path, err)
	}
	for key, value := range labels {
		if e.Labels[key] != value {
			return runtime.Object{}, false, nil
		}
	}
	h, err := decodeHandle(runtime.Handle(e.Handle))
	if err != nil {
		return runtime.Object{}, false, err
	}
	phase, err := h.phase()
	if errors.Is(err, runtime.ErrNotFound) {
		phase = runtime.PhaseExited // half removed
	} else if err != nil {
		return runtime.Object{}, false, err
	}
	return runtime.Object{Handle: runtime.Handle(e.Handle), Name: h.Run, Run: h.Run, Role: e.Labels[runtime.LabelRole], Phase: phase}, true, nil
}
