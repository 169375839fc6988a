package manager

import (
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// hidden returns the paths below the workspace where the sandbox has something else
// than the host: what it sees empty, and volumes.
func (r *Run) hidden() []string {
	var all []string
	if r.WorkspaceMode != WorkspaceVolume { // what a copy lacks is the run's to make
		for _, exclude := range r.Exclude {
			all = append(all, path.Clean(exclude))
		}
	}
	for _, v := range r.Volumes {
		if below, ok := workspacePath(path.Clean(v.Target)); ok {
			all = append(all, below)
		}
	}
	return all
}

// sees tells whether files of the workspace are to be taken from the sandbox, which
// is up and has some that are others than on the host.
func (r *Run) sees() bool { return r.State.Active() && len(r.hidden()) > 0 }

// checkVisible refuses a path of the workspace, where no sandbox is up, that may not
// be what the run had there. Links count as such, because nothing here tells where
// they led.
func (r *Run) checkVisible(root *os.Root, name string) error {
	hidden := r.hidden()
	if len(hidden) == 0 {
		return nil
	}
	for _, h := range hidden {
		if name == h || strings.HasPrefix(name, h+"/") {
			return failf(CodePolicyDenied, "", "%s of the workspace is hidden from the run, or a volume of it", h)
		}
	}
	for at := name; at != "."; at = path.Dir(at) {
		if info, err := root.Lstat(at); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return failf(CodePolicyDenied, "name what it leads to, below "+runtime.WorkspacePath,
				"%s is a symbolic link, and parts of the workspace are hidden from the run", at)
		}
	}
	return nil
}
