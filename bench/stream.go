package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

const (
	streamSize  = 200_000_000 // bytes of output
	streamLimit = 512 << 20   // of the log, so that nothing is dropped
	samplePause = 20 * time.Millisecond
)

func printCommand() []string {
	return []string{"/workspace/printer", strconv.Itoa(streamSize)}
}

// measureStream measures how fast output gets from a command to a reader, and
// whether all of it is kept when nobody reads.
func measureStream(ctx context.Context, w *world) (err error) {
	m, err := manager.NewManagerWithOptions(manager.ManagerOptions{
		Home: w.home("stream"), GuestDir: w.bin, DefaultImage: w.image, LogLimitBytes: streamLimit,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	var logs, attached, ours streaming
	times := w.repeat(3)
	err = alternate(ctx, times,
		func() error { return logs.docker(ctx, w, "json-file") },
		func() error { return ours.follow(ctx, w, m) })
	if err == nil {
		err = alternate(ctx, times,
			func() error { return attached.docker(ctx, w, "none") },
			func() error { return ours.unread(ctx, w, m) })
	}
	w.results.compare("logs -f, beside docker logs -f", "MB/s", logs.read, ours.read, ">= 5")
	w.results.compare("logs -f, beside docker start -a with --log-driver none", "MB/s", attached.read, ours.read, "")
	w.results.compare("the command gets rid of its output, read", "MB/s", logs.printed, ours.printed, "")
	w.results.compare("the same, nobody reading, beside start -a", "MB/s", attached.printed, ours.unreadPrinted, "")
	w.results.report("reading all of it back, Manager.FollowLogs", "MB/s", ours.back, "")
	w.results.report("kept, in order, nobody reading", "%", ours.kept, "100 %")
	w.results.report("peak memory of the guest", "MB", ours.guest, "bounded")
	w.results.compare("peak memory of logs -f", "MB", logs.reader, ours.reader, "bounded")
	if err != nil {
		return err
	}
	return w.streamThroughServer(ctx)
}

// streaming is what repeated streams measured.
type streaming struct {
	read, printed       series
	unreadPrinted, back series
	kept                series
	guest, reader       series
}

// docker streams from a container by the docker command.
func (s *streaming) docker(ctx context.Context, w *world, driver string) error {
	name := "drawbridge-bench-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	args := append([]string{"create", "--name", name, "--label", label + "=" + w.token, "--pull=never", "--network", "none",
		"--volume", w.printer + ":/workspace:ro", "--log-driver", driver, w.image}, printCommand()...)
	if _, err := w.docker(ctx, args...); err != nil {
		return err
	}
	var reader *exec.Cmd
	if driver == "none" {
		reader = exec.CommandContext(ctx, "docker", "start", "--attach", name)
	} else {
		if _, err := w.docker(ctx, "start", name); err != nil {
			return err
		}
		reader = exec.CommandContext(ctx, "docker", "logs", "--follow", name)
	}
	t, err := s.take(reader)
	_, removing := w.docker(ctx, "rm", "-f", "-v", name)
	if err := errors.Join(err, removing); err != nil {
		return err
	}
	s.read.add(t.readRate())
	s.printed.add(t.printRate())
	return nil
}

// take runs a command that prints what the printer prints.
func (s *streaming) take(reader *exec.Cmd) (*tally, error) {
	var stderr strings.Builder
	reader.Stderr = &stderr
	stdout, err := reader.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := reader.Start(); err != nil {
		return nil, err
	}
	// Not from its rusage: that also has what this process was at the fork.
	sampled := make(chan float64, 1)
	go func() { sampled <- watchPeak(context.Background(), reader.Process.Pid) }()
	t := &tally{}
	_, copying := io.CopyBuffer(onlyWriter{t}, stdout, make([]byte, 256<<10))
	err = errors.Join(copying, reader.Wait())
	if peak := <-sampled; peak > 0 {
		s.reader.add(peak)
	}
	if err := errors.Join(err, t.check(streamSize)); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(reader.Args[:2], " "), err, stderr.String())
	}
	return t, nil
}

// onlyWriter hides that a writer could do more.
type onlyWriter struct{ io.Writer }

