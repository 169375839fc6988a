package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
	"github.com/drawbridge-mcp/drawbridge/manager"
)

// volumeView is a volume as programs read it.
type volumeView struct {
	ID        string   `json:"id"`
	Type      string   `json:"type"`
	Name      string   `json:"name"`
	Run       string   `json:"run"`
	Workspace string   `json:"workspace,omitempty"`
	Directory string   `json:"directory,omitempty"`
	Bytes     int64    `json:"bytes,omitempty"`
	UsedBy    []string `json:"used_by,omitempty"`
	Live      bool     `json:"live"`
}

func (a *app) volumesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "volumes",
		Short: "Storage that outlives runs",
		Long: `Volumes that projects ask for in their moat.yaml. The runs of one name in one
workspace share them, and they stay when these runs are destroyed.`,
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.volumesListCommand(), a.volumesRemoveCommand(), a.volumesPruneCommand())
	return cmd
}

func (a *app) volumesListCommand() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List them",
		Example: "  drawbridge volumes list",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			m, err := a.open()
			if err != nil {
				return err
			}
			defer closeManager(m, &err)
			ctx, cancel := context.WithTimeout(cmd.Context(), readTimeout)
			defer cancel()
			found, err := m.Volumes(ctx)
			if len(found) == 0 && err == nil && output != formatJSON {
				a.say("no volumes")
				return nil
			}
			return errors.Join(a.printVolumes(found, output, "VOLUME"), err)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) volumesRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "remove VOLUME...",
		Aliases: []string{"rm"},
		Short:   "Remove some with what is in them",
		Long:    "Remove volumes with what is in them. One that a live run has stays.",
		Example: "  drawbridge volumes remove web-0123456789ab/cache",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("`drawbridge volumes list` shows them", "remove needs the volumes that it is about")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, ids []string) error {
			return a.changeVolumes(cmd, func(ctx context.Context, m *manager.Manager) error {
				var failed []error
				for _, id := range ids {
					if err := m.RemoveVolume(ctx, id); err != nil {
						failed = append(failed, err)
						continue
					}
					a.say("%s removed", id)
				}
				return errors.Join(failed...)
			})
		},
	}
}

func (a *app) volumesPruneCommand() *cobra.Command {
	var (
		output      format
		dryRun, yes bool
	)
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove those that no run has",
		Long: `Remove the volumes that no run has, with what is in them. Ended runs count until
they are destroyed.`,
		Example: `  drawbridge volumes prune --dry-run
  drawbridge volumes prune --yes`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.changeVolumes(cmd, func(ctx context.Context, m *manager.Manager) error {
				if !yes && !dryRun {
					if ok, err := a.confirmVolumes(ctx, m); err != nil || !ok {
						return err
					}
				}
				gone, err := m.PruneVolumes(ctx, dryRun)
				head, verb := "REMOVED", "removed"
				if dryRun {
					head, verb = "WOULD REMOVE", "would be removed"
				}
				if len(gone) > 0 || output == formatJSON {
					err = errors.Join(a.printVolumes(gone, output, head), err)
				}
				a.say("%s %s", count(len(gone), "volume"), verb)
				return err
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&dryRun, "dry-run", false, "say what would go, and remove nothing")
	flags.BoolVarP(&yes, "yes", "y", false, "do not ask")
	outputFlag(cmd, &output)
	return cmd
}

// changeVolumes calls change with a manager, within the time of a change.
func (a *app) changeVolumes(cmd *cobra.Command, change func(context.Context, *manager.Manager) error) (err error) {
	m, err := a.open()
	if err != nil {
		return err
	}
	defer closeManager(m, &err)
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	return change(ctx, m)
}

// confirmVolumes asks the person at the terminal whether unused volumes may go.
func (a *app) confirmVolumes(ctx context.Context, m *manager.Manager) (bool, error) {
	if !terminal.Is(a.in) {
		return false, usagef("add --yes, or --dry-run to see what would go", "prune has nobody to ask: standard input is no terminal")
	}
	plan, err := m.PruneVolumes(ctx, true)
	if err != nil || len(plan) == 0 {
		return err == nil, err
	}
	var size int64
	for _, v := range plan {
		size += v.Bytes
	}
	return a.agrees(ctx, fmt.Sprintf("Remove %s with what is in them (%s)?", count(len(plan), "volume"), bytesText(size)))
}

func (a *app) printVolumes(volumes []manager.Volume, output format, head string) error {
	if output == formatJSON {
		views := make([]volumeView, 0, len(volumes))
		for _, v := range volumes {
			views = append(views, volumeView{
				ID: v.ID, Type: string(v.Type), Name: v.Name, Run: v.Run, Workspace: v.Workspace, Directory: v.Dir, Bytes: v.Bytes, UsedBy: v.UsedBy, Live: v.Live,
			})
		}
		return a.printJSON(struct {
			Volumes []volumeView `json:"volumes"`
		}{views})
	}
	t := table{header: []string{head, "TYPE", "SIZE", "USED BY", "WORKSPACE"}, width: a.width()}
	for _, v := range volumes {
		size, users := "-", "-"
		if v.Type == manager.VolumeBind {
			size = bytesText(v.Bytes)
		}
		if len(v.UsedBy) > 0 {
			users = count(len(v.UsedBy), "run")
		}
		if v.Live {
			users += ", live"
		}
		t.add(v.ID, string(v.Type), size, users, v.Workspace)
	}
	return t.write(a.out)
}
