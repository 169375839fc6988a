//go:build linux

package shim

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/native/cgroup"
)

// Where no control groups can be written, the shim holds a sandbox to its limits as
// well as an ordinary user can: it measures its memory and kills it above the
// limit, and keeps it on as many processors as it may use. The number of processes
// is the business of the sandbox's own kernel.

// memoryLook is how often memory is measured: a sandbox that grows by a gigabyte a
// second is noticed within a few hundred megabytes.
const memoryLook = 200 * time.Millisecond

// overLimit sends when the sandbox uses more memory than it may. It is nil where
// control groups see to that.
func (k *keeper) overLimit(done <-chan struct{}) <-chan struct{} {
	if k.notes.Group != nil || k.job.Limits == nil || k.job.Limits.MemoryBytes <= 0 {
		return nil
	}
	over := make(chan struct{}, 1)
	go func() {
		look := time.NewTicker(memoryLook)
		defer look.Stop()
		for {
			select {
			case <-done:
				return
			case <-look.C:
			}
			if memoryOf(children()) > k.job.Limits.MemoryBytes {
				over <- struct{}{}
				return
			}
		}
	}()
	return over
}

// narrow keeps the calling thread, and what it starts, on as many processors as
// the limit allows, any of those that it has.
func narrow(limits *cgroup.Limits) error {
	if limits == nil || limits.CPUs <= 0 {
		return nil
	}
	var have, keep unix.CPUSet
	if err := unix.SchedGetaffinity(0, &have); err != nil {
		return fmt.Errorf("read the processors of this process: %w", err)
	}
	want := int(math.Ceil(limits.CPUs))
	if want >= have.Count() {
		return nil
	}
	var all []int
	for cpu := 0; len(all) < have.Count(); cpu++ {
		if have.IsSet(cpu) {
			all = append(all, cpu)
		}
	}
	//nolint:gosec // G404: where a sandbox runs is no secret
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, cpu := range all[:want] {
		keep.Set(cpu)
	}
	if err := unix.SchedSetaffinity(0, &keep); err != nil {
		return fmt.Errorf("limit the processors of the sandbox: %w", err)
	}
	return nil
}

// memoryOf returns the bytes that processes use: their own, and once what they hold
// in memory files, where gVisor keeps the memory of programs.
func memoryOf(pids []int) int64 {
	var total int64
	files := make(map[uint64]bool)
	for _, pid := range pids {
		total += anonymous(pid)
		links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil {
			continue
		}
		for _, link := range links {
			target, err := os.Readlink(link)
			if err != nil || !strings.HasPrefix(target, "/memfd:") {
				continue
			}
			var st unix.Stat_t
			if unix.Stat(link, &st) == nil && !files[st.Ino] {
				files[st.Ino] = true
				const block = 512
				total += st.Blocks * block
			}
		}
	}
	return total
}

// anonymous returns the bytes of a process's own memory, zero if it has ended.
func anonymous(pid int) int64 {
	bytes, err := statusBytes(pid, "RssAnon:")
	if err != nil {
		return 0
	}
	return bytes
}

// Resident returns the bytes of a process that are in memory, shared or not.
func Resident(pid int) (int64, error) { return statusBytes(pid, "VmRSS:") }

// statusBytes reads a field of a process's status that is in kilobytes.
func statusBytes(pid int, name string) (int64, error) {
	file := fmt.Sprintf("/proc/%d/status", pid)
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, name); ok {
			kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read %s: %w", file, err)
			}
			return kilobytes << 10, nil
		}
	}
	return 0, fmt.Errorf("read %s: it has no %s", file, name)
}

// Usage measures a sandbox that has no control group.
func (s Sandbox) Usage() (runtime.Stats, error) {
	// Just after the start the runtime has not told which process lives on.
	lasting := s.Process
	if lasting.PID == 0 {
		lasting = s.Shim
	}
	if !lasting.Alive() {
		return runtime.Stats{}, fmt.Errorf("measure process %d: %w", lasting.PID, os.ErrProcessDone)
	}
	pids := descendants(s.Shim.PID)
	stats := runtime.Stats{At: time.Now(), MemoryBytes: memoryOf(pids), Processes: int64(len(pids))}
	for _, pid := range pids {
		used, err := cpuTime(pid)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return runtime.Stats{}, err
		}
		stats.CPUTime += used
	}
	return stats, nil
}

// descendants returns the processes below pid.
func descendants(pid int) []int {
	var all []int
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil
	}
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		for field := range strings.FieldsSeq(string(data)) {
			if child, err := strconv.Atoi(field); err == nil {
				all = append(append(all, child), descendants(child)...)
			}
		}
	}
	return all
}

// cpuTime returns the processor time that a process has used.
func cpuTime(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	rest := string(data)
	fields := strings.Fields(rest[strings.LastIndexByte(rest, ')')+1:])
	const user, system = 11, 12 // fields 14 and 15 of all
	const ticks = 100           // a second, on every Linux that Go runs on
	if len(fields) <= system {
		return 0, fmt.Errorf("read /proc/%d/stat: it has %d fields", pid, len(fields))
	}
	u, err1 := strconv.ParseInt(fields[user], 10, 64)
	s, err2 := strconv.ParseInt(fields[system], 10, 64)
	return time.Duration(u+s) * time.Second / ticks, errors.Join(err1, err2)
}
