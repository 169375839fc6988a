package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
	"github.com/drawbridge-mcp/drawbridge/manager"
)

// objectView is an object of a runtime that belongs to no run.
type objectView struct {
	Name  string `json:"name"`
	Run   string `json:"run"`
	Role  string `json:"role"`
	Phase string `json:"phase"`
}

func (a *app) pruneCommand() *cobra.Command {
	var (
		output    format
		opts      manager.PruneOptions
		olderThan string
		states    []string
		yes       bool
	)
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove ended runs and what belongs to no run",
		Long: `Remove ended runs with everything they left, and objects of the runtime that carry
this home's label and belong to no run. Live runs and workspaces are never
touched.`,
		Example: `  drawbridge prune --dry-run
  drawbridge prune --older-than 7d --yes`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if opts.OlderThan, err = parseAge(olderThan); err != nil {
				return err
			}
			if opts.States, err = parseStates(states); err != nil {
				return err
			}
			for _, state := range opts.States {
				if !state.Terminal() {
					return usagef("use stopped or failed; `drawbridge stop` ends a live run", "prune removes no run that is %s", state)
				}
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
			if !yes && !opts.DryRun {
				if ok, err := a.confirmPrune(ctx, m, opts); err != nil || !ok {
					return err
				}
			}
			result, err := m.Prune(ctx, opts)
			if printing := a.printPruned(result, opts.DryRun, output); printing != nil && err == nil {
				err = printing
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&olderThan, "older-than", "", "only runs that ended longer ago than this, e.g. 12h or 7d")
	flags.StringSliceVar(&states, "state", nil, "only stopped or only failed runs")
	flags.BoolVar(&opts.DryRun, "dry-run", false, "say what would go, and remove nothing")
	flags.BoolVarP(&yes, "yes", "y", false, "do not ask")
	outputFlag(cmd, &output)
	completeStates(cmd, "state", finalStates)
	return cmd
}

// confirmPrune asks the person at the terminal. Where there is none, only --yes
// is consent.
func (a *app) confirmPrune(ctx context.Context, m *manager.Manager, opts manager.PruneOptions) (bool, error) {
	if !terminal.Is(a.in) {
		return false, usagef("add --yes, or --dry-run to see what would go", "prune has nobody to ask: standard input is no terminal")
	}
	opts.DryRun = true
	plan, err := m.Prune(ctx, opts)
	if err != nil {
		return false, err
	}
	if len(plan.Runs)+len(plan.Orphans) == 0 {
		return true, nil // there is nothing to consent to
	}
	return a.agrees(ctx, fmt.Sprintf("Remove %s and %s (%s)?", count(len(plan.Runs), "ended run"), count(len(plan.Orphans), "orphaned object"), bytesText(plan.Bytes)))
}

// agrees asks the person at the terminal a question about a removal.
func (a *app) agrees(ctx context.Context, question string) (bool, error) {
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	// Input can be given up, so that Ctrl-C ends the question.
	in, err := terminal.NewInput(a.in)
	if err != nil {
		return false, err
	}
	defer in.Close()
	defer context.AfterFunc(ctx, func() { in.Close() })()
	answer, _ := bufio.NewReader(in).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true, ctx.Err()
	}
	a.say("nothing removed")
	return false, nil
}

func (a *app) printPruned(result manager.PruneResult, dryRun bool, output format) error {
	orphans := make([]objectView, 0, len(result.Orphans))
	for _, o := range result.Orphans {
		orphans = append(orphans, objectView{Name: o.Name, Run: o.Run, Role: o.Role, Phase: string(o.Phase)})
	}
	if output == formatJSON {
		return a.printJSON(struct {
			DryRun  bool         `json:"dry_run"`
			Runs    []runView    `json:"runs"`
			Orphans []objectView `json:"orphans"`
			Bytes   int64        `json:"bytes"`
		}{dryRun, viewsOf(result.Runs), orphans, result.Bytes})
	}
	now := time.Now()
	t := table{header: []string{"REMOVED", "NAME", "STATE", "ENDED"}, width: a.width()}
	if dryRun {
		t.header[0] = "WOULD REMOVE"
	}
	for _, r := range result.Runs {
		t.add(r.ID, r.Name, stateText(r), age(r.StoppedAt, now))
	}
	for _, o := range orphans {
		t.add(o.Run, o.Name, "orphaned "+o.Role, o.Phase)
	}
	if len(t.rows) > 0 {
		if err := t.write(a.out); err != nil {
			return err
		}
	}
	verb := "freed"
	if dryRun {
		verb = "would free"
	}
	a.say("%s, %s; %s %s", count(len(result.Runs), "run"), count(len(orphans), "orphaned object"), verb, bytesText(result.Bytes))
	return nil
}

// count writes a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// parseAge reads a duration, which may be in days.
func parseAge(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	text, unit := s, time.Duration(1)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		text, unit = days+"h", 24
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > time.Duration(1<<63-1)/24 {
		return 0, usagef("give e.g. 90m, 12h or 7d", "%q is no age", s)
	}
	return d * unit, nil
}
