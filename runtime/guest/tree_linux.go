package guest

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

// maxKillPasses bounds how often a tree that goes on forking is looked for.
const maxKillPasses = 20

// procStat is what the kernel says about a process.
type procStat struct {
	pid, parent, group, session int
}

// killTree kills the process group and the session of child, and all of their
// descendants that are connected to it by their parents.
func (p *processes) killTree(child *process) {
	known := map[int]bool{child.pid: true}
	for range maxKillPasses {
		found := findTree(child.pid, known)
		if p.signalGroup(child, syscall.SIGKILL) != nil && found == 0 {
			return
		}
		for pid := range known {
			// The leader is the business of signalGroup, which knows
			// whether its number is still its own.
			if pid != child.pid {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
			}
		}
		if found == 0 {
			return
		}
	}
}

// findTree adds to known what belongs to root, and returns how many it added.
func findTree(root int, known map[int]bool) int {
	stats := readProcesses()
	added := 0
	for again := true; again; {
		again = false
		for _, s := range stats {
			if s.pid == 1 || s.pid == os.Getpid() || known[s.pid] {
				continue
			}
			if s.group == root || s.session == root || known[s.parent] {
				known[s.pid] = true
				added++
				again = true
			}
		}
	}
	return added
}

// readProcesses lists what /proc shows; nothing where it is not mounted.
func readProcesses() []procStat {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var stats []procStat
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			if s, ok := readStat(pid); ok {
				stats = append(stats, s)
			}
		}
	}
	return stats
}

func readStat(pid int) (procStat, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, false
	}
	// The name in parentheses may contain anything, also parentheses.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 4 {
		return procStat{}, false
	}
	s := procStat{pid: pid}
	for i, v := range []*int{&s.parent, &s.group, &s.session} {
		if *v, err = strconv.Atoi(string(fields[i+1])); err != nil {
			return procStat{}, false
		}
	}
	return s, true
}
