package guest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// A sandbox can be booted before it is known for which run. Its mounts are fixed
// then, except for what the host mounts below one directory of it, the stage, when
// the run is there. The guest puts these where they belong. For that it has two
// capabilities, which it gives up for good before it looks at anything of the run.

// runStaged waits for orders as long as the host keeps the connection, puts what is
// on the stage in its places, and performs the orders.
func runStaged(procs *processes, options map[string]string) int {
	places, err := parsePlaces(options["places"])
	if err != nil {
		return complain(err)
	}
	meeting, start, files, err := link.Meet(context.Background(), options["socket"])
	if err != nil {
		return complain(fmt.Errorf("run: no run for this sandbox: %w", err))
	}
	if err := errors.Join(setStage(options["stage"], places), dropCapabilities()); err != nil {
		return failStart(meeting, files, err)
	}
	return runDirect(procs, meeting, start, files)
}

// place is where something on the stage belongs.
type place struct{ name, target string }

// parsePlaces reads pairs of a name and a path, with a colon between.
func parsePlaces(list string) ([]place, error) {
	var places []place
	for pair := range strings.SplitSeq(list, ",") {
		name, target, ok := strings.Cut(pair, ":")
		if !ok || name == "" || strings.Contains(name, "/") || !filepath.IsAbs(target) {
			return nil, fmt.Errorf("run: %q is no place of a stage", pair)
		}
		places = append(places, place{name, target})
	}
	return places, nil
}

// setStage binds what is on the stage to its places, and takes the stage away.
func setStage(stage string, places []place) error {
	for _, p := range places {
		if err := unix.Mount(filepath.Join(stage, p.name), p.target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", p.target, err)
		}
	}
	if err := unix.Unmount(stage, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", stage, err)
	}
	// The directory below is the host's, which sees the same there.
	if err := unix.Mount("none", stage, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0555,size=4k"); err != nil {
		return fmt.Errorf("cover %s: %w", stage, err)
	}
	return nil
}

// stageCapabilities are those that setStage and dropCapabilities need.
var stageCapabilities = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP}

// dropCapabilities gives up all capabilities, on all threads and for all children. A
// thread that differs from the others ends the program.
func dropCapabilities() error {
	for _, c := range stageCapabilities {
		if _, _, no := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); no != 0 {
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, no)
		}
	}
	if _, _, no := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0); no != 0 {
		return fmt.Errorf("clear the ambient capabilities: %w", no)
	}
	header, none := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
	//nolint:gosec // G103: the call wants addresses, and only this way reaches all threads
	if _, _, no := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0); no != 0 {
		return fmt.Errorf("give up the capabilities: %w", no)
	}
	return nil
}
