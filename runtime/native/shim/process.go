//go:build linux

package shim

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process identifies a process for longer than its number does: numbers are used
// again.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // when it started, in clock ticks since the boot
}

// identify returns the identity of a living process.
func identify(pid int) (Process, error) {
	p, state, err := look(pid)
	if err == nil && state == 'Z' {
		err = os.ErrProcessDone
	}
	return p, err
}

// look reads a process's identity and its state letter.
func look(pid int) (Process, byte, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, 0, err
	}
	// The second field is a name in brackets, which may hold anything.
	rest := string(data)
	rest = rest[strings.LastIndexByte(rest, ')')+1:]
	fields := strings.Fields(rest)
	const startField = 19 // field 22 of all
	if len(fields) <= startField {
		return Process{}, 0, fmt.Errorf("read /proc/%d/stat: it has %d fields", pid, len(fields))
	}
	start, err := strconv.ParseUint(fields[startField], 10, 64)
	if err != nil {
		return Process{}, 0, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
	}
	return Process{PID: pid, Start: start}, fields[0][0], nil
}

// Alive tells whether the process runs.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	now, err := identify(p.PID)
	return err == nil && now == p
}

// Kill kills the process, unless its number belongs to another one by now.
func (p Process) Kill() error {
	if !p.Alive() {
		return nil
	}
	if err := unix.Kill(p.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	return nil
}

// children returns the processes below this one, with the orphans that it has
// inherited.
func children() []int { return descendants(os.Getpid()) }