// begin creates and starts a run that prints, and samples its guest until the run
// has ended.
func (s *streaming) begin(ctx context.Context, w *world, m *manager.Manager) (id string, ended func() error, err error) {
	run, err := m.Create(ctx, manager.Options{Workspace: w.printer, Cmd: printCommand()})
	if err != nil {
		return "", nil, err
	}
	if err := m.Start(ctx, run.ID, manager.StartOptions{}); err != nil {
		return "", nil, errors.Join(err, m.DestroyWith(ctx, run.ID, manager.DestroyOptions{Force: true}))
	}
	sampled := make(chan float64, 1)
	go func() { sampled <- w.peakOfGuest(ctx, run.ID) }()
	return run.ID, func() error {
		err := m.Wait(ctx, run.ID)
		if peak := <-sampled; peak > 0 {
			s.guest.add(peak)
		}
		return errors.Join(err, m.DestroyWith(context.WithoutCancel(ctx), run.ID, manager.DestroyOptions{Force: true}))
	}, nil
}

// peakOfGuest looks at the first process of a container until it is gone. It is 0
// if that was too soon.
func (w *world) peakOfGuest(ctx context.Context, id string) float64 {
	text, err := w.docker(ctx, "inspect", "--format", "{{.State.Pid}}", id)
	pid, bad := strconv.Atoi(text)
	if err != nil || bad != nil || pid == 0 {
		return 0
	}
	return watchPeak(ctx, pid)
}

// watchPeak looks at a process until it is gone and returns its peak memory in MB,
// 0 if it was gone too soon.
func watchPeak(ctx context.Context, pid int) (peak float64) {
	for ctx.Err() == nil {
		p, err := look(pid)
		if err != nil || p.peak == 0 {
			break
		}
		peak = p.peak
		_ = pause(ctx, samplePause)
	}
	return peak
}

// follow streams from a run by the drawbridge command.
func (s *streaming) follow(ctx context.Context, w *world, m *manager.Manager) error {
	id, ended, err := s.begin(ctx, w, m)
	if err != nil {
		return err
	}
	t, err := s.take(exec.CommandContext(ctx, w.drawbridge(), "logs", "--home", m.Home(), "-f", id))
	if err := errors.Join(err, ended()); err != nil {
		return err
	}
	s.read.add(t.readRate())
	s.printed.add(t.printRate())
	return nil
}

// unread lets a run print with nobody reading, and reads afterwards.
func (s *streaming) unread(ctx context.Context, w *world, m *manager.Manager) error {
	id, ended, err := s.begin(ctx, w, m)
	if err != nil {
		return err
	}
	if err := m.Wait(ctx, id); err != nil {
		return errors.Join(err, ended())
	}
	var t tally
	begin := time.Now()
	err = errors.Join(m.FollowLogs(ctx, id, &t), t.wrong)
	s.back.add(float64(t.bytes) / 1e6 / time.Since(begin).Seconds())
	s.kept.add(100 * float64(t.bytes) / streamSize)
	if err := errors.Join(err, ended(), t.check(streamSize)); err != nil {
		return err
	}
	s.unreadPrinted.add(t.printRate())
	return nil
}

// streamThroughServer does what users do: a run that an agent has started, with
// the usual bound of its log, followed by a person.
func (w *world) streamThroughServer(ctx context.Context) (err error) {
	home := w.home("served")
	c, err := w.serve(ctx, home)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	before, err := look(c.pid())
	if err != nil {
		return err
	}
	var created runAnswer
	if err := c.tool(ctx, "create_run", map[string]any{"workspace": w.printer, "command": printCommand(), "start": true}, &created); err != nil {
		return err
	}
	reader := exec.CommandContext(ctx, w.drawbridge(), "logs", "--home", home, "-f", created.Run.ID)
	var t tally
	var said strings.Builder
	reader.Stdout, reader.Stderr = onlyWriter{&t}, &said
	if err := reader.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, said.String())
	}
	after, err := look(c.pid())
	if err != nil {
		return err
	}
	w.results.figure("memory of the server before a run prints", "MB", before.rss, "")
	w.results.figure("peak memory of the server that supervises it", "MB", after.peak, "bounded")
	w.results.figure("CPU of the server meanwhile", "ms", float64((after.cpu - before.cpu).Milliseconds()), "")
	w.results.figure("read by logs -f with the usual bound of 64 MiB", "%", 100*float64(t.bytes)/streamSize, "")
	if said.Len() > 0 {
		w.results.note("logs -f with the usual bound said: %s", strings.TrimSpace(said.String()))
	}
	return c.destroy(ctx, created.Run.ID)
}

// pause waits, or returns the error of ctx.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
