package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/manager/record/worktree"
)

// worktreeView is a worktree as it is shown.
type worktreeView struct {
	Path       string    `json:"path"`
	Branch     string    `json:"branch"`
	Repository string    `json:"repository"`
	Source     string    `json:"source"`
	Made       time.Time `json:"made"`
	Run        string    `json:"run,omitempty"`
}

func (a *app) worktreeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "worktree",
		Short: "Work with the checkouts of branches that runs have",
		Long: `Work with the checkouts that "drawbridge run --worktree BRANCH" makes: one clone for each
branch, with the history of that branch. The repository itself stays as it is; what a
run commits comes back with "git fetch PATH BRANCH".`,
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.worktreeListCommand(), a.worktreeCleanCommand())
	return cmd
}

func (a *app) worktreeListCommand() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the worktrees",
		Example: "  drawbridge worktree list",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			m, err := a.open()
			if err != nil {
				return err
			}
			defer closeManager(m, &err)
			all, err := m.Worktrees(cmd.Context())
			if err != nil {
				return err
			}
			if output == formatJSON {
				views := make([]worktreeView, len(all))
				for i, w := range all {
					views[i] = worktreeView{w.Path, w.Branch, w.RepoID, w.Source, w.Made, w.Run}
				}
				return a.printJSON(views)
			}
			if len(all) == 0 {
				a.say("no worktrees")
				return nil
			}
			t := table{header: []string{"BRANCH", "REPOSITORY", "RUN", "PATH"}}
			for _, w := range all {
				t.add(w.Branch, w.RepoID, w.Run, w.Path)
			}
			return t.write(a.out)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) worktreeCleanCommand() *cobra.Command {
	force := false
	cmd := &cobra.Command{
		Use:   "clean [BRANCH|PATH]...",
		Short: "Remove worktrees",
		Long: `Remove worktrees: those that are named, or all that no live run works in. One with
commits or changes that its repository does not have stays, unless it is named and
--force is given. No branch of the repository is removed.`,
		Example: `  drawbridge worktree clean
  drawbridge worktree clean --force failed-idea`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if force && len(args) == 0 {
				return usagef("name what is to be removed", "--force removes nothing that is not named")
			}
			m, err := a.open()
			if err != nil {
				return err
			}
			defer closeManager(m, &err)
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			chosen, err := chooseWorktrees(ctx, m, args)
			if err != nil {
				return err
			}
			choice := worktree.KeepUnfetched
			if force {
				choice = worktree.RemoveUnfetched
			}
			var failed []error
			for _, w := range chosen {
				err := m.RemoveWorktree(ctx, w, choice)
				switch {
				case err == nil:
					a.say("drawbridge: removed %s", w.Path)
				case len(args) == 0 && manager.AsError(err).Code == manager.CodeConflict:
					a.say("drawbridge: kept: %s", oneLine(err.Error()))
				default:
					failed = append(failed, err)
				}
			}
			return errors.Join(failed...)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also with work that its repository does not have")
	return cmd
}

// chooseWorktrees returns the worktrees that are named by branch or path; without names
// those in which no run works.
func chooseWorktrees(ctx context.Context, m *manager.Manager, names []string) ([]manager.Worktree, error) {
	all, err := m.Worktrees(ctx)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return slices.DeleteFunc(all, func(w manager.Worktree) bool { return w.Run != "" }), nil
	}
	var chosen []manager.Worktree
	for _, name := range names {
		found := slices.DeleteFunc(slices.Clone(all), func(w manager.Worktree) bool { return w.Branch != name && w.Path != name })
		switch len(found) {
		case 0:
			return nil, mended("look at `drawbridge worktree list`", fmt.Errorf("there is no worktree %q", name))
		case 1:
			chosen = append(chosen, found[0])
		default:
			return nil, usagef("give the path, see `drawbridge worktree list`", "%d repositories have a worktree for the branch %q", len(found), name)
		}
	}
	return chosen, nil
}
