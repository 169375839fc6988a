package manager

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/confine"
)

// VolumeType says where a volume is.
type VolumeType string

// The types of volumes.
const (
	VolumeBind   VolumeType = "bind"   // a directory of the home; the default
	VolumeEngine VolumeType = "volume" // a volume of the Docker engine
)

// VolumeMount is a volume in a sandbox. The runs of one name in one workspace share
// it, and it outlives them.
type VolumeMount struct {
	Name     string     `json:"name"`
	Target   string     `json:"target"` // absolute path in the sandbox
	ReadOnly bool       `json:"readonly,omitempty"`
	Type     VolumeType `json:"type,omitempty"`
}

// Volume is storage that outlives runs.
type Volume struct {
	ID        string // by which it is removed
	Type      VolumeType
	Name      string
	Run       string   // name of the runs that share it
	Workspace string   // of these runs; empty for runs that were given none
	Dir       string   // host directory; empty for one of an engine
	Bytes     int64    // of its files; zero for one of an engine
	UsedBy    []string // IDs of the recorded runs that have it, live or ended
	Live      bool     // one of these is live
}

// Labels of the volumes of an engine, beside those of package runtime.
const (
	labelVolume    = "drawbridge.volume"
	labelVolumeRun = "drawbridge.volume.run"
	labelVolumeOf  = "drawbridge.volume.workspace"
)

// maxRunVolumes bounds the volumes of one run.
const maxRunVolumes = 16

// checkVolumes refuses volumes that no run can have.
func checkVolumes(opts Options, driver runtime.Runtime, mounts []runtime.MountConfig, exclude []string) error {
	if len(opts.Volumes) > maxRunVolumes {
		return failf(CodeInvalidArgument, "", "there are %d volumes, the limit is %d", len(opts.Volumes), maxRunVolumes)
	}
	if len(opts.Volumes) > 0 && opts.Name == "" {
		return failf(CodeInvalidArgument, "name the run", "volumes are shared by runs of one name, and this one has none")
	}
	taken := map[string]string{runtime.WorkspacePath: "the workspace"}
	for _, m := range mounts {
		taken[m.Target] = m.Source
		for _, e := range m.Exclude {
			taken[path.Join(m.Target, e)] = "what is excluded"
		}
	}
	for _, e := range exclude {
		taken[path.Join(runtime.WorkspacePath, e)] = "what is excluded"
	}
	for _, v := range opts.Volumes {
		target := path.Clean(v.Target)
		_, engine := driver.(runtime.VolumeManager)
		switch {
		case !storage.ValidVolumeName(v.Name):
			return failf(CodeInvalidArgument, "use at most 63 lower-case letters, digits, '-' and '_', a letter or a digit first", "a volume cannot be named %q", v.Name)
		case v.Type != VolumeBind && v.Type != VolumeEngine && v.Type != "":
			return failf(CodeInvalidArgument, "use bind or volume", "the volume %s has the unknown type %q", v.Name, v.Type)
		case v.Type == VolumeEngine && !engine:
			return failf(CodeUnsupported, "leave the type out for a directory of the home", "the runtime %s has no volumes of its own, and %s is to be one", driver.Type(), v.Name)
		case !path.IsAbs(v.Target) || target == "/":
			return failf(CodeInvalidArgument, "choose an absolute path", "mount the volume %s at %q: no volume can be there", v.Name, v.Target)
		case taken[target] != "":
			return failf(CodeInvalidArgument, "choose another target", "mount the volume %s at %s: %s is there", v.Name, target, taken[target])
		}
		taken[target] = "the volume " + v.Name
	}
	return nil
}

// volumeSet is whose the volumes of a run are.
func (m *Manager) volumeSet(row *storage.RunRow) storage.VolumeSet {
	set := storage.VolumeSet{Run: row.Name, Workspace: row.Workspace}
	if row.Workspace == m.store.RunStore(row.ID).WorkspaceDir() {
		set.Workspace = "" // it goes away with its run
	}
	return set
}

