package docker

import (
	"fmt"
	"os"
	"strconv"
	"syscall"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// sandboxID is the user and group of a command whose workspace belongs to root:
// no command is root.
const sandboxID = 1000

// owner is the user that a sandbox's processes have.
type owner struct {
	uid, gid int
	// mapped says that the workspace belongs to root on the host and has to be
	// bound through a mount in which it belongs to sandboxID.
	mapped bool
}

// String returns the owner as the engine takes it.
func (o owner) String() string { return strconv.Itoa(o.uid) + ":" + strconv.Itoa(o.gid) }

// workspaceOwner returns the user for a sandbox: whoever the workspace belongs
// to, so that files are theirs on both sides.
func workspaceOwner(workspace string) (owner, error) {
	info, err := os.Stat(workspace)
	if err != nil {
		return owner{}, fmt.Errorf("look at the workspace: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() {
		return owner{}, fmt.Errorf("look at the workspace: %s is not a directory", workspace)
	}
	if stat.Uid == 0 {
		return owner{uid: sandboxID, gid: sandboxID, mapped: true}, nil
	}
	o := owner{uid: int(stat.Uid), gid: int(stat.Gid)}
	if o.gid == 0 {
		o.gid = o.uid // the group root reads what ordinary users must not
	}
	return o, nil
}

// cannotMap says why a workspace of root's cannot be used, and what to do.
func cannotMap(workspace string, why error) error {
	return fmt.Errorf("give the workspace %s, which belongs to root, to an ordinary user inside the sandbox: %w: %w; "+
		"give it to an ordinary user on the host with `chown -R 1000:1000 %s`, or use a workspace that belongs to one", workspace, runtime.ErrUnsupported, why, workspace)
}
