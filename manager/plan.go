package manager

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

var errNotDirectory = errors.New("not a directory")

// Limits on what one run may ask for. They keep a mistake from becoming an
// engine's error message, and a hostile caller from filling the database.
const (
	maxCommandBytes = 128 << 10 // the kernel's own limit for one argument
	maxEnvEntries   = 512
	maxEnvBytes     = 256 << 10
	maxPorts        = 32
	minMemoryBytes  = 16 << 20 // less does not start a process in a sandbox
	maxPidsLimit    = 32768
	maxKeyBytes     = 256
	maxStopGrace    = 10 * time.Minute
)

// plan checks options and turns them into the row of a new run and the parts of
// its runtime spec that do not depend on anything acquired. It changes nothing.
func (m *Manager) plan(ctx context.Context, opts Options) (storage.RunRow, runtime.Spec, error) {
	fail := func(err error) (storage.RunRow, runtime.Spec, error) { return storage.RunRow{}, runtime.Spec{}, err }
	if err := checkLimits(opts); err != nil {
		return fail(err)
	}
	if opts.Name != "" {
		if err := validateName(opts.Name); err != nil {
			return fail(failf(CodeInvalidArgument, "", "use the name %q: %v", opts.Name, err))
		}
	}
	kind := opts.Runtime
	if kind == "" {
		kind = m.drivers.preferred(ctx)
	}
	driver, err := m.drivers.forNew(kind, opts)
	if err != nil {
		return fail(err)
	}
	if opts.Image == "" {
		opts.Image = m.imageFor(driver)
	} else if opts.Image, err = m.checkImage(driver, opts.Image); err != nil {
		return fail(err)
	}
	if err := m.chooseNetwork(ctx, driver, &opts); err != nil {
		return fail(err)
	}
	if err := canHaveSecrets(ctx, driver, opts.Secrets); err != nil {
		return fail(err)
	}
	id := newRunID()
	workspace := m.store.RunStore(id).WorkspaceDir()
	owned := opts.Workspace == ""
	switch {
	case opts.worktree != nil:
		workspace = opts.worktree.Path // it was made, and checked, by this Manager
	case !owned:
		var err error
		if workspace, err = m.checkWorkspace(opts.Workspace); err != nil {
			return fail(err)
		}
	}
	mounts, exclude, err := m.checkMounts(opts.Mounts, workspace)
	if err == nil {
		err = checkMode(opts, exclude)
	}
	if err != nil {
		return fail(err)
	}
	if err := checkVolumes(opts, driver, mounts, exclude); err != nil {
		return fail(err)
	}
	opts = withOptionDefaults(opts)
	limits := runtime.Resources{MemoryBytes: opts.MemoryBytes, CPUs: opts.CPUs, PidsLimit: opts.PidsLimit}.WithDefaults()
	if err := runtime.CheckUlimits(opts.Ulimits, limits); err != nil {
		return fail(failf(CodeInvalidArgument, "", "%v", err))
	}
	tty := opts.TTY
	services, serviceEnv := m.serviceWorld(opts.services)
	row := storage.RunRow{
		ID: id, Name: opts.Name, State: string(StateCreated),
		Workspace: workspace, Image: opts.Image, Runtime: string(kind),
		CreatedAt: time.Now(), Keep: opts.KeepContainer,
		Interactive: opts.Interactive || tty, TTY: tty,
		MemoryBytes: limits.MemoryBytes, CPUs: limits.CPUs,
		Spec: encode(spec{
			Command: opts.Cmd, Network: opts.Network, Rules: opts.NetworkRules, Limit: m.opts.NetworkLimit, Learn: opts.Learn, Operations: opts.operations, Agent: opts.Agent, Session: opts.session, ForgetsSessions: opts.forgetsSessions, FirstPrompt: firstPrompt(opts), Request: opts.request, Grants: opts.Grants, Profile: m.opts.Profile, SSHAuthSock: sshAuthSock(opts.Grants), ModelServer: opts.modelServer, Secrets: opts.Secrets, Ports: opts.Ports, Timeout: opts.Timeout, Grace: opts.StopGrace,
			PidsLimit: limits.PidsLimit, LogLimit: m.opts.LogLimitBytes, Rows: opts.Rows, Cols: opts.Cols, OwnedSpace: owned, Worktree: opts.worktree,
			Mode: opts.WorkspaceMode, Exclude: exclude, Volumes: opts.Volumes, Services: serviceSpecs(opts.services),
		}),
	}
	sandbox := runtime.Spec{
		ID: id, Home: runtime.HomeHash(m.opts.Home),
		LogLimit: m.opts.LogLimitBytes, Image: opts.Image, Command: withPreRun(opts), Mounts: mounts, Exclude: exclude, Ulimits: opts.Ulimits, Env: m.withToolPath(kind, opts.Image, slices.Concat(serviceEnv, opts.Env)), Workspace: workspace,
		Network: runtime.NetworkNone, Services: services, Resources: limits,
		Timeout: opts.Timeout, Grace: opts.StopGrace,
		Interactive: row.Interactive, TTY: tty, Rows: opts.Rows, Cols: opts.Cols,
	}
	opts.docker.giveDocker(&sandbox)
	return row, sandbox, nil
}

