package main

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

func (a *app) workspaceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "workspace",
		Short: "Bring back what runs did in a copy",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.workspaceCopyCommand())
	return cmd
}

func (a *app) workspaceCopyCommand() *cobra.Command {
	var exclude []string
	cmd := &cobra.Command{
		Use:   "copy RUN DIR",
		Short: "Copy the workspace of a run into a new directory",
		Long: `Copy the workspace of a run into a new directory, where it goes away with the run: it
worked in a copy (workspace.mode: volume in moat.yaml), or was given no workspace.
Nothing is copied over what is there. See what has changed with

  diff --recursive --no-dereference WORKSPACE DIR

Symbolic links that may lead out of the directory are left out, and so are sockets,
pipes and devices. Do not run Git or a build in the directory before you have looked at
it: the run may have put settings, hooks and scripts there.`,
		Example: `  drawbridge workspace copy my-run /tmp/my-run
  drawbridge workspace copy --exclude node_modules my-run /tmp/my-run`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("see `drawbridge workspace copy --help`", "copy needs a run and a new directory")
			}
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return a.completeRun(cmd, args, toComplete)
			}
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			m, err := a.open()
			if err != nil {
				return err
			}
			defer closeManager(m, &err)
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			r, err := m.ResolveOne(ctx, args[0])
			if err != nil {
				return err
			}
			copied, err := m.CopyWorkspace(ctx, r.ID, args[1], exclude)
			if err != nil {
				return err
			}
			a.sayCopied(r, args[1], copied)
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&exclude, "exclude", nil, "path below the workspace that is left out; may be repeated")
	return cmd
}

// sayCopied says what was copied, and what not. The names come from the run.
func (a *app) sayCopied(r *manager.Run, dir string, copied manager.WorkspaceCopy) {
	a.say("drawbridge: copied %d files and directories, %s, to %s", copied.Entries, bytesText(copied.Bytes), dir)
	for _, left := range []struct {
		what  string
		count int
		names []string
	}{
		{"symbolic links that may lead out of it", copied.LinksLeft, copied.Links},
		{"sockets, pipes and devices", copied.SpecialsLeft, copied.Specials},
	} {
		if left.count == 0 {
			continue
		}
		quoted := make([]string, len(left.names))
		for i, name := range left.names {
			quoted[i] = fmt.Sprintf("%q", name)
		}
		if left.count > len(left.names) {
			quoted = append(quoted, "and others")
		}
		a.say("drawbridge: left out %d %s: %s", left.count, left.what, strings.Join(quoted, ", "))
	}
	if r.GetState().Active() {
		a.say("drawbridge: the run is up, and what it wrote meanwhile may be missing")
	}
}
