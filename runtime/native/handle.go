//go:build linux

package native

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/host"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/shim"
)

// handleVersion is the version of the handle's layout.
const handleVersion = 1

// handle is what a runtime.Handle of this driver holds.
type handle struct {
	V           int               `json:"v"`
	Run         string            `json:"run"` // ID of the run
	Dir         string            `json:"dir"` // directory of the sandbox, in Spec.Dir
	Logs        string            `json:"logs"`
	Isolation   runtime.Isolation `json:"isolation"`
	Note        string            `json:"note,omitempty"`
	Interactive bool              `json:"interactive,omitempty"`
	// Workspace is the one that is mounted with mapped owners, empty where the
	// bundle names it itself.
	Workspace string            `json:"workspace,omitempty"`
	Resources runtime.Resources `json:"resources"`
}

func (h *handle) encode() (runtime.Handle, error) {
	h.V = handleVersion
	data, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode the handle of %s: %w", h.Run, err)
	}
	return data, nil
}

func decodeHandle(data runtime.Handle) (*handle, error) {
	var h handle
	if err := json.Unmarshal(data, &h); err != nil {
		return nil, fmt.Errorf("read the handle of a native sandbox: %w", err)
	}
	if h.V != handleVersion {
		return nil, fmt.Errorf("read the handle of a native sandbox: its version is %d, not %d: %w; use the drawbridge that made it", h.V, handleVersion, runtime.ErrUnsupported)
	}
	if h.Run == "" || !filepath.IsAbs(h.Dir) || filepath.Base(h.Dir) != sandboxDir {
		return nil, errors.New("read the handle of a native sandbox: it names no directory")
	}
	return &h, nil
}

// sandboxDir is the directory in Spec.Dir that holds everything of this driver's,
// so that one removal takes it all.
const sandboxDir = "native"

// The files of a sandbox, beside those of the shim.
func (h *handle) bundle() string { return filepath.Join(h.Dir, "bundle") }
func (h *handle) config() string { return filepath.Join(h.Dir, "bundle", "config.json") }
func (h *handle) order() string  { return filepath.Join(h.Dir, "start.json") }
func (h *handle) claim() string  { return filepath.Join(h.Dir, "claim.json") }
func (h *handle) lock() string   { return filepath.Join(h.Dir, "start.lock") }
func (h *handle) empty() string  { return filepath.Join(h.Dir, "empty") } // what hides files

// workspaceMount is where the workspace is mounted with mapped owners, seen by the
// processes of the sandbox only.
func (h *handle) workspaceMount() string { return filepath.Join(h.Dir, "workspace") }

// sandbox returns the host's side of the guest.
func (d *Driver) sandbox(h *handle) *host.Sandbox {
	return &host.Sandbox{
		Run:         h.Run,
		Control:     shim.Control(h.Dir),
		Status:      shim.Status(h.Dir),
		Logs:        h.Logs,
		Interactive: h.Interactive,
		Backend:     witness{h},
	}
}

func (h *handle) describe() runtime.Description {
	return runtime.Description{Isolation: h.Isolation, Note: h.Note, BackendID: h.Run, LogsInPlace: true}
}
