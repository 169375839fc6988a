//go:build linux

package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what a group uses and has used.
type Usage struct {
	MemoryBytes int64 // without page cache that the kernel would give up first
	MemoryLimit int64
	CPUTime     time.Duration
	Processes   int64
	OOMKills    int64 // processes that were killed for want of memory
	PidsRefused int64 // times that the limit of processes refused one
}

// Usage reads the group's counters. It returns an error where the group is gone.
func (g *Group) Usage() (Usage, error) {
	if g.Unified != "" {
		return g.usageUnified()
	}
	memory, pids := g.Dirs["memory"], g.Dirs["pids"]
	total, err := number(memory, "memory.usage_in_bytes")
	if err != nil {
		return Usage{}, fmt.Errorf("read what a sandbox uses: %w", err)
	}
	limit, _ := number(memory, "memory.limit_in_bytes")
	nanoseconds, _ := number(g.Dirs["cpuacct"], "cpuacct.usage")
	processes, _ := number(pids, "pids.current")
	return Usage{
		MemoryBytes: total - min(field(memory, "memory.stat", "total_inactive_file"), total),
		MemoryLimit: limit,
		CPUTime:     time.Duration(nanoseconds),
		Processes:   processes,
		OOMKills:    oomKillsV1(memory),
		PidsRefused: field(pids, "pids.events", "max"),
	}, nil
}

// oomKillsV1 adds up what each group below counts, because version 1 counts a
// kill where the process was.
func oomKillsV1(dir string) int64 {
	var n int64
	for _, sub := range tree(dir) {
		n += field(sub, "memory.oom_control", "oom_kill")
	}
	return n
}

func (g *Group) usageUnified() (Usage, error) {
	dir := g.Unified
	total, err := number(dir, "memory.current")
	if err != nil {
		return Usage{}, fmt.Errorf("read what a sandbox uses: %w", err)
	}
	limit, _ := number(dir, "memory.max")
	processes, _ := number(dir, "pids.current")
	return Usage{
		MemoryBytes: total - min(field(dir, "memory.stat", "inactive_file"), total),
		MemoryLimit: limit,
		CPUTime:     time.Duration(field(dir, "cpu.stat", "usage_usec")) * time.Microsecond,
		Processes:   processes,
		OOMKills:    field(dir, "memory.events", "oom_kill"),
		PidsRefused: field(dir, "pids.events", "max"),
	}, nil
}

// number reads a file with one number; "max" is zero.
func number(dir, file string) (int64, error) {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(data))
	if text == "max" {
		return 0, nil
	}
	return strconv.ParseInt(text, 10, 64)
}

// field reads one number of a file of names and numbers; zero if it has none.
func field(dir, file, name string) int64 {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if key == name {
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}
