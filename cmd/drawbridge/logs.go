package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/manager"
)

func (a *app) logsCommand() *cobra.Command {
	var (
		output     format
		follow     bool
		tail       int
		timestamps bool
		stream     string
		raw        bool
	)
	cmd := &cobra.Command{
		Use:   "logs RUN",
		Short: "Show what a run printed",
		Long: `Show what a run printed, while it runs and after its end.

What the command wrote to standard output goes to standard output, what it wrote
to standard error to standard error. On a terminal, control sequences other than
colours are left out, because what a run prints is not trusted; --raw passes them
on. Into a file or a pipe the bytes go as they were printed.

The log of a run is bounded: when it is full, the oldest part is dropped, and
logs says how much.`,
		Example: `  drawbridge logs my-run
  drawbridge logs -f -n 20 my-run
  drawbridge logs --output json --stream stderr my-run`,
		Args:              runArgs(1),
		ValidArgsFunction: a.completeRun,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			view := logView{timestamps: timestamps, raw: raw, json: output == formatJSON}
			if stream != "" {
				if err := view.only.UnmarshalText([]byte(stream)); err != nil {
					return usagef("use --stream stdout or --stream stderr", "unknown stream %q", stream)
				}
			}
			lines := allLines
			if cmd.Flags().Changed("tail") {
				if lines = tail; lines < 0 {
					return usagef("give -n 0 or more", "-n %d shows nothing", tail)
				}
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
			return a.showLog(ctx, m, r, lines, follow, view)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&follow, "follow", "f", false, "go on until the run has ended")
	flags.IntVarP(&tail, "tail", "n", 0, "begin with the last so many lines (default all that is kept)")
	flags.BoolVarP(&timestamps, "timestamps", "t", false, "put the time of output before each line")
	flags.StringVar(&stream, "stream", "", "only stdout or only stderr")
	flags.BoolVar(&raw, "raw", false, "pass control sequences on to the terminal")
	outputFlag(cmd, &output)
	_ = cmd.RegisterFlagCompletionFunc("stream", cobra.FixedCompletions([]string{"stdout", "stderr"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// allLines as a number of lines is everything that is kept.
const allLines = -1

// maxTailBytes bounds what -n looks back over.
const maxTailBytes = 64 << 20

// readChunk is how much of a log is read at once.
const readChunk = 1 << 20

// showLog writes the log of r, from the last lines on; with follow until r has
// ended, or ctx, which is exit code 130.
func (a *app) showLog(ctx context.Context, m *manager.Manager, r *manager.Run, lines int, follow bool, view logView) error {
	reader, err := openLog(r)
	if err != nil {
		return err
	}
	defer reader.Close()
	sink := a.newLogSink(view)
	pos := reader.Start()
	if lines != allLines {
		recs, _, next, _, err := reader.Tail(lines, maxTailBytes)
		if err != nil {
			return fmt.Errorf("read the end of the log of %s: %w", r.ID, err)
		}
		if lines > 0 {
			if err := sink.write(recs); err != nil {
				return err
			}
		}
		pos = next
	}
	if follow {
		err = a.followLog(ctx, m, r.ID, reader, pos, sink)
	} else {
		_, err = copyLog(ctx, reader, pos, sink)
	}
	if err != nil && ctx.Err() != nil {
		return exitCode(128 + int(syscall.SIGINT))
	}
	return errors.Join(err, sink.finish())
}

func openLog(r *manager.Run) (*logring.Reader, error) {
	if r.Store == nil {
		return nil, fmt.Errorf("open the log of %s: the run has no directory", r.ID)
	}
	reader, err := r.Store.OpenLogs()
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", r.ID, err)
	}
	return reader, nil
}

// copyLog writes what is there from pos on and returns the position after it.
func copyLog(ctx context.Context, reader *logring.Reader, pos logring.Position, sink *logSink) (logring.Position, error) {
	for {
		recs, next, lost, err := reader.ReadFrom(pos, readChunk)
		if err != nil {
			return pos, fmt.Errorf("read the log: %w", err)
		}
		if lost > 0 {
			sink.lost(lost)
		}
		if err := sink.write(recs); err != nil {
			return pos, err
		}
		if next == pos {
			return pos, nil
		}
		pos = next
		if err := ctx.Err(); err != nil {
			return pos, err
		}
	}
}

// followLog writes the log from pos on until the run has ended and all of it is
// written, or ctx ends, which is its error.
func (a *app) followLog(ctx context.Context, m *manager.Manager, id string, reader *logring.Reader, pos logring.Position, sink *logSink) error {
	// The record of a run's end is written after the last of its log, so what
	// is there once Wait returns is all there will be.
	live, ended := context.WithCancel(ctx)
	var waiter sync.WaitGroup
	var waited error
	waiter.Go(func() {
		defer ended()
		waited = untilEnd(live, m, id)
	})
	defer waiter.Wait()
	defer ended()
	for live.Err() == nil {
		var err error
		if pos, err = copyLog(ctx, reader, pos, sink); err != nil {
			return err
		}
		if err := reader.Wait(live, pos); err != nil && live.Err() == nil {
			return fmt.Errorf("wait for more of the log: %w", err)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	waiter.Wait()
	if waited != nil {
		return waited
	}
	_, err := copyLog(ctx, reader, pos, sink)
	return err
}

// untilEnd waits until a run has ended, however it ended.
func untilEnd(ctx context.Context, m *manager.Manager, id string) error {
	err := m.Wait(ctx, id)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if r, getting := m.Get(id); getting == nil && r.GetState().Terminal() {
		return nil // Wait reports a failure of the command as an error
	}
	return err
}

// logView says how lines are shown.
type logView struct {
	timestamps bool
	raw        bool
	json       bool
	only       logring.Stream // zero is both
}

// jsonLine is one line of a log as programs read it.
type jsonLine struct {
	Time    time.Time `json:"time"`
	Stream  string    `json:"stream"`
	Text    string    `json:"text"`
	Partial bool      `json:"partial,omitempty"`
}

func encodeLine(l logring.Line) ([]byte, error) {
	line, err := json.Marshal(jsonLine{l.Time.UTC(), l.Stream.String(), string(l.Text), l.Partial})
	return append(line, '\n'), err
}
