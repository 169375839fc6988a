package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// readyCommand prints a line and stays.
var readyCommand = []string{"sh", "-c", "echo ready; exec sleep 600"}

// runAnswer is what is looked at of a run in an answer.
type runAnswer struct {
	Run struct {
		ID    string `json:"id"`
		State string `json:"state"`
	} `json:"run"`
}

// birth is how long one run or container took to its first line.
type birth struct {
	begin, answered, line time.Time
}

// measureCreate measures from the wish to the first line that a command prints.
func measureCreate(ctx context.Context, w *world) error {
	home := w.home("create")
	c, err := w.serve(ctx, home)
	if err != nil {
		return err
	}
	defer func() { _ = c.close() }()
	flags, err := w.flagsOfRun(ctx, c)
	if err != nil {
		return err
	}
	var floor, ours, answered series
	err = alternate(ctx, w.repeat(20), func() error {
		b, err := w.dockerRun(ctx, flags, "")
		floor.millis(b.line.Sub(b.begin))
		return err
	}, func() error {
		b, err := w.createRun(ctx, c)
		ours.millis(b.line.Sub(b.begin))
		answered.millis(b.answered.Sub(b.begin))
		return err
	})
	w.results.compare("to first line", "ms", floor, ours, "<= 1.05")
	w.results.report("to the answer of create_run", "ms", answered, "")
	if err != nil {
		return err
	}
	return w.measureShare(ctx, flags)
}

// createRun makes a run, waits for its line as an agent does, and removes it.
func (w *world) createRun(ctx context.Context, c *client) (b birth, err error) {
	var created runAnswer
	b.begin = time.Now()
	if err := c.tool(ctx, "create_run", map[string]any{"command": readyCommand, "start": true}, &created); err != nil {
		return b, err
	}
	b.answered = time.Now()
	var waited struct{ Satisfied bool }
	err = c.tool(ctx, "wait", map[string]any{"run": created.Run.ID, "until": "output", "match": "ready"}, &waited)
	b.line = time.Now()
	if err == nil && !waited.Satisfied {
		err = errors.New("wait: the run did not print its line")
	}
	return b, errors.Join(err, c.destroy(ctx, created.Run.ID))
}

func (c *client) destroy(ctx context.Context, id string) error {
	return c.tool(ctx, "destroy", map[string]any{"run": id, "confirm": true, "force": true}, &runAnswer{})
}

// dockerRun does the same with docker run. host is the engine's address, empty
// for the usual one.
func (w *world) dockerRun(ctx context.Context, flags []string, host string) (b birth, err error) {
	name := "drawbridge-bench-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	args := slices.Concat([]string{"run", "--name", name}, flags, []string{w.image}, readyCommand)
	cmd := exec.CommandContext(ctx, "docker", args...)
	if host != "" {
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+host)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return b, err
	}
	b.begin = time.Now()
	if err := cmd.Start(); err != nil {
		return b, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	b.line = time.Now()
	_, removing := w.docker(ctx, "rm", "-f", "-v", name)
	_ = cmd.Wait() // the container was killed
	if err != nil || line != "ready\n" {
		return b, fmt.Errorf("docker run printed %q: %w: %s", line, err, stderr.String())
	}
	return b, removing
}

// inspected is the part of a container's configuration that docker run has flags
// for.
type inspected struct {
	Config struct {
		User, WorkingDir string
	}
	HostConfig struct {
		Runtime, NetworkMode, IpcMode, CgroupnsMode string
		CapDrop, SecurityOpt                        []string
		ReadonlyRootfs                              bool
		Tmpfs                                       map[string]string
		ShmSize, Memory, MemorySwap, NanoCPUs       int64
		PidsLimit                                   int64
		Ulimits                                     []struct {
			Name       string
			Hard, Soft int64
		}
		LogConfig struct{ Type string }
	}
}

// flagsOfRun makes a run, looks at its container and returns the flags with which
// docker run makes the same one. What has no flag, such as masked paths, the guest
// and its socket, docker run is spared.
func (w *world) flagsOfRun(ctx context.Context, c *client) ([]string, error) {
	var created runAnswer
	if err := c.tool(ctx, "create_run", map[string]any{"command": readyCommand}, &created); err != nil {
		return nil, err
	}
	text, err := w.docker(ctx, "inspect", "--format", "{{json .}}", created.Run.ID)
	if err := errors.Join(err, c.destroy(ctx, created.Run.ID)); err != nil {
		return nil, err
	}
	var i inspected
	if err := json.Unmarshal([]byte(text), &i); err != nil {
		return nil, fmt.Errorf("read the configuration of a container: %w", err)
	}
	workspace, err := os.MkdirTemp(w.work, "floor-")
	if err != nil {
		return nil, err
	}
	return i.flags(w, workspace)
}