// makeVolumes adds the run's volumes to its sandbox. They are not released: they are
// for the next run, too.
func (m *Manager) makeVolumes(ctx context.Context, c *creation) error {
	if len(c.opts.Volumes) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	set := m.volumeSet(&c.row)
	owner, err := volumeOwner(c.row.Workspace)
	if err != nil {
		return err
	}
	for _, v := range c.opts.Volumes {
		target := path.Clean(v.Target)
		if v.Type == VolumeEngine {
			c.spec.Volumes = append(c.spec.Volumes, runtime.VolumeMount{
				Name: m.engineVolume(set, v.Name), Target: target, ReadOnly: v.ReadOnly,
				Labels: map[string]string{labelVolume: v.Name, labelVolumeRun: set.Run, labelVolumeOf: set.Workspace},
			})
			continue
		}
		dir, err := m.store.EnsureVolume(ctx, set, v.Name, owner)
		if errors.Is(err, storage.ErrTooManyVolumes) {
			return failf(CodeQuota, "remove some with `drawbridge volumes prune`", "%v", err)
		}
		if err != nil {
			return err
		}
		c.spec.Mounts = append(c.spec.Mounts, runtime.MountConfig{Source: dir, Target: target, ReadOnly: v.ReadOnly})
	}
	return nil
}

// volumeOwner is whom a volume has to belong to so that the command can use it; nil
// where that is the user of this process.
func volumeOwner(workspace string) (*storage.VolumeOwner, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	user, err := confine.WorkspaceOwner(workspace)
	return &storage.VolumeOwner{UID: user.UID, GID: user.GID}, err
}

// engineVolume is the name of a volume in an engine, which may serve several homes.
func (m *Manager) engineVolume(set storage.VolumeSet, name string) string {
	return "drawbridge-" + runtime.HomeHash(m.opts.Home) + "-" + set.ID() + "-" + name
}

// Volumes returns the volumes of the home. Those of an engine that does not answer
// are left out, and the error says so.
func (m *Manager) Volumes(ctx context.Context) ([]Volume, error) {
	all, err := m.volumes(ctx)
	return all, wrapf(err, "list volumes")
}

func (m *Manager) volumes(ctx context.Context) ([]Volume, error) {
	own, err := m.store.Volumes()
	if err != nil {
		return nil, err
	}
	users, err := m.volumeUsers(ctx)
	if err != nil {
		return nil, err
	}
	var all []Volume
	for _, v := range own {
		all = append(all, Volume{
			ID: v.Set.ID() + "/" + v.Name, Type: VolumeBind, Name: v.Name, Run: v.Set.Run, Workspace: v.Set.Workspace, Dir: v.Dir, Bytes: treeSize(v.Dir),
		})
	}
	err = m.eachVolumeManager(ctx, func(driver runtime.VolumeManager) error {
		found, err := driver.Volumes(ctx, map[string]string{runtime.LabelHome: runtime.HomeHash(m.opts.Home), runtime.LabelRole: runtime.RoleVolume})
		for _, v := range found {
			all = append(all, Volume{
				ID: v.Name, Type: VolumeEngine, Name: v.Labels[labelVolume], Run: v.Labels[labelVolumeRun], Workspace: v.Labels[labelVolumeOf],
			})
		}
		return err
	})
	for i := range all {
		for _, user := range users[all[i].ID] {
			all[i].UsedBy = append(all[i].UsedBy, user.id)
			all[i].Live = all[i].Live || user.live
		}
	}
	slices.SortFunc(all, func(a, b Volume) int { return cmp.Compare(a.ID, b.ID) })
	return all, err
}

