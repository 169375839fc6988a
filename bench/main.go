// Command bench measures Drawbridge beside floors: what the same work costs
// without it, measured in the same minutes on the same machine.
//
//	go run ./bench [-only name,...] [-runs N] [-json]
//
// A measurement that has a floor alternates the two, so that noise hits both
// alike. The answer is one table with the middle and the slow end of each series,
// their ratio and the target beside it. A missed target is a figure, not a
// failure: the exit code tells only whether everything could be measured.
//
// It needs Go and, for all but gate, a Docker engine on this machine and the docker
// command. All that
// it makes lies in a temporary directory or carries the label drawbridge.bench,
// and is removed at the end, also after an interrupt.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// measurement is one thing that can be measured by itself.
type measurement struct {
	name  string
	about string
	run   func(ctx context.Context, w *world) error
}

// needsEngine reports whether a measurement is one of Drawbridge as a whole.
func (m measurement) needsEngine() bool { return m.name != gateName }

var measurements = []measurement{
	{"create", "create_run with start: true to the first line, beside docker run", measureCreate},
	{"image", "create_run with an image that was built before, beside one that names it", measureImage},
	{"call", "a tool call that touches no engine, beside an empty tool", measureCall},
	{"startup", "spawn to first answer, beside a server with an empty tool", measureStartup},
	{"scale", "list_runs and resolve with 100 and 100,000 stored runs", measureScale},
	{"tail", "logs with tail on a log of 1 GB", measureTail},
	{"stream", "capture and follow of a run that prints 200 MB, beside docker logs -f", measureStream},
	{"crowd", "200 live containers", measureCrowd},
	{"native", "native runs to the first line, beside the bare OCI runtime and docker run", measureNative},
	{"nativecrowd", "200 live native runs", measureNativeCrowd},
	{gateName, "requests through the gate, beside none, two floors, goproxy and mitmproxy", measureGate},
	{"work", "a compilation and a look at many files inside, beside the host", measureWork},
}

// settings are what the flags say.
type settings struct {
	only       string
	runs       int
	containers int
	json       bool
	bin        string
	image      string
	profile    string
}

func main() {
	work := run
	if os.Getenv(partVariable) != "" {
		work = servePart
	}
	if err := work(); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	var s settings
	flag.StringVar(&s.only, "only", "", "measure only these, separated by commas: "+strings.Join(names(), ", "))
	flag.IntVar(&s.runs, "runs", 0, "length of each series (default what suits the measurement)")
	flag.IntVar(&s.containers, "containers", 200, "live runs of crowd and nativecrowd")
	flag.BoolVar(&s.json, "json", false, "print JSON")
	flag.StringVar(&s.bin, "bin", "", "directory with drawbridge and its guest (default: build them)")
	flag.StringVar(&s.image, "image", "drawbridge-demo:latest", "image with a shell; scripts/image makes the default one")
	flag.StringVar(&s.profile, "profile", "", "directory for CPU profiles of the processes of gate")
	flag.Parse()
	chosen, err := choose(s.only)
	if err != nil {
		return err
	}
	if flag.NArg() > 0 || s.runs < 0 || s.containers < 1 {
		return fmt.Errorf("unexpected arguments %q; see -help", os.Args[1:])
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	w, err := newWorld(ctx, s, chosen)
	if err != nil {
		return err
	}
	err = errors.Join(measureAll(ctx, w, chosen), w.cleanUp())
	if printing := w.results.print(os.Stdout, s.json); err == nil {
		err = printing
	}
	return err
}

// measureAll goes on after a failure: the other figures are still worth having.
func measureAll(ctx context.Context, w *world, chosen []measurement) error {
	var errs []error
	for _, m := range chosen {
		if ctx.Err() != nil {
			return errors.Join(append(errs, ctx.Err())...)
		}
		w.say("%s: %s", m.name, m.about)
		w.results.group = m.name
		if err := m.run(ctx, w); err != nil {
			w.say("%s: %v", m.name, err)
			errs = append(errs, fmt.Errorf("measure %s: %w", m.name, err))
		}
	}
	return errors.Join(errs...)
}

func names() []string {
	all := make([]string, len(measurements))
	for i, m := range measurements {
		all[i] = m.name
	}
	return all
}

func choose(only string) ([]measurement, error) {
	if only == "" {
		return measurements, nil
	}
	var chosen []measurement
	for name := range strings.SplitSeq(only, ",") {
		i := slices.Index(names(), name)
		if i < 0 {
			return nil, fmt.Errorf("no measurement %q; there are %s", name, strings.Join(names(), ", "))
		}
		chosen = append(chosen, measurements[i])
	}
	return chosen, nil
}
