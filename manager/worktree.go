package manager

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager/record/storage"
	"github.com/drawbridge-mcp/drawbridge/manager/record/worktree"
)

// WorktreesVariable names the directory below which worktrees are made, where that is
// not worktrees in the home.
const WorktreesVariable = "DRAWBRIDGE_WORKTREES"

// worktreeBase is the directory below which worktrees are.
func (m *Manager) worktreeBase() (string, error) {
	base := cmp.Or(os.Getenv(WorktreesVariable), filepath.Join(m.opts.Home, "worktrees"))
	if !filepath.IsAbs(base) {
		return "", failf(CodeInvalidArgument, "set "+WorktreesVariable+" to an absolute path", "worktrees cannot be in %s", base)
	}
	if err := os.MkdirAll(base, 0o700); err != nil {
		return "", wrapf(err, "make the directory of worktrees")
	}
	return resolveDir(base)
}

// withWorktree returns the options of a run that works on a branch: its workspace is a
// checkout of its own then, made from the repository in which the workspace was. The
// checkout stays when the run fails to be created, as it does when one has ended.
func (m *Manager) withWorktree(ctx context.Context, opts Options) (Options, error) {
	if opts.WorktreeBranch == "" {
		return opts, nil
	}
	if m.opts.ForAgents {
		// Git would run in a repository in which a run may have written.
		return opts, failf(CodePolicyDenied, "give it a workspace", "agents cannot have worktrees made")
	}
	if opts.Workspace == "" {
		return opts, failf(CodeInvalidArgument, "name the repository as workspace", "a worktree needs a repository")
	}
	if opts.WorkspaceMode == WorkspaceVolume {
		return opts, failf(CodeInvalidArgument, "leave the worktree out, or use the workspace mode bind", "a worktree is a copy already, and commits in a copy of it would not be found there")
	}
	dir, err := m.checkWorkspace(opts.Workspace)
	if err != nil {
		return opts, err
	}
	repository, err := worktree.Find(ctx, dir)
	if err != nil {
		return opts, worktreeError(err)
	}
	base, err := m.worktreeBase()
	if err != nil {
		return opts, err
	}
	w, err := repository.Plan(ctx, base, opts.WorktreeBranch)
	if err != nil {
		return opts, worktreeError(err)
	}
	opts.Name = worktreeName(cmp.Or(opts.Name, filepath.Base(repository.Dir)), w.Branch)
	if opts.IdempotencyKey == "" { // else it may be the run of an earlier call
		if err := m.refuseBusy(ctx, w.Path, ""); err != nil {
			return opts, err
		}
	}
	if opts.Progress != nil {
		opts.Progress("checking out " + w.Branch + " in " + w.Path)
	}
	if err := repository.Make(ctx, w); err != nil {
		return opts, worktreeError(err)
	}
	opts.Workspace, opts.worktree = w.Path, &w
	return opts, nil
}

// worktreeName is the name of a run on a branch.
func worktreeName(name, branch string) string {
	usual := func(c rune) rune {
		if isLetterOrDigit(c) || c == '_' {
			return c
		}
		return '-'
	}
	full := strings.Trim(strings.Map(usual, strings.ToLower(name+"-"+branch)), "-_")
	return strings.TrimRight(full[:min(len(full), maxNameLen)], "-_")
}

// refuseBusy refuses a worktree in which another live run works.
func (m *Manager) refuseBusy(ctx context.Context, path, own string) error {
	live := true
	for filter := (storage.Filter{Live: &live, Limit: maxListLimit}); ; {
		rows, next, err := m.store.ListRuns(ctx, filter)
		if err != nil {
			return err
		}
		for _, row := range rows {
			if row.Workspace == path && row.ID != own {
				return failf(CodeConflict, "wait for its end, stop it, or choose another branch", "the run %s works in the worktree %s", row.Name, path)
			}
		}
		if next == "" {
			return nil
		}
		filter.Before = next
	}
}

// claimWorktree makes sure that a run that has been recorded is alone in its worktree:
// of two that come at once, none or one is.
func (m *Manager) claimWorktree(ctx context.Context, c *creation) error {
	if c.opts.worktree == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return m.refuseBusy(ctx, c.row.Workspace, c.row.ID)
}

// worktreeError says what mends an error of package worktree.
func worktreeError(err error) error {
	switch {
	case errors.Is(err, worktree.ErrNotRepository):
		return failf(CodeInvalidArgument, "run `git init` there and commit something, or leave the worktree out", "%v", err)
	case errors.Is(err, worktree.ErrBranch):
		return failf(CodeInvalidArgument, "choose another name, see `git help check-ref-format`", "%v", err)
	case errors.Is(err, worktree.ErrOther):
		return failf(CodeConflict, "choose another branch, or remove that worktree with `drawbridge worktree clean`", "%v", err)
	case errors.Is(err, worktree.ErrUnfetched):
		return failf(CodeConflict, "fetch it, or name it to `drawbridge worktree clean` with --force", "%v", err)
	}
	return err
}

// Worktree is a checkout in which runs work on a branch.
type Worktree struct {
	worktree.Worktree
	Run string // name of the live run that works there; empty if none does
}

// Worktrees returns the worktrees of this home, by path.
func (m *Manager) Worktrees(ctx context.Context) ([]Worktree, error) {
	base, err := m.worktreeBase()
	if err != nil {
		return nil, err
	}
	all, err := worktree.List(base)
	if err != nil {
		return nil, err
	}
	at := map[string]string{}
	live := true
	for filter := (storage.Filter{Live: &live, Limit: maxListLimit}); ; {
		rows, next, err := m.store.ListRuns(ctx, filter)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			at[row.Workspace] = row.Name
		}
		if next == "" {
			break
		}
		filter.Before = next
	}
	found := make([]Worktree, len(all))
	for i, w := range all {
		found[i] = Worktree{w, at[w.Path]}
	}
	return found, nil
}

// RemoveWorktree removes a worktree in which no live run works, and no branch of its
// repository. Without force it fails with CodeConflict where the worktree has work that
// the repository does not have.
func (m *Manager) RemoveWorktree(ctx context.Context, w Worktree, force worktree.Force) error {
	base, err := m.worktreeBase()
	if err != nil {
		return err
	}
	if err := m.refuseBusy(ctx, w.Path, ""); err != nil {
		return err
	}
	return worktreeError(worktree.Remove(ctx, base, w.Worktree, force))
}
