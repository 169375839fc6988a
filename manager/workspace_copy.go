package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/drawbridge-mcp/drawbridge/manager/record/treecopy"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/confine"
)

// WorkspaceMode says how a run has its workspace.
type WorkspaceMode string

// The modes.
const (
	WorkspaceBind   WorkspaceMode = "bind"   // the directory itself; the default
	WorkspaceVolume WorkspaceMode = "volume" // a copy of the run's own, that goes away with it
)

// Bounds of a copy of a workspace, in either direction: room for a large repository with
// what was built in it, and little enough that a mistake does not fill a disk.
const (
	maxWorkspaceEntries = 500_000
	maxWorkspaceBytes   = 10 << 30
)

// checkMode refuses a mode that the run cannot have.
func checkMode(opts Options, exclude []string) error {
	switch {
	case opts.WorkspaceMode == "" || opts.WorkspaceMode == WorkspaceBind:
		return nil
	case opts.WorkspaceMode != WorkspaceVolume:
		return failf(CodeInvalidArgument, "use bind or volume", "unknown workspace mode %q", opts.WorkspaceMode)
	case opts.Workspace == "":
		return failf(CodeInvalidArgument, "name a workspace", "there is no workspace that could be copied")
	}
	for _, name := range exclude {
		if first, _, _ := strings.Cut(path.Clean(name), "/"); first == ".git" {
			return failf(CodeInvalidArgument, "do not exclude it, or use the workspace mode bind", "a workspace that is copied keeps its .git")
		}
	}
	return nil
}

// copyWorkspace fills the workspace of a run that works in a copy. The copy lies in the
// run's directory, with which it is released. A run that goes on with the session of one
// that worked in a copy goes on with that copy.
func (m *Manager) copyWorkspace(ctx context.Context, c *creation) error {
	if c.opts.WorkspaceMode != WorkspaceVolume {
		return nil
	}
	if c.opts.Progress != nil {
		c.opts.Progress("copying the workspace " + c.row.Workspace)
	}
	from := cmp.Or(c.opts.copyOf, c.row.Workspace)
	owner, err := copyOwner(from)
	if err != nil {
		return err
	}
	sp, err := decode[spec](c.row.Spec, "specification", c.row.ID)
	if err != nil {
		return err
	}
	// What it excludes is not in the copy, and so has not to be hidden there.
	c.spec.Workspace, c.spec.Exclude = m.store.RunStore(c.row.ID).WorkspaceDir(), nil
	_, err = treecopy.Copy(ctx, from, c.spec.Workspace, treecopy.Options{
		Exclude: sp.Exclude, MaxEntries: maxWorkspaceEntries, MaxBytes: maxWorkspaceBytes, Owner: owner,
	})
	return copyError(err, "exclude what the run does not need, by `exclude` of the mount at "+runtime.WorkspacePath+" in moat.yaml, or use the workspace mode bind")
}

// copyOwner gives what belongs to the owner of a workspace to the user of the run, who
// is another one where that is root. The rest keeps its owner, so that the run reads
// nothing in the copy that it could not read in the workspace.
func copyOwner(workspace string) (func(uid, gid int) (int, int), error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	user, err := confine.WorkspaceOwner(workspace)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(workspace)
	if err != nil {
		return nil, fmt.Errorf("look at the workspace: %w", err)
	}
	was, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("look at the workspace: %s has no owner", workspace)
	}
	return func(uid, gid int) (int, int) {
		if uid == int(was.Uid) {
			uid = user.UID
		}
		if gid == int(was.Gid) {
			gid = user.GID
		}
		return uid, gid
	}, nil
}

// copyError classifies an error of a copy. tooLarge mends one that is too large.
func copyError(err error, tooLarge string) error {
	switch {
	case errors.Is(err, treecopy.ErrTooLarge):
		return &Error{Code: CodeQuota, Message: err.Error(), Next: tooLarge, cause: err}
	case errors.Is(err, treecopy.ErrReplaced):
		return &Error{Code: CodeConflict, Message: err.Error(), Retryable: true, Next: "end what changes it, and try again", cause: err}
	case errors.Is(err, fs.ErrPermission):
		return &Error{Code: CodePolicyDenied, Message: err.Error(), Next: "make it readable for the user of drawbridge, or exclude it", cause: err}
	}
	return err
}

// WorkspaceDir returns the directory in which the run works: its Workspace, or its copy
// of that.
func (r *Run) WorkspaceDir() string {
	if r.WorkspaceMode == WorkspaceVolume && r.Store != nil {
		return r.Store.WorkspaceDir()
	}
	return r.Workspace
}

// WorkspaceCopy says what CopyWorkspace has copied, and what not.
type WorkspaceCopy = treecopy.Report

// CopyWorkspace copies the workspace of a run, where it goes away with the run, into a
// new directory of the caller's: the way to what the run has changed. Paths below the
// workspace that are excluded are left out. So are links that may lead out of the copy,
// and what is no file, directory or link: the run decides what there is. What the run
// writes meanwhile, if it is up, may be missing. After an error there is no directory.
func (m *Manager) CopyWorkspace(ctx context.Context, runID, dir string, exclude []string) (WorkspaceCopy, error) {
	report, err := m.copyOut(ctx, runID, dir, exclude)
	return report, wrapf(err, "copy the workspace of %s to %s", runID, dir)
}

func (m *Manager) copyOut(ctx context.Context, runID, dir string, exclude []string) (report WorkspaceCopy, err error) {
	run, err := m.get(ctx, runID)
	if err != nil {
		return report, err
	}
	if !run.OwnedWorkspace() && run.WorkspaceMode != WorkspaceVolume {
		return report, failf(CodeInvalidArgument, "look there", "the run works in %s itself, and not in a copy", run.Workspace)
	}
	if i := slices.IndexFunc(exclude, func(name string) bool { return !filepath.IsLocal(name) }); i >= 0 {
		return report, failf(CodeInvalidArgument, "name paths below the workspace", "exclude %q: that is not below it", exclude[i])
	}
	if dir, err = m.newDir(dir); err != nil {
		return report, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	from, err := filepath.EvalSymlinks(run.Store.Dir())
	if err != nil {
		return report, err
	}
	report, err = treecopy.Copy(ctx, filepath.Join(from, filepath.Base(run.WorkspaceDir())), dir, treecopy.Options{
		Exclude: exclude, Links: treecopy.LinksInside, MaxEntries: maxWorkspaceEntries, MaxBytes: maxWorkspaceBytes, DirMode: 0o700,
	})
	if err == nil {
		// A copy of what was being destroyed is no copy.
		_, err = m.row(ctx, runID)
	}
	return report, copyError(err, "leave out what you do not need, with --exclude PATH of `drawbridge workspace copy`")
}

// newDir makes a directory, which must not be there, outside of the home.
func (m *Manager) newDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	parent, err := resolveDir(filepath.Dir(dir))
	if err != nil {
		return "", failf(CodeInvalidArgument, "name a new directory in one that exists", "%v", err)
	}
	home, err := filepath.EvalSymlinks(m.opts.Home)
	if err != nil {
		return "", err
	}
	dir = filepath.Join(parent, filepath.Base(dir))
	if within(home, dir) {
		return "", failf(CodeInvalidArgument, "name another directory", "it lies in Drawbridge's own home")
	}
	err = os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return "", failf(CodeConflict, "name a directory that is not there yet; nothing is copied over what is there", "%s exists", dir)
	}
	return dir, err
}
