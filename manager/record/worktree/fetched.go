package worktree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// checkFetched returns an error that matches ErrUnfetched unless the repository has all
// that was committed in the worktree, and nothing else was changed there. It runs Git
// in the repository, which tells a server in the worktree to list its references: that
// is made for repositories of strangers. Files are compared with the repository's own
// settings, and no setting of the worktree counts.
func (w Worktree) checkFetched(ctx context.Context) error {
	if _, err := os.Lstat(w.Path); errors.Is(err, os.ErrNotExist) {
		return nil // somebody has removed it already
	}
	refs, err := git(ctx, gitTimeout, w.Source, nil, "ls-remote", "--", w.Path)
	if err != nil {
		return fmt.Errorf("%w, or it is damaged: %w", ErrUnfetched, err)
	}
	tip := ""
	for line := range strings.Lines(refs) {
		id, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if name == "HEAD" {
			tip = id
		}
		if err := w.has(ctx, id); err != nil {
			return fmt.Errorf("%w: %s at %.12s; run `git -C %s fetch %s %s` to have it", ErrUnfetched, name, id, w.Source, w.Path, name)
		}
	}
	if tip == "" {
		return fmt.Errorf("%w: it has no commit that could be compared", ErrUnfetched)
	}
	return w.checkFiles(ctx, tip)
}

// has tells whether a reference of the repository leads to a commit or another object.
func (w Worktree) has(ctx context.Context, id string) error {
	if _, err := git(ctx, gitTimeout, w.Source, nil, "cat-file", "-e", id); err != nil {
		return err
	}
	found, err := git(ctx, gitTimeout, w.Source, nil, "for-each-ref", "--count=1", "--format=%(refname)", "--contains", id)
	if err == nil && found == "" {
		// What was fetched without a branch of its own would be lost some day; HEAD
		// may be detached.
		if _, err = git(ctx, gitTimeout, w.Source, nil, "merge-base", "--is-ancestor", id, "HEAD"); err != nil {
			return errors.New("no branch leads to it")
		}
	}
	return err
}

// checkFiles compares the files with a commit that the repository has.
func (w Worktree) checkFiles(ctx context.Context, commit string) error {
	dir, err := os.MkdirTemp("", "worktree")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	own, err := git(ctx, gitTimeout, w.Source, nil, "rev-parse", "--absolute-git-dir")
	if err != nil {
		return err
	}
	env := []string{"GIT_DIR=" + own, "GIT_WORK_TREE=" + w.Path, "GIT_INDEX_FILE=" + filepath.Join(dir, "index")}
	if _, err := git(ctx, gitTimeout, dir, env, "read-tree", commit); err != nil {
		return err
	}
	changed, err := git(ctx, gitTimeout, dir, env, "ls-files", "--modified", "--deleted", "--others", "--exclude-standard", "--", ".")
	if err != nil {
		return err
	}
	if first, _, _ := strings.Cut(changed, "\n"); first != "" {
		return fmt.Errorf("%w: %.200q was changed and not committed", ErrUnfetched, first)
	}
	return nil
}
