package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// mode is how the driver talks to the guest, see the package's documentation.
type mode string

const (
	modeDirect mode = "direct"
	modeEngine mode = "engine"
)

// handleVersion is the version of the handle's layout.
const handleVersion = 1

// handle is what a runtime.Handle of this driver holds.
type handle struct {
	V           int               `json:"v"`
	ID          string            `json:"id"`               // of the container; empty for a network
	Run         string            `json:"run"`              // ID of the run
	Engine      string            `json:"engine,omitempty"` // where it answers, as DOCKER_HOST has it
	Dir         string            `json:"dir,omitempty"`    // Spec.Dir
	Logs        string            `json:"logs,omitempty"`   // Spec.LogDir
	Mode        mode              `json:"mode"`
	Isolation   runtime.Isolation `json:"isolation"`
	Note        string            `json:"note,omitempty"`
	Mapped      string            `json:"mapped,omitempty"` // the workspace, where it is bound through a mount with mapped owners
	TTY         bool              `json:"tty,omitempty"`
	Interactive bool              `json:"interactive,omitempty"`
	Ports       map[string]int    `json:"ports,omitempty"`  // endpoint name to port in the sandbox
	Limits      string            `json:"limits,omitempty"` // that the guest sets, see host.Limits
	// Part is the role of what is not a sandbox and was found by List.
	Part    string      `json:"part,omitempty"`
	Network *ownNetwork `json:"network,omitempty"`
}

func (h *handle) encode() (runtime.Handle, error) {
	h.V = handleVersion
	data, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode the handle of %s: %w", h.Run, err)
	}
	return data, nil
}

// decodeHandle reads the handle of a sandbox.
func decodeHandle(data runtime.Handle) (*handle, error) {
	h, err := decodeObject(data)
	if err != nil {
		return nil, err
	}
	if h.Part != "" {
		return nil, fmt.Errorf("use the %s of %s as a sandbox: %w: it can be removed and no more", h.Part, h.Run, runtime.ErrUnsupported)
	}
	if h.ID == "" || (h.Mode != modeDirect && h.Mode != modeEngine) {
		return nil, errors.New("read the handle of a Docker sandbox: it names no container")
	}
	return h, nil
}

// decodeObject reads the handle of any object of a run.
func decodeObject(data runtime.Handle) (*handle, error) {
	var h handle
	if err := json.Unmarshal(data, &h); err != nil {
		return nil, fmt.Errorf("read the handle of a Docker sandbox: %w", err)
	}
	if h.V != handleVersion {
		return nil, fmt.Errorf("read the handle of a Docker sandbox: its version is %d, not %d: %w; use the drawbridge that made it", h.V, handleVersion, runtime.ErrUnsupported)
	}
	return &h, nil
}

// The files that the driver keeps in Spec.Dir.
func (h *handle) socket() string    { return filepath.Join(h.Dir, "guest.sock") }
func (h *handle) control() string   { return filepath.Join(h.Dir, "control.sock") }
func (h *handle) status() string    { return filepath.Join(h.Dir, "status.json") }
func (h *handle) order() string     { return filepath.Join(h.Dir, "start.json") }
func (h *handle) lock() string      { return filepath.Join(h.Dir, "start.lock") }
func (h *handle) begun() string     { return filepath.Join(h.Dir, "start.begun") }
func (h *handle) empty() string     { return filepath.Join(h.Dir, "empty") } // what hides files
func (h *handle) saved() string     { return filepath.Join(h.Dir, "handle.json") }
func (h *handle) workspace() string { return filepath.Join(h.Dir, workspaceMount) }

// workspaceMount is where under Spec.Dir a workspace with mapped owners is
// mounted while its sandbox starts.
const workspaceMount = "workspace"

// files lists what may be in Spec.Dir of the driver's.
func (h *handle) files() []string {
	return []string{h.socket(), h.control(), h.status(), h.order(), h.lock(), h.begun(), h.empty(), h.saved()}
}
