package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

const (
	tracePage  = 1000                   // entries that are read at once
	traceLook  = 200 * time.Millisecond // between two looks for more
	traceWidth = 32                     // characters of a waterfall
)

// traceFlags are the flags of trace.
type traceFlags struct {
	output    format
	follow    bool
	waterfall bool
	last      int
	host      string
	decision  string
}

func (a *app) traceCommand() *cobra.Command {
	var f traceFlags
	cmd := &cobra.Command{
		Use:   "trace RUN",
		Short: "Show what a run requested through the gate",
		Long: `Show what a run requested through the gate: each request with its answer, what
was decided about it and by which rule. Headers, queries and contents are not
recorded.`,
		Example: `  drawbridge trace my-run
  drawbridge trace -f --decision refused my-run
  drawbridge trace --waterfall my-run`,
		Args:              runArgs(1),
		ValidArgsFunction: a.completeRun,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if f.last < 1 || f.last > tracePage {
				return usagef(fmt.Sprintf("choose from 1 to %d", tracePage), "-n %d is out of range", f.last)
			}
			if f.follow && f.waterfall {
				return usagef("leave one of them out", "a waterfall needs all of its requests, and --follow waits for more")
			}
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
			return a.trace(ctx, m, r, f)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&f.follow, "follow", "f", false, "go on until the run has ended")
	flags.BoolVar(&f.waterfall, "waterfall", false, "show when each request began and how long it took")
	flags.IntVarP(&f.last, "tail", "n", 100, "begin with the last so many requests")
	flags.StringVar(&f.host, "host", "", "only requests to this host and those below it")
	flags.StringVar(&f.decision, "decision", "", "only what was allowed, refused or learned")
	outputFlag(cmd, &f.output)
	_ = cmd.RegisterFlagCompletionFunc("decision", cobra.FixedCompletions([]string{"allowed", "refused", "learned"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) trace(ctx context.Context, m *manager.Manager, r *manager.Run, f traceFlags) error {
	query := manager.NetworkQuery{Limit: f.last, Host: f.host, Decision: f.decision}
	page, err := m.NetworkLog(ctx, r.ID, query)
	if err != nil {
		return err
	}
	if page.LostBytes > 0 {
		a.say("drawbridge: the oldest requests are no longer kept (%s of the record)", bytesText(page.LostBytes))
	}
	if !f.follow {
		return a.printTrace(page.Entries, f)
	}
	query.Limit = tracePage
	for {
		if err := a.followTrace(page.Entries, f); err != nil {
			return err
		}
		fresh, err := m.Get(r.ID)
		ended := err != nil || fresh.GetState().Terminal()
		query.Cursor = page.NextCursor
		if page, err = m.NetworkLog(ctx, r.ID, query); err != nil {
			return err
		}
		if len(page.Entries) > 0 {
			continue
		}
		if ended {
			return nil
		}
		select {
		case <-ctx.Done():
			return exitCode(128 + int(syscall.SIGINT))
		case <-time.After(traceLook):
		}
	}
}

// printTrace shows requests as a table.
func (a *app) printTrace(entries []manager.NetworkEntry, f traceFlags) error {
	if f.output == formatJSON {
		return a.traceLines(entries)
	}
	t := table{header: []string{"TIME", "DECISION", "REQUEST", "STATUS", "SENT", "RECEIVED", "TOOK", "RULE"}}
	if f.waterfall {
		t.header[len(t.header)-1] = "WHEN"
	}
	begin, span := spanOf(entries)
	for _, e := range entries {
		last := ruleText(&e)
		if f.waterfall {
			last = bar(e.Time.Sub(begin), e.Duration, span)
		}
		t.add(e.Time.Local().Format("15:04:05.000"), e.Decision, requestText(&e), statusOf(&e), bytesText(e.Sent), bytesText(e.Received), e.Duration.Round(time.Millisecond/10).String(), last)
	}
	return t.write(a.out)
}

// followTrace shows requests as they come, a line each.
func (a *app) followTrace(entries []manager.NetworkEntry, f traceFlags) error {
	if f.output == formatJSON {
		return a.traceLines(entries)
	}
	for _, e := range entries {
		_, err := fmt.Fprintf(a.out, "%s %-8s %s %s %s (%s)\n", e.Time.Local().Format("15:04:05.000"), e.Decision, statusOf(&e), requestText(&e), e.Duration.Round(time.Millisecond/10), ruleText(&e))
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *app) traceLines(entries []manager.NetworkEntry) error {
	encoder := json.NewEncoder(a.out)
	for _, e := range entries {
		if err := encoder.Encode(e); err != nil {
			return err
		}
	}
	return nil
}

// requestText is a request in one line. What a run chose is quoted where it could
// confuse a terminal.
func requestText(e *manager.NetworkEntry) string {
	if e.Host == "" {
		return oneLine("no request: " + e.Error)
	}
	target := e.Host
	if e.Port != 443 && e.Port != 80 && e.Port != 0 {
		target = fmt.Sprintf("%s:%d", e.Host, e.Port)
	}
	if e.Scheme != "" {
		target = e.Scheme + "://" + target
	}
	if e.User != "" {
		target = e.User + "@" + target
	}
	return oneLine(strings.Join(slices.DeleteFunc([]string{e.Method, target + e.Path}, func(s string) bool { return s == "" }), " "))
}

func statusOf(e *manager.NetworkEntry) string {
	if e.Status == 0 {
		return "-"
	}
	return fmt.Sprint(e.Status)
}

func ruleText(e *manager.NetworkEntry) string {
	switch {
	case e.Error != "":
		return oneLine(e.Error)
	case e.Rule == "" && e.Grant != "":
		return oneLine("grant " + e.Grant)
	}
	return oneLine(e.Reason())
}

// spanOf returns when the first of some requests began, and how long it was until
// the end of the last.
func spanOf(entries []manager.NetworkEntry) (begin time.Time, span time.Duration) {
	for i, e := range entries {
		if i == 0 || e.Time.Before(begin) {
			begin = e.Time
		}
	}
	for _, e := range entries {
		span = max(span, e.Time.Add(e.Duration).Sub(begin))
	}
	return begin, span
}

// bar shows a piece of a span.
func bar(from, length, span time.Duration) string {
	if span <= 0 {
		return ""
	}
	start := min(int(int64(traceWidth)*int64(from)/int64(span)), traceWidth-1)
	end := min(max(int(int64(traceWidth)*int64(from+length)/int64(span)), start+1), traceWidth)
	return strings.Repeat(" ", start) + strings.Repeat("=", end-start)
}

func (a *app) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Work with network rules",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.suggestCommand())
	return cmd
}

func (a *app) suggestCommand() *cobra.Command {
	var paths bool
	cmd := &cobra.Command{
		Use:   "suggest RUN",
		Short: "Print the rules that would allow what a run requested",
		Long: `Print the rules that would allow what a run requested and its policy refused, one
a line. Run it after "drawbridge run --learn", read what it prints, and give to the
next run what you agree with.`,
		Example: `  drawbridge run --learn --name first -w . -- npm install
  drawbridge policy suggest first
  drawbridge policy suggest --paths first`,
		Args:              runArgs(1),
		ValidArgsFunction: a.completeRun,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			m, err := a.open()
			if err != nil {
				return err
			}
			defer closeManager(m, &err)
			r, err := m.ResolveOne(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			rules, err := m.SuggestRules(cmd.Context(), r.ID, paths)
			if err != nil {
				return err
			}
			if len(rules) == 0 {
				a.say("drawbridge: nothing that %s requested was refused", r.Name)
				return nil
			}
			_, err = fmt.Fprintln(a.out, strings.Join(rules, "\n"))
			return err
		},
	}
	cmd.Flags().BoolVar(&paths, "paths", false, "rules of method and path, for requests that the gate could read")
	return cmd
}
