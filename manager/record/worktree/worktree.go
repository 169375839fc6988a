// Package worktree keeps checkouts in which runs work on branches of a repository, one
// for each branch: the repository itself, and what else is checked out, stays as it is.
//
// A worktree is a clone. Git's own worktrees share hooks, configuration, references
// and objects with their repository, and whoever works in one has to be able to write
// there; a run that can do that decides what Git executes on the host later. So a
// worktree has a repository of its own with the history of its branch and nothing
// else, and what was committed there comes back when somebody fetches it.
//
// # What it guarantees
//
// Nothing is written to the repository. A worktree that is there is never replaced,
// and Remove refuses to remove work that the repository does not have. Once a run has
// worked in a worktree, what is in it is a stranger's: no Git command is run there that
// would follow its configuration or its hooks, and nothing outside of the base is
// removed.
//
// # What it does not do
//
// It fetches nothing, and it leaves submodules and large files of Git LFS out.
package worktree

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Errors of this package.
var (
	// ErrNotRepository says that a directory is not in a repository of Git.
	ErrNotRepository = errors.New("it is not in a repository of Git")
	// ErrBranch says that a name cannot be that of a branch.
	ErrBranch = errors.New("it cannot be the name of a branch")
	// ErrUnfetched says that a worktree has work that its repository does not have.
	ErrUnfetched = errors.New("it has work that its repository does not have")
	// ErrOther says that the place of a worktree belongs to another repository.
	ErrOther = errors.New("its place belongs to another repository")
)

// Bounds.
const (
	cloneTimeout  = 10 * time.Minute
	gitTimeout    = time.Minute
	maxWorktrees  = 1000 // that are listed
	maxBranchName = 200  // bytes: with what is put around it, a name of a file
)

// Repository is where a worktree comes from.
type Repository struct {
	Dir string // its working tree, absolute, resolved
	// ID names it among others: host and path of its remote origin, e.g.
	// "github.com/owner/name", or "_local/" and the name of its directory.
	ID     string
	origin string // URL of origin without credentials; empty if there is none
}

// Worktree is a checkout of a branch.
type Worktree struct {
	Path   string    `json:"-"` // of the checkout
	Branch string    `json:"branch"`
	RepoID string    `json:"repo_id"`
	Source string    `json:"source"` // the repository's directory
	Made   time.Time `json:"made"`
}

// Find returns the repository in which a directory is. The error matches
// ErrNotRepository where there is none.
func Find(ctx context.Context, dir string) (Repository, error) {
	top, err := git(ctx, gitTimeout, dir, nil, "rev-parse", "--show-toplevel")
	if err != nil || top == "" {
		return Repository{}, fmt.Errorf("use %s: %w", dir, errors.Join(ErrNotRepository, err))
	}
	r := Repository{Dir: top}
	// There may be none.
	origin, _ := git(ctx, gitTimeout, top, nil, "config", "--get", "remote.origin.url")
	r.origin = reachable(origin)
	r.ID = repoID(r.origin, top)
	return r, nil
}

// Plan returns the worktree of a branch below base, which may be there or not. The
// error matches ErrBranch where the name is not one of a branch.
func (r Repository) Plan(ctx context.Context, base, branch string) (Worktree, error) {
	if len(branch) > maxBranchName || strings.HasPrefix(branch, "-") {
		return Worktree{}, fmt.Errorf("use the branch %.80q: %w", branch, ErrBranch)
	}
	if _, err := git(ctx, gitTimeout, r.Dir, nil, "check-ref-format", "refs/heads/"+branch); err != nil {
		return Worktree{}, fmt.Errorf("use the branch %.80q: %w", branch, ErrBranch)
	}
	path := filepath.Join(base, filepath.FromSlash(r.ID), fileName(branch))
	return Worktree{Path: path, Branch: branch, RepoID: r.ID, Source: r.Dir}, nil
}

// fileName is the name of a branch as that of one directory: no branch has a tilde.
func fileName(branch string) string { return strings.ReplaceAll(branch, "/", "~") }

// note is where a worktree is noted, beside it and out of reach of what runs in it.
func (w Worktree) note() string { return w.Path + ".worktree.json" }

// Make makes a worktree unless it is there: with the branch where the repository has
// it, and else with a new one from its HEAD. The error matches ErrOther if another
// repository has its place.
func (r Repository) Make(ctx context.Context, w Worktree) error {
	known, err := read(w.Path)
	switch {
	case err == nil && known.Source != r.Dir:
		return fmt.Errorf("make the worktree %s: %w: %s", w.Path, ErrOther, known.Source)
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("make the worktree %s: %w", w.Path, err)
	}
	if err := r.clone(ctx, w); err != nil {
		return fmt.Errorf("make a worktree of %s for the branch %s: %w", r.Dir, w.Branch, err)
	}
	return nil
}

