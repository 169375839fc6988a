package confine

import (
	"fmt"
	"os"
	"strconv"
	"syscall"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// SandboxID is the user and group of a command whose workspace belongs to root:
// no command is root.
const SandboxID = 1000

// Owner is the user that a sandbox's processes have.
type Owner struct {
	UID, GID int
	// Mapped says that the workspace belongs to root on the host and has to be
	// bound through a mount in which it belongs to SandboxID.
	Mapped bool
}

// String returns the owner as the engine takes it.
func (o Owner) String() string { return strconv.Itoa(o.UID) + ":" + strconv.Itoa(o.GID) }

// WorkspaceOwner returns the user for a sandbox: whoever the workspace belongs
// to, so that files are theirs on both sides.
func WorkspaceOwner(workspace string) (Owner, error) {
	info, err := os.Stat(workspace)
	if err != nil {
		return Owner{}, fmt.Errorf("look at the workspace: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() {
		return Owner{}, fmt.Errorf("look at the workspace: %s is not a directory", workspace)
	}
	if stat.Uid == 0 {
		return Owner{UID: SandboxID, GID: SandboxID, Mapped: true}, nil
	}
	o := Owner{UID: int(stat.Uid), GID: int(stat.Gid)}
	if o.GID == 0 {
		o.GID = o.UID // the group root reads what ordinary users must not
	}
	return o, nil
}

// CannotMap says why a workspace of root's cannot be used, and what to do.
func CannotMap(workspace string, why error) error {
	return fmt.Errorf("give the workspace %s, which belongs to root, to an ordinary user inside the sandbox: %w: %w; "+
		"give it to an ordinary user on the host with `chown -R 1000:1000 %s`, or use a workspace that belongs to one", workspace, runtime.ErrUnsupported, why, workspace)
}
