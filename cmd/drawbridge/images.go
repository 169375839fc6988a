package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// defaultImageAge is how long an image stays that nobody asks for.
const defaultImageAge = "30d"

// imageView is an image that was built for runs.
type imageView struct {
	Image    string    `json:"image"`
	ID       string    `json:"id"`
	Bytes    int64     `json:"bytes"`
	LastUsed time.Time `json:"last_used"`
}

func (a *app) imagesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "images",
		Short: "Images that were built for runs",
		Long: `Images that were built from the dependencies of runs. An image is built once and
used by all runs that depend on the same.`,
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.imagesListCommand(), a.imagesPruneCommand(), a.imagesBuildsCommand(), a.imagesTraceCommand())
	return cmd
}

func (a *app) imagesListCommand() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List them",
		Example: "  drawbridge images list",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			m, err := a.open()
			if err != nil {
				return err
			}
			defer closeManager(m, &err)
			ctx, cancel := context.WithTimeout(cmd.Context(), readTimeout)
			defer cancel()
			found, err := m.Images(ctx)
			if err != nil {
				return err
			}
			if len(found) == 0 && output != formatJSON {
				a.say("no images")
				return nil
			}
			return a.printImages(found, output, "IMAGE")
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) imagesPruneCommand() *cobra.Command {
	var (
		output    format
		olderThan string
	)
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove those that were not used for long",
		Long: `Remove images that were not used for long and that no sandbox is made of. The next
run with the same dependencies builds them again.`,
		Example: "  drawbridge images prune --older-than 7d",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			unused, err := parseAge(olderThan)
			if err != nil {
				return err
			}
			m, err := a.open()
			if err != nil {
				return err
			}
			defer closeManager(m, &err)
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			ctx, cancel := context.WithTimeout(ctx, changeTimeout)
			defer cancel()
			removed, err := m.PruneImages(ctx, unused)
			if len(removed) > 0 || output == formatJSON {
				if printing := a.printImages(removed, output, "REMOVED"); printing != nil && err == nil {
					err = printing
				}
			}
			a.say("%s removed", count(len(removed), "image"))
			return err
		},
	}
	cmd.Flags().StringVar(&olderThan, "older-than", defaultImageAge, "only images that were last used longer ago than this, e.g. 12h or 7d")
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) printImages(images []runtime.BuiltImage, output format, head string) error {
	views := make([]imageView, 0, len(images))
	for _, image := range images {
		views = append(views, imageView{Image: image.Ref, ID: image.ID, Bytes: image.Size, LastUsed: image.LastUsed})
	}
	if output == formatJSON {
		return a.printJSON(struct {
			Images []imageView `json:"images"`
		}{views})
	}
	now := time.Now()
	t := table{header: []string{head, "SIZE", "LAST USED"}, width: a.width()}
	for _, view := range views {
		t.add(view.Image, bytesText(view.Bytes), age(view.LastUsed, now))
	}
	return t.write(a.out)
}