func (i *inspected) flags(w *world, workspace string) ([]string, error) {
	h := i.HostConfig
	flags := []string{
		"--label", label + "=" + w.token, "--init=false", "--pull=never",
		"--user", i.Config.User, "--workdir", i.Config.WorkingDir, "--volume", workspace + ":/workspace",
		"--network", h.NetworkMode, "--log-driver", h.LogConfig.Type,
		"--shm-size", strconv.FormatInt(h.ShmSize, 10),
		"--memory", strconv.FormatInt(h.Memory, 10), "--memory-swap", strconv.FormatInt(h.MemorySwap, 10),
		"--cpus", strconv.FormatFloat(float64(h.NanoCPUs)/1e9, 'f', -1, 64),
		"--pids-limit", strconv.FormatInt(h.PidsLimit, 10),
		"--read-only=" + strconv.FormatBool(h.ReadonlyRootfs),
	}
	for flag, value := range map[string]string{"--runtime": h.Runtime, "--ipc": h.IpcMode, "--cgroupns": h.CgroupnsMode} {
		if value != "" {
			flags = append(flags, flag, value)
		}
	}
	for _, capability := range h.CapDrop {
		flags = append(flags, "--cap-drop", capability)
	}
	for _, option := range h.SecurityOpt {
		if profile, ok := strings.CutPrefix(option, "seccomp={"); ok {
			// The command takes a file where the API takes its content.
			file := filepath.Join(w.dir, "seccomp.json")
			if err := os.WriteFile(file, []byte("{"+profile), 0o600); err != nil {
				return nil, err
			}
			option = "seccomp=" + file
		}
		flags = append(flags, "--security-opt", option)
	}
	for path, options := range h.Tmpfs {
		flags = append(flags, "--tmpfs", path+":"+options)
	}
	for _, limit := range h.Ulimits {
		flags = append(flags, "--ulimit", fmt.Sprintf("%s=%d:%d", limit.Name, limit.Soft, limit.Hard))
	}
	return flags, nil
}

// measureShare measures the same through a proxy that tells the engine's share,
// in a series of its own because the proxy costs something.
func (w *world) measureShare(ctx context.Context, flags []string) error {
	proxy, err := startProxy(filepath.Join(w.dir, "e.sock"))
	if err != nil {
		return err
	}
	defer func() { _ = proxy.close() }()
	c, err := w.serve(ctx, w.home("share"), "DOCKER_HOST="+proxy.Host)
	if err != nil {
		return err
	}
	defer func() { _ = c.close() }()
	if _, err := w.createRun(ctx, c); err != nil { // the first one asks the engine what it is
		return err
	}
	var ours, floor share
	err = alternate(ctx, w.repeat(20), func() error {
		b, err := w.dockerRun(ctx, flags, proxy.Host)
		floor.add(proxy, b)
		return err
	}, func() error {
		b, err := w.createRun(ctx, c)
		ours.add(proxy, b)
		return err
	})
	w.results.compare("own share: all but calls to the engine", "ms", floor.own, ours.own, "< 10 ms")
	w.results.compare("in calls to the engine", "ms", floor.engine, ours.engine, "")
	for _, name := range slices.Sorted(maps.Keys(ours.calls)) {
		w.results.compare("  "+name, "ms", floor.calls[name], ours.calls[name], "")
	}
	w.results.report("  before the first call", "ms", ours.before, "")
	w.results.report("  between the calls", "ms", ours.amid, "")
	w.results.report("  after the last call, to the answer", "ms", ours.after, "")
	w.results.report("  from the answer to the line", "ms", ours.line, "")
	return err
}

// share is where the time of births went.
type share struct {
	own, engine, before, amid, after, line series
	calls                                  map[string]series
}

func (s *share) add(proxy *engineProxy, b birth) {
	calls := proxy.between(b.begin, b.line)
	if len(calls) == 0 {
		return
	}
	inside := covered(calls)
	s.engine.millis(inside)
	s.own.millis(b.line.Sub(b.begin) - inside)
	if s.calls == nil {
		s.calls = make(map[string]series)
	}
	sums := make(map[string]time.Duration)
	for _, call := range calls {
		sums[call.name] += call.end.Sub(call.start)
	}
	for name, sum := range sums {
		of := s.calls[name]
		of.millis(sum)
		s.calls[name] = of
	}
	if b.answered.IsZero() {
		return
	}
	calls = proxy.between(b.begin, b.answered)
	first := slices.MinFunc(calls, func(a, b engineCall) int { return a.start.Compare(b.start) }).start
	last := slices.MaxFunc(calls, func(a, b engineCall) int { return a.end.Compare(b.end) }).end
	s.before.millis(first.Sub(b.begin))
	s.amid.millis(last.Sub(first) - covered(calls))
	s.after.millis(b.answered.Sub(last))
	s.line.millis(b.line.Sub(b.answered))
}