// eachVolumeManager calls f with each runtime that has volumes. That of a runtime
// which this home does not use may not answer.
func (m *Manager) eachVolumeManager(ctx context.Context, f func(runtime.VolumeManager) error) error {
	drivers, err := m.drivers.each()
	errs := []error{err}
	for _, driver := range drivers {
		volumes, is := driver.(runtime.VolumeManager)
		if !is {
			continue
		}
		if err := f(volumes); err != nil && (!errors.Is(err, runtime.ErrUnavailable) || m.uses(ctx, driver.Type())) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

type volumeUser struct {
	id   string
	live bool
}

// volumeUsers returns the recorded runs by the IDs of the volumes that they have,
// also those that are just being created.
func (m *Manager) volumeUsers(ctx context.Context) (map[string][]volumeUser, error) {
	users := make(map[string][]volumeUser)
	filter := storage.Filter{}
	for {
		rows, next, err := m.store.ListRuns(ctx, filter)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			sp, _, err := m.documents.of(&rows[i])
			if err != nil {
				return nil, err
			}
			set := m.volumeSet(&rows[i])
			for _, v := range sp.Volumes {
				id := set.ID() + "/" + v.Name
				if v.Type == VolumeEngine {
					id = m.engineVolume(set, v.Name)
				}
				users[id] = append(users[id], volumeUser{id: rows[i].ID, live: !State(rows[i].State).Terminal()})
			}
		}
		if next == "" {
			return users, nil
		}
		filter.Before = next
	}
}

// RemoveVolume removes a volume with what is in it. It fails with CodeConflict while
// a live run has it.
func (m *Manager) RemoveVolume(ctx context.Context, id string) error {
	all, err := m.volumes(ctx)
	at := slices.IndexFunc(all, func(v Volume) bool { return v.ID == id })
	if at < 0 {
		return wrapf(errors.Join(failf(CodeNotFound, "`drawbridge volumes list` shows those that there are", "there is no volume %q", id), err), "remove a volume")
	}
	return m.removeVolume(ctx, all[at], func(users []volumeUser) bool {
		return slices.ContainsFunc(users, func(u volumeUser) bool { return u.live })
	})
}

// PruneVolumes removes the volumes that no recorded run has, live or ended, and
// returns them. What could not be removed is in the error.
func (m *Manager) PruneVolumes(ctx context.Context, dryRun bool) ([]Volume, error) {
	all, err := m.volumes(ctx)
	errs := []error{err}
	var gone []Volume
	for _, v := range all {
		if len(v.UsedBy) > 0 {
			continue
		}
		if !dryRun {
			err := m.removeVolume(ctx, v, func(users []volumeUser) bool { return len(users) > 0 })
			if err != nil && AsError(err).Code == CodeConflict {
				continue // a run has come that has it
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
		}
		gone = append(gone, v)
	}
	return gone, wrapf(errors.Join(errs...), "remove volumes")
}

// removeVolume removes a volume unless those who have it forbid that.
func (m *Manager) removeVolume(ctx context.Context, v Volume, forbid func([]volumeUser) bool) error {
	inUse := func() (bool, error) {
		users, err := m.volumeUsers(ctx)
		return forbid(users[v.ID]), err
	}
	if v.Type == VolumeBind {
		set, name, _ := strings.Cut(v.ID, "/")
		return volumeConflict(v.ID, m.store.RemoveVolume(ctx, set, name, inUse))
	}
	// Where a run comes meanwhile, its sandbox keeps the volume, or makes it again.
	if used, err := inUse(); err != nil || used {
		return errors.Join(err, volumeConflict(v.ID, storage.ErrVolumeInUse))
	}
	return m.eachVolumeManager(ctx, func(driver runtime.VolumeManager) error {
		return volumeConflict(v.ID, driver.RemoveVolume(ctx, v.ID))
	})
}

func volumeConflict(id string, err error) error {
	if errors.Is(err, storage.ErrVolumeInUse) || errors.Is(err, runtime.ErrConflict) {
		return &Error{Code: CodeConflict, Message: "remove the volume " + id + ": a run has it", Next: "destroy that run first; `drawbridge volumes list` names it", cause: err}
	}
	return err
}

// takeVolumes adds the volumes of the Config to those of the caller.
func takeVolumes(o *Options, c *config.Config) error {
	volumes := slices.Clone(o.Volumes)
	for _, v := range c.Volumes {
		volumes = append(volumes, VolumeMount{Name: v.Name, Target: v.Target, ReadOnly: v.ReadOnly, Type: VolumeType(v.Type)})
	}
	o.Volumes = volumes
	return nil
}
