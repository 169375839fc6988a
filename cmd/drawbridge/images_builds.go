package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

func (a *app) imagesBuildsCommand() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:     "builds",
		Short:   "List the builds of images, the newest first",
		Long:    `List the builds of images, the newest first. The last fifty are kept.`,
		Example: "  drawbridge images builds",
		Args:    noArgs,
		RunE: func(_ *cobra.Command, _ []string) (err error) {
			m, err := a.open()
			if err != nil {
				return err
			}
			defer closeManager(m, &err)
			builds, err := m.Builds()
			if err != nil {
				return err
			}
			if output == formatJSON {
				return a.printJSON(struct {
					Builds []manager.Build `json:"builds"`
				}{builds})
			}
			if len(builds) == 0 {
				a.say("no builds")
				return nil
			}
			now := time.Now()
			t := table{header: []string{"BUILD", "IMAGE", "STARTED", "TOOK", "END"}, width: a.width()}
			for _, b := range builds {
				took, end := "-", "building"
				if !b.Ended.IsZero() {
					took, end = b.Ended.Sub(b.Started).Round(time.Second).String(), "built"
				}
				if b.Failed != "" {
					end = "failed"
				}
				t.add(b.ID, b.Image, age(b.Started, now), took, end)
			}
			return t.write(a.out)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) imagesTraceCommand() *cobra.Command {
	var f traceFlags
	cmd := &cobra.Command{
		Use:   "trace BUILD|IMAGE",
		Short: "Show what a build requested through the gate",
		Long: `Show what the steps of a build requested through the gate, and what was decided
about it. Of an image it is the last build. Requests by TLS are recorded as the host
alone, because the gate does not look into those of builds.`,
		Example: `  drawbridge images builds
  drawbridge images trace --decision refused build_0123456789ab`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) (err error) {
			if f.last < 1 || f.last > tracePage {
				return usagef(fmt.Sprintf("choose from 1 to %d", tracePage), "-n %d is out of range", f.last)
			}
			m, err := a.open()
			if err != nil {
				return err
			}
			defer closeManager(m, &err)
			page, err := m.BuildLog(args[0], manager.NetworkQuery{Limit: f.last, Host: f.host, Decision: f.decision})
			if err != nil {
				return err
			}
			return a.printTrace(page.Entries, f)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.waterfall, "waterfall", false, "show when each request began and how long it took")
	flags.IntVarP(&f.last, "tail", "n", 100, "only the last so many requests")
	flags.StringVar(&f.host, "host", "", "only requests to this host and those below it")
	flags.StringVar(&f.decision, "decision", "", "only what was allowed or refused")
	outputFlag(cmd, &f.output)
	return cmd
}
