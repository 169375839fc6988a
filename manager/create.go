package manager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// creation is one Create under way: what has been decided and what has been
// acquired. It has one owner.
type creation struct {
	opts     Options
	row      storage.RunRow
	spec     runtime.Spec
	driver   runtime.Runtime
	releases releaseStack
	key      *storage.Key    // nil without an idempotency key
	gate     *gateState      // nil without a gate
	grantEnv []string        // the variables of its grants
	existing *storage.RunRow // found under the idempotency key: nothing is created
}

// createSteps is what Create does, in order. A step acquires at most one thing
// and pushes its release. The row comes first, so that whatever a crash leaves
// behind belongs to a run that the next Manager finds unfinished and undoes.
var createSteps = []struct {
	name string
	do   func(*Manager, context.Context, *creation) error
}{
	{"record the run", (*Manager).recordRun},
	{"claim the worktree", (*Manager).claimWorktree},
	{"claim the session", (*Manager).claimSession},
	{"make the run's directory", (*Manager).makeDirectory},
	{"copy the workspace", (*Manager).copyWorkspace},
	{"fetch the secrets", (*Manager).fetchSecrets},
	{"make its volumes", (*Manager).makeVolumes},
	{"register with the gate", (*Manager).registerGate},
	{"stage the agent", (*Manager).stageAgent},
	{"get the images of services", (*Manager).getServiceImages},
	{"fetch what services serve", (*Manager).fetchForServices},
	{"make the sandbox", (*Manager).makeSandbox},
	{"publish the run", (*Manager).publishRun},
}

// Create makes a run in StateCreated: its sandbox exists and its command has
// not been started. On error nothing is left behind. With an idempotency key, a
// repeated call returns the run of the first one with Replayed set.
func (m *Manager) Create(ctx context.Context, opts Options) (*Run, error) {
	asked := requestOf(opts)
	opts, err := m.complete(ctx, opts)
	if err != nil {
		return nil, wrapf(err, "create a run")
	}
	key := createKey(opts)
	// A retry builds and fetches nothing.
	if existing, err := m.earlierRun(ctx, key); err != nil || existing != nil {
		if err != nil {
			return nil, wrapf(err, "create a run")
		}
		return m.replayed(ctx, *existing)
	}
	if opts, err = m.withDependencies(ctx, opts); err != nil {
		return nil, wrapf(err, "create a run")
	}
	if opts.Agent != "" {
		opts.request = asked
	}
	row, spec, err := m.plan(ctx, opts)
	if err != nil {
		return nil, wrapf(err, "create a run")
	}
	c := &creation{opts: opts, row: row, spec: spec, key: key}
	if c.driver, err = m.drivers.forNew(runtime.Type(row.Runtime), opts); err != nil {
		return nil, wrapf(err, "create a run")
	}
	release, _ := m.claim(row.ID) // a new ID: nobody else has it
	defer release()
	for _, step := range createSteps {
		if err := m.step("create: " + step.name); err != nil {
			return nil, m.undo(ctx, c, step.name, err)
		}
		if err := step.do(m, ctx, c); err != nil {
			return nil, m.undo(ctx, c, step.name, err)
		}
		if c.existing != nil {
			return m.replayed(ctx, *c.existing)
		}
	}
	c.releases.keep()
	m.log.Info("run created", zap.String("run", c.row.ID), zap.String("name", c.row.Name), zap.String("isolation", c.row.Isolation))
	return m.snapshot(&c.row)
}

// complete returns the options with all that a project, the home and the kind of the run
// add to them, and refuses what the caller may not ask for. It makes nothing but the
// worktree that the run is to work in.
func (m *Manager) complete(ctx context.Context, opts Options) (Options, error) {
	err := m.permitPorts(opts)
	if err == nil {
		err = m.permitServices(opts)
	}
	if err == nil {
		err = m.permitNoSandbox(opts)
	}
	if err == nil {
		err = m.permitDocker(opts)
	}
	if err == nil {
		opts, err = m.withProject(ctx, opts)
	}
	if err == nil {
		opts, err = withConfig(opts)
	}
	if err == nil {
		opts, err = m.withSecrets(opts)
	}
	if err == nil {
		opts, err = withServers(opts)
	}
	if err == nil {
		err = m.checkHeaders(ctx, opts.MCPServers)
	}
	if err == nil {
		opts, err = withOperations(opts)
	}
	if err == nil {
		opts, err = m.withWorktree(ctx, opts)
	}
	if err == nil {
		opts, err = m.withAgent(ctx, opts)
	}
	return opts, err
}

