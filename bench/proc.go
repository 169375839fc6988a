package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of times in /proc/PID/stat. Linux has reported 100 a
// second to programs on every architecture for decades.
const clockTick = 10 * time.Millisecond

// process is what /proc tells of a process.
type process struct {
	rss, peak float64 // MB
	threads   int
	files     int
	cpu       time.Duration // user and system
}

// look reads what a process uses. It works on Linux only.
func look(pid int) (process, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return process{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	var p process
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if len(fields) == 0 {
			continue
		}
		n, _ := strconv.ParseFloat(fields[0], 64)
		switch key {
		case "VmRSS":
			p.rss = n * 1024 / 1e6
		case "VmHWM":
			p.peak = n * 1024 / 1e6
		case "Threads":
			p.threads = int(n)
		}
	}
	if open, err := os.ReadDir(filepath.Join(dir, "fd")); err == nil {
		p.files = len(open)
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return process{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	// The name in brackets may contain anything; fields count from after it.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 13 {
		return process{}, fmt.Errorf("look at process %d: unreadable stat %q", pid, stat)
	}
	for _, field := range fields[11:13] {
		ticks, _ := strconv.ParseInt(field, 10, 64)
		p.cpu += time.Duration(ticks) * clockTick
	}
	return p, nil
}

// describeMachine returns what a reader needs to judge the figures.
func (w *world) describeMachine(ctx context.Context) []string {
	engine, err := w.docker(ctx, "info", "--format", "engine {{.ServerVersion}}, {{.DefaultRuntime}}, {{.Driver}}, cgroup v{{.CgroupVersion}}, kernel {{.KernelVersion}}, {{.OperatingSystem}}")
	if err != nil {
		engine = "no Docker engine"
	}
	model := runtime.GOARCH
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, ok := strings.CutPrefix(line, "model name"); ok {
				model = strings.Trim(name, " \t:\n")
				break
			}
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	return []string{
		fmt.Sprintf("machine: %d CPUs, %s; %s; %s", runtime.NumCPU(), model, engine, runtime.Version()),
		fmt.Sprintf("load when it began: %s; a loaded machine makes single figures worthless, ratios less so", strings.TrimSpace(string(load))),
	}
}
