package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// waitingShims returns the shims of the sandboxes in home that are booted, also of one
// whose run has just ended.
func waitingShims(home string) ([]int, error) {
	notes, err := filepath.Glob(filepath.Join(home, "native", "waiting", "*", "sandbox.json"))
	if err != nil {
		return nil, err
	}
	var shims []int
	for _, file := range notes {
		var s struct {
			Shim    struct{ PID int } `json:"shim"`
			Process struct{ PID int } `json:"process"`
		}
		if data, err := os.ReadFile(file); err == nil && json.Unmarshal(data, &s) == nil && s.Process.PID > 0 {
			shims = append(shims, s.Shim.PID)
		}
	}
	return shims, nil
}

// awaitWaiting returns when a sandbox waits for the next run in home, and no other is
// left there.
func awaitWaiting(ctx context.Context, home string) (shim int, err error) {
	for {
		entries, err := os.ReadDir(filepath.Join(home, "native", "waiting"))
		if err != nil && !os.IsNotExist(err) {
			return 0, err
		}
		shims, err := waitingShims(home)
		if err != nil {
			return 0, err
		}
		if len(shims) == 1 && len(entries) == 1 {
			// The shim has noted it; the server is told in the same moment.
			return shims[0], sleep(ctx, 50*time.Millisecond)
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// measureWaiting reports the memory of one sandbox that waits: of its shim and all
// processes below, where a page that several share counts in parts.
func (w *world) measureWaiting(ctx context.Context, home string) error {
	shim, err := awaitWaiting(ctx, home)
	if err != nil {
		return err
	}
	total, processes, err := treePSS(shim)
	if err != nil {
		return err
	}
	w.results.figure(fmt.Sprintf("memory of one that waits (PSS of %d processes)", processes), "MB", total, "")
	return nil
}

// treePSS adds up the megabytes of a process and all processes below it.
func treePSS(root int) (total float64, processes int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", root))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "Pss:"); ok {
			kilobytes, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			if err != nil {
				return 0, 0, err
			}
			total, processes = kilobytes/1024, 1
		}
	}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", root))
	if err != nil {
		return 0, 0, err
	}
	for _, list := range lists {
		children, err := os.ReadFile(list)
		if err != nil {
			return 0, 0, err
		}
		for child := range strings.FieldsSeq(string(children)) {
			pid, err := strconv.Atoi(child)
			if err != nil {
				return 0, 0, err
			}
			megabytes, count, err := treePSS(pid)
			if err != nil {
				return 0, 0, err
			}
			total, processes = total+megabytes, processes+count
		}
	}
	return total, processes, nil
}