// UsesImages tells whether runs that name no image get one, because the runtime of
// new runs has nothing else to take programs from.
func (m *Manager) UsesImages(ctx context.Context) bool {
	driver, err := m.drivers.get(m.drivers.preferred(ctx))
	return err == nil && m.imageFor(driver) != ""
}

// imageFor is the image of a run that names none.
func (m *Manager) imageFor(driver runtime.Runtime) string {
	if _, has := driver.(runtime.ImageManager); has && m.opts.DefaultImage == "" {
		return DefaultImage
	}
	return m.opts.DefaultImage
}

func withOptionDefaults(opts Options) Options {
	if len(opts.Cmd) == 0 {
		opts.Cmd = []string{"/bin/bash"}
	}
	if opts.StopGrace == 0 {
		opts.StopGrace = DefaultStopGrace
	}
	return opts
}

// withPreRun returns the command of the sandbox. The script gets the whole of one
// shell, so that nothing in it can become a part of the command.
func withPreRun(opts Options) []string {
	if opts.PreRun == "" {
		return opts.Cmd
	}
	return append([]string{"/bin/sh", "-c", `/bin/sh -c "$0" || exit; exec "$@"`, opts.PreRun}, opts.Cmd...)
}

func checkLimits(opts Options) error {
	size := 0
	for _, arg := range opts.Cmd {
		size += len(arg)
		if strings.ContainsRune(arg, 0) {
			return failf(CodeInvalidArgument, "", "the command contains a NUL byte")
		}
	}
	if len(opts.Cmd) > 0 && opts.Cmd[0] == "" {
		return failf(CodeInvalidArgument, "", "the command's first element is empty")
	}
	if size += len(opts.PreRun); size > maxCommandBytes {
		return failf(CodeInvalidArgument, "write a script into the workspace and run that", "the command has %d bytes, the limit is %d", size, maxCommandBytes)
	}
	for _, limit := range []struct {
		name      string
		value     float64
		low, high float64
		unit      string
	}{
		{"timeout", opts.Timeout.Seconds(), 0, MaxTimeout.Seconds(), "seconds"},
		{"stop grace", opts.StopGrace.Seconds(), 0, maxStopGrace.Seconds(), "seconds"},
		{"memory", float64(opts.MemoryBytes), minMemoryBytes, 1 << 50, "bytes"},
		{"cpus", opts.CPUs, 0.01, 4096, "cores"},
		{"pids limit", float64(opts.PidsLimit), 1, maxPidsLimit, "processes"},
		{"number of ports", float64(len(opts.Ports)), 0, maxPorts, "ports"},
		{"length of the idempotency key", float64(len(opts.IdempotencyKey)), 0, maxKeyBytes, "bytes"},
	} {
		if limit.value != 0 && (limit.value < limit.low || limit.value > limit.high) {
			text := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) } // no exponents
			return failf(CodeInvalidArgument, "choose from "+text(limit.low)+" to "+text(limit.high), "the %s of %s %s is out of range", limit.name, text(limit.value), limit.unit)
		}
	}
	if err := checkPortNames(opts.Ports); err != nil {
		return err
	}
	return checkEnv(opts.Env)
}

func checkEnv(env []string) error {
	size := 0
	for _, entry := range env {
		size += len(entry)
		key, _, ok := strings.Cut(entry, "=")
		if !ok || key == "" || strings.ContainsAny(key, " \t\n") || strings.ContainsRune(entry, 0) {
			return failf(CodeInvalidArgument, "write KEY=VALUE", "the environment entry for %q is not usable", key)
		}
	}
	if len(env) > maxEnvEntries || size > maxEnvBytes {
		return failf(CodeInvalidArgument, "pass large data in a file of the workspace",
			"the environment has %d entries and %d bytes, the limits are %d and %d", len(env), size, maxEnvEntries, maxEnvBytes)
	}
	return nil
}

// argsHash identifies the arguments of a call, so that a reused idempotency key
// is told from a retry.
func argsHash(args any) string {
	data, err := json.Marshal(args)
	if err != nil {
		panic(fmt.Sprintf("marshal %T: %v", args, err))
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// pullImage fetches the image that a driver does not have.
func (m *Manager) pullImage(ctx context.Context, images runtime.ImageManager, opts Options, ref string) error {
	report := opts.Progress
	if report == nil {
		report = func(string) {}
	}
	report("pulling the image " + ref)
	return images.Pull(ctx, ref, func(p runtime.PullProgress) {
		report(strings.TrimSpace(fmt.Sprintf("pulling %s: %s %s", ref, p.Status, p.Layer)))
	})
}