func (m *Manager) undo(ctx context.Context, c *creation, step string, cause error) error {
	if err := c.releases.unwind(ctx); err != nil {
		// The row is still there and says that the run is unfinished: the
		// next sweep tries again.
		m.log.Warn("undoing a failed create left something behind", zap.String("run", c.row.ID), zap.Error(err))
	}
	return wrapf(cause, "create a run: %s", step)
}

// replayed waits for the run that an earlier call with the same idempotency key
// made, or is still making, and returns it.
func (m *Manager) replayed(ctx context.Context, row storage.RunRow) (*Run, error) {
	var err error
	for !row.Ready {
		if err = sleep(ctx, pollInterval); err != nil {
			return nil, wrapf(err, "wait for %s, which an earlier call is creating", row.ID)
		}
		if row, err = m.anyRow(ctx, row.ID); err != nil {
			return nil, failf(CodeUnknownResult, "call again", "the earlier call with this idempotency key failed while this one waited for it")
		}
	}
	run, err := m.snapshot(&row)
	if err != nil {
		return nil, err
	}
	run.Replayed = true
	return run, nil
}

func (m *Manager) recordRun(ctx context.Context, c *creation) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	base, isOurs := c.row.Name, c.row.Name == "" || c.opts.isNamePrefix
	taken := false
	for try := 0; ; try++ {
		hostPorts, err := chooseHostPorts(ctx, c.opts.Ports)
		if err != nil {
			return failf(CodeConflict, "end programs that listen there, or leave the ports out", "%v", err)
		}
		if len(hostPorts) > 0 {
			c.row.Meta = encode(meta{HostPorts: hostPorts})
		}
		switch {
		case base == "" && try < 3:
			c.row.Name = generateName()
		case base == "":
			c.row.Name = withSuffix(generateName())
		case taken:
			c.row.Name = withSuffix(base)
		}
		existing, err := m.store.InsertRun(ctx, c.row, storage.Insertion{
			Key:    c.key,
			Quota:  storage.Quota{MaxLive: m.opts.MaxLiveRuns, MaxMemory: m.opts.MaxMemoryBytes, MaxCPUs: m.opts.MaxCPUs},
			Holder: m.holder.ID(),
			Lease:  leaseTTL,
			Ports:  slices.Collect(maps.Values(hostPorts)),
		})
		if errors.Is(err, storage.ErrPortTaken) && try < 10 {
			continue // that run does not listen there, or not yet
		}
		if errors.Is(err, storage.ErrNameTaken) && isOurs && try < 10 {
			taken = true
			continue
		}
		if err != nil {
			return insertError(err, c.row.Name)
		}
		c.existing = existing
		break
	}
	c.spec.Env = append(endpointEnv(c.row.Name, c.opts), c.spec.Env...)
	if c.existing == nil {
		c.releases.push("the run's row", func(ctx context.Context) error { return m.store.DeleteRun(ctx, c.row.ID) })
	}
	return nil
}

// earlierRun returns the run that an earlier call with the same key has made, or is
// making; nil if there is none.
func (m *Manager) earlierRun(ctx context.Context, key *storage.Key) (*storage.RunRow, error) {
	if key == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	found, err := m.store.RunOf(ctx, *key)
	if err != nil {
		return nil, insertError(err, "")
	}
	return found, nil
}