// clone makes a worktree at another place and moves it to its own, so that there is all
// of it or nothing.
func (r Repository) clone(ctx context.Context, w Worktree) error {
	if _, err := git(ctx, gitTimeout, r.Dir, nil, "rev-parse", "--verify", "--quiet", "HEAD^{commit}"); err != nil {
		return errors.New("the repository has no commit yet")
	}
	parent := filepath.Dir(w.Path)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	made, err := os.MkdirTemp(parent, ".new-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(made) }()
	work := filepath.Join(made, "work")
	args := []string{"clone", "--quiet", "--no-local", "--single-branch", "--template="}
	_, missing := git(ctx, gitTimeout, r.Dir, nil, "rev-parse", "--verify", "--quiet", "refs/heads/"+w.Branch)
	if missing == nil {
		args = append(args, "--branch", w.Branch)
	}
	if _, err := git(ctx, cloneTimeout, made, nil, append(args, "--", r.Dir, work)...); err != nil {
		return err
	}
	if missing != nil {
		_, detached := git(ctx, gitTimeout, work, nil, "branch", "--move", w.Branch)
		if detached != nil {
			if _, err := git(ctx, gitTimeout, work, nil, "checkout", "--quiet", "-b", w.Branch); err != nil {
				return errors.Join(detached, err)
			}
		}
	}
	if err := r.settle(ctx, work); err != nil {
		return err
	}
	w.Made = time.Now().UTC()
	data, err := json.Marshal(w)
	if err != nil {
		return err
	}
	note := filepath.Join(made, "note")
	if err := os.WriteFile(note, data, 0o600); err != nil {
		return err
	}
	// A place that is taken is an error of either.
	if err := os.Rename(work, w.Path); err != nil {
		return err
	}
	return os.Rename(note, w.note())
}

// settle gives a new clone the remote that the repository has, and the name under which
// its owner commits: nothing in it leads to the repository on this machine.
func (r Repository) settle(ctx context.Context, work string) error {
	steps := [][]string{{"remote", "remove", "origin"}}
	if r.origin != "" {
		steps = append(steps, []string{"remote", "add", "origin", r.origin})
	}
	for _, name := range []string{"user.name", "user.email"} {
		if value, err := git(ctx, gitTimeout, r.Dir, nil, "config", "--get", name); err == nil && value != "" {
			steps = append(steps, []string{"config", name, value})
		}
	}
	for _, step := range steps {
		if _, err := git(ctx, gitTimeout, work, nil, step...); err != nil {
			return err
		}
	}
	return os.RemoveAll(filepath.Join(work, ".git", "logs")) // they say where it was cloned from
}

// List returns the worktrees below base, by path.
func List(base string) ([]Worktree, error) {
	var all []Worktree
	err := filepath.WalkDir(base, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !entry.IsDir() || path == base {
			return err
		}
		if strings.HasPrefix(entry.Name(), ".new-") {
			return fs.SkipDir
		}
		known, err := read(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a part of the name of a repository
		}
		if err != nil {
			return err
		}
		if all = append(all, known); len(all) == maxWorktrees {
			return fs.SkipAll
		}
		return fs.SkipDir // what is in it is nobody's business here
	})
	if err != nil {
		return nil, fmt.Errorf("list the worktrees in %s: %w", base, err)
	}
	slices.SortFunc(all, func(a, b Worktree) int { return strings.Compare(a.Path, b.Path) })
	return all, nil
}

// read returns the worktree at a path. The error matches fs.ErrNotExist if there is
// none.
func read(path string) (Worktree, error) {
	w := Worktree{Path: path}
	data, err := os.ReadFile(w.note())
	if err != nil {
		return w, err
	}
	if err := json.Unmarshal(data, &w); err != nil {
		return w, fmt.Errorf("read %s: %w; remove it and %s if nothing in there is needed", w.note(), err, path)
	}
	return w, nil
}

// Remove removes a worktree, and nothing in its repository. Without force the error
// matches ErrUnfetched if the worktree has commits or changes that the repository does
// not have.
func Remove(ctx context.Context, base string, w Worktree, force Force) error {
	if rest, err := filepath.Rel(base, w.Path); err != nil || !filepath.IsLocal(rest) || rest == "." {
		return fmt.Errorf("remove the worktree %s: it is not below %s", w.Path, base)
	}
	if force == KeepUnfetched {
		if err := w.checkFetched(ctx); err != nil {
			return fmt.Errorf("remove the worktree %s: %w", w.Path, err)
		}
	}
	if err := errors.Join(os.RemoveAll(w.Path), os.Remove(w.note())); err != nil {
		return fmt.Errorf("remove the worktree %s: %w", w.Path, err)
	}
	// The names of its repository go with the last one.
	for dir := filepath.Dir(w.Path); dir != base && os.Remove(dir) == nil; {
		dir = filepath.Dir(dir)
	}
	return nil
}

// Force says whether work is removed that nobody else has.
type Force int

// The choices.
const (
	KeepUnfetched Force = iota
	RemoveUnfetched
)
