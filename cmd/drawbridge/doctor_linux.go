package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// idmapMajor and idmapMinor are the first kernel with id-mapped mounts.
const (
	idmapMajor = 5
	idmapMinor = 12
)

// checkPlatform looks at what the kernel offers.
func checkPlatform() []finding {
	findings := []finding{checkCgroups("/proc/cgroups", "/sys/fs/cgroup/cgroup.controllers")}
	if os.Getuid() == 0 {
		findings = append(findings, checkKernel())
	}
	return findings
}

// checkCgroups tells whether limits of memory, CPU and processes can hold.
func checkCgroups(v1Path, v2Path string) finding {
	needed := []string{"cpu", "memory", "pids"}
	if text, err := os.ReadFile(v2Path); err == nil {
		return cgroupFinding("v2", needed, strings.Fields(string(text)))
	}
	text, err := os.ReadFile(v1Path)
	if err != nil {
		return warn("cgroups", "", "the controllers are unknown: %v", err)
	}
	var enabled []string
	for line := range strings.Lines(string(text)) {
		// name, hierarchy, number of cgroups, enabled
		if fields := strings.Fields(line); len(fields) == 4 && fields[3] == "1" {
			enabled = append(enabled, fields[0])
		}
	}
	return cgroupFinding("v1", needed, enabled)
}

func cgroupFinding(version string, needed, enabled []string) finding {
	var missing []string
	for _, name := range needed {
		if !slices.Contains(enabled, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return warn("cgroups", "enable them in the kernel or for this machine's container, or such limits do not hold",
			"%s without %s", version, strings.Join(missing, ", "))
	}
	return ok("cgroups", "%s, with limits of memory, CPU and processes", version)
}

// checkKernel tells whether workspaces that belong to root can be lent to a user
// that is not.
func checkKernel() finding {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return warn("kernel", "", "its version is unknown: %v", err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return warn("kernel", "", "its version %q is not understood", release)
	}
	if major < idmapMajor || major == idmapMajor && minor < idmapMinor {
		return warn("kernel", "run drawbridge as the user who owns the workspaces, or use Linux 5.12 or newer",
			"Linux %s has no id-mapped mounts, which workspaces that belong to root need", release)
	}
	return ok("kernel", "Linux %s has id-mapped mounts for workspaces that belong to root", release)
}