// createKey returns the idempotency key of a call, nil if it has none. It covers what
// makes two creates the same request, as it is asked for: what comes of dependencies may
// be another image the next time. Progress is not part of it.
func createKey(opts Options) *storage.Key {
	if opts.IdempotencyKey == "" {
		return nil
	}
	return &storage.Key{Op: "create_run", Key: opts.IdempotencyKey, ArgsHash: argsHash(struct {
		Name, Workspace, Image, Runtime, Network string
		Cmd, Env                                 []string
		Keep, Interactive, TTY                   bool
		Rows, Cols                               uint16
		Timeout, Grace                           time.Duration
		Memory, Pids                             int64
		CPUs                                     float64
		Ports                                    map[string]int
		Rules, Grants                            []string
		Secrets                                  map[string]string
		Learn                                    bool
		Mounts                                   []runtime.MountConfig
		Volumes                                  []VolumeMount
		Ulimits                                  []runtime.Ulimit
		Services                                 map[string]config.Service
		Operations                               *daemon.Operations `json:",omitempty"`
		Mode                                     WorkspaceMode
		NoSandbox, Rebuild                       bool
		Dependencies                             []string
		PostBuildRoot, PostBuild, Prompt         string
	}{
		opts.Name, opts.Workspace, opts.Image, string(opts.Runtime), string(opts.Network), opts.Cmd, opts.Env,
		opts.KeepContainer, opts.Interactive, opts.TTY, opts.Rows, opts.Cols, opts.Timeout, opts.StopGrace,
		opts.MemoryBytes, opts.PidsLimit, opts.CPUs, opts.Ports, opts.NetworkRules, opts.Grants, opts.Secrets, opts.Learn,
		opts.Mounts, opts.Volumes, opts.Ulimits, opts.Services, opts.operations, opts.WorkspaceMode, opts.NoSandbox, opts.Rebuild,
		opts.Dependencies, opts.PostBuildRoot, opts.PostBuild, opts.Prompt,
	})}
}

func insertError(err error, name string) error {
	var quota *storage.QuotaError
	switch {
	case errors.As(err, &quota):
		return &Error{Code: CodeQuota, Message: quota.Error(), Retryable: true, cause: err,
			Next: "wait for a run to end, stop or destroy one, or ask the person who runs the server to raise the limit (`drawbridge serve --help` shows the flags)"}
	case errors.Is(err, storage.ErrNameTaken):
		return &Error{Code: CodeConflict, Message: fmt.Sprintf("a live run is already named %q", name), cause: err,
			Next: "choose another name, or destroy that run"}
	case errors.Is(err, storage.ErrKeyReused):
		return &Error{Code: CodeConflict, Message: "this idempotency key was used for a call with other arguments", cause: err,
			Next: "use a new key for a new request"}
	}
	return err
}

func (m *Manager) makeDirectory(_ context.Context, c *creation) error {
	store := m.store.RunStore(c.row.ID)
	c.releases.push("the run's directory", func(ctx context.Context) error { return m.removeDirectory(ctx, c.driver, c.row.ID) })
	if err := store.Create(m.opts.LogLimitBytes); err != nil {
		return err
	}
	c.spec.Dir, c.spec.LogDir = filepath.Join(store.Dir(), "sandbox"), store.LogsDir()
	if err := os.Mkdir(c.spec.Dir, 0o700); err != nil {
		return err
	}
	if c.opts.Workspace == "" && os.Geteuid() == 0 {
		// A workspace of root's would have to be mapped to the sandbox's
		// user; this one is nobody's yet.
		return os.Chown(store.WorkspaceDir(), workspaceOwner, workspaceOwner)
	}
	return nil
}

// workspaceOwner is the user and group that a workspace belongs to which the
// Manager makes as root: an ordinary one, so that the run is not root inside.
const workspaceOwner = 1000

func (m *Manager) makeSandbox(ctx context.Context, c *creation) error {
	handle, err := c.driver.Create(ctx, c.spec)
	if images, has := c.driver.(runtime.ImageManager); has && errors.Is(err, runtime.ErrImageMissing) {
		if err := m.pullImage(ctx, images, c.opts, c.spec.Image); err != nil {
			return wrapf(err, "get the image %s", c.spec.Image)
		}
		handle, err = c.driver.Create(ctx, c.spec)
	}
	if err != nil {
		return err
	}
	c.row.Handle = handle
	c.releases.push("the sandbox", func(ctx context.Context) error { return c.driver.Remove(ctx, handle) })
	return nil
}

func (m *Manager) publishRun(ctx context.Context, c *creation) error {
	made, err := c.driver.Describe(c.row.Handle)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	// A run that has not been started needs no supervisor.
	row, err := m.store.YieldRun(ctx, c.row.ID, []string{string(StateCreated)}, m.holder.ID(), func(row *storage.RunRow) {
		row.Ready = true
		row.Handle = c.row.Handle
		row.BackendID = made.BackendID
		row.Isolation = string(made.Isolation)
		row.IsolationNote = c.opts.docker.note(made.Note)
		_ = changeMeta(row, func(mt *meta) { // recordRun wrote it
			mt.Gate, mt.NetworkID = c.gate, made.NetworkID
			if len(made.Services) > 0 {
				mt.Services = serviceMetas(made)
			}
		})
	})
	if err != nil {
		return err
	}
	c.row = row
	return nil
}
