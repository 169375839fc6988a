package docker

import (
	"strings"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// engineSocket returns the path of the engine's own socket, where a sandbox that has
// it mounted can connect to it, or else what a person can do for that.
func engineSocket(f *facts, how chosen, host string) (path, mend string) {
	path, isSocket := strings.CutPrefix(host, "unix://")
	switch {
	case !isSocket || !f.direct():
		return "", "use an engine that runs on this machine, outside of a virtual machine and without SELinux, and listens at a Unix socket"
	case how.isolation == runtime.IsolationGVisor && !f.sockets:
		return "", "make the run without gVisor (`--sandbox none`), or add " + hostSockets + " to the runtimeArgs of " + f.runsc + " in /etc/docker/daemon.json and reload the engine with `systemctl reload docker`"
	}
	return path, ""
}
