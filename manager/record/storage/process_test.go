package storage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// childVar makes the test binary act as one of children instead.
const childVar = "STORAGE_TEST_CHILD"

// children are what other processes do on a home. They end with an error.
var children = map[string]func(ctx context.Context, s *Store, h *Holder) error{
	"write": writeForEver,
	"race":  race,
}

func TestMain(m *testing.M) {
	do := children[os.Getenv(childVar)]
	if do == nil {
		os.Exit(m.Run())
	}
	err := func() error {
		s, err := Open(context.Background(), os.Args[1], Options{})
		if err != nil {
			return err
		}
		h, err := OpenHolder(s.Home())
		if err != nil {
			return err
		}
		return errors.Join(do(context.Background(), s, h), h.Close(), s.Close())
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// writeForEver takes the lease of the run that is named in the arguments, counts
// in its row and stores runs of its own, and tells each count once it is written.
func writeForEver(ctx context.Context, s *Store, h *Holder) error {
	id := os.Args[2]
	if got, err := s.AcquireLease(ctx, id, h.ID(), time.Hour); !got || err != nil {
		return fmt.Errorf("lease: %v, %w", got, err)
	}
	for n := 1; ; n++ {
		_, err := s.ChangeRun(ctx, id, liveStates, func(r *RunRow) { r.Signal = n; r.Meta = make([]byte, n%5000) })
		if err != nil {
			return err
		}
		row := run(n, in(stateStopped), func(r *RunRow) { r.ID = fmt.Sprintf("%s_%d", id, n); r.Spec = make([]byte, 3000) })
		if _, err := s.InsertRun(ctx, row, Insertion{Key: &Key{Op: id, Key: strconv.Itoa(n)}}); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// race waits for a line, tries to be the first at everything, and stays until its
// input ends.
func race(ctx context.Context, s *Store, h *Holder) error {
	fmt.Println("ready")
	input := bufio.NewReader(os.Stdin)
	if _, err := input.ReadString('\n'); err != nil {
		return err
	}
	var won []string
	for i := range 20 {
		got, err := s.AcquireLease(ctx, run(i+1).ID, h.ID(), time.Hour)
		if err != nil {
			return err
		}
		if got {
			won = append(won, fmt.Sprintf("lease-%d", i))
		}
		row := run(0, named(fmt.Sprintf("contested-%d", i)), func(r *RunRow) { r.ID = fmt.Sprintf("run_%s_%d", strings.ReplaceAll(h.ID(), "-", "_"), i) })
		switch _, err := s.InsertRun(ctx, row, Insertion{}); {
		case err == nil:
			won = append(won, fmt.Sprintf("name-%d", i))
		case !errors.Is(err, ErrNameTaken):
			return err
		}
		claim, err := s.ClaimKey(ctx, Key{Op: "exec", Key: strconv.Itoa(i)}, run(i+1).ID)
		if err != nil {
			return err
		}
		if claim.Fresh {
			won = append(won, fmt.Sprintf("key-%d", i))
		}
		_, err = s.ChangeRun(ctx, run(i+1).ID, []string{stateCreated}, func(r *RunRow) { r.State = stateStarting })
		var changed *StateChangedError
		switch {
		case err == nil:
			won = append(won, fmt.Sprintf("start-%d", i))
		case !errors.As(err, &changed):
			return err
		}
	}
	fmt.Println(strings.Join(won, " "))
	_, err := io.Copy(io.Discard, input)
	return err
}

// child is another process on a home. It is gone when its test ends.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Scanner
	err   strings.Builder
}

func start(t *testing.T, what string, args ...string) *child {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	c := &child{cmd: exec.CommandContext(ctx, os.Args[0], args...)}
	c.cmd.Env = append(os.Environ(), childVar+"="+what)
	c.cmd.Stderr = &c.err
	var err1, err2 error
	c.stdin, err1 = c.cmd.StdinPipe()
	out, err2 := c.cmd.StdoutPipe()
	c.lines = bufio.NewScanner(out)
	if err := errors.Join(err1, err2, c.cmd.Start()); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = c.cmd.Wait() // its error has been seen where it matters
	})
	return c
}

func (c *child) line(t *testing.T) string {
	t.Helper()
	if !c.lines.Scan() {
		t.Fatalf("the other process ended: %s", c.err.String())
	}
	return c.lines.Text()
}

// kill ends the process with SIGKILL and returns the last line that it wrote.
func (c *child) kill(t *testing.T) (last string) {
	t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for c.lines.Scan() {
		last = c.lines.Text()
	}
	_ = c.cmd.Wait() // "signal: killed"
	return last
}

func TestAProcessThatIsKilledWhileItWritesDoesNoHarm(t *testing.T) {
	t.Parallel()
	home := filepath.Join(t.TempDir(), "home")
	s := open(t, home)
	mine := holder(t, s)
	for round := range 4 {
		victim, survivor := run(2*round+1, in(stateRunning)), run(2*round+2, in(stateRunning))
		insert(t, s, victim, survivor)
		a, b := start(t, "write", home, victim.ID), start(t, "write", home, survivor.ID)
		for range 5 + 7*round { // so that each round ends elsewhere
			a.line(t)
		}
		b.line(t)
		if got, err := s.AcquireLease(t.Context(), victim.ID, mine.ID(), time.Minute); got || err != nil {
			t.Errorf("the lease of a living process: %v, %v", got, err)
		}
		told, err := strconv.Atoi(a.kill(t))
		if err != nil {
			told = 5 + 7*round
		}

		orphans, err := s.Orphans(t.Context(), 100)
		if !slices.ContainsFunc(orphans, func(r RunRow) bool { return r.ID == victim.ID }) ||
			slices.ContainsFunc(orphans, func(r RunRow) bool { return r.ID == survivor.ID }) || err != nil {
			t.Errorf("orphans: %v, %v", ids(orphans), err)
		}
		acquire(t, s, victim.ID, mine, true)

		row, err := s.Run(t.Context(), victim.ID)
		if err != nil || row.Signal < told || int64(row.Signal) != row.Version-1 || len(row.Meta) != row.Signal%5000 {
			t.Errorf("it told %d; the row holds %d in version %d with %d bytes, %v", told, row.Signal, row.Version, len(row.Meta), err)
		}
		made := count(t, s, "SELECT count(*) FROM runs WHERE id GLOB '"+victim.ID+"_*'")
		if made < told || made > row.Signal || row.Signal > made+1 {
			t.Errorf("it told %d and counted %d, %d runs are stored", told, row.Signal, made)
		}
		if keys := count(t, s, "SELECT count(*) FROM keys WHERE op = '"+victim.ID+"'"); keys != made {
			t.Errorf("%d keys for %d runs", keys, made)
		}
		b.line(t) // the other one goes on
		b.kill(t)
		checkIntegrity(t, s)
	}
	if again := open(t, home); !again.HolderAlive(mine.ID()) {
		t.Error("a new process does not see a living holder")
	}
	left, err := os.ReadDir(filepath.Join(home, "holders"))
	if last := holder(t, s); err != nil || last == nil {
		t.Error(err)
	}
	swept, err := os.ReadDir(filepath.Join(home, "holders"))
	if err != nil || len(swept) != 2 {
		t.Errorf("%d holder files before the sweep, %d after it, want those of the two that live", len(left), len(swept))
	}
}

func TestOfSeveralProcessesExactlyOneWins(t *testing.T) {
	t.Parallel()
	home := filepath.Join(t.TempDir(), "home")
	s := open(t, home)
	for i := range 20 {
		insert(t, s, run(i+1))
	}
	var racers []*child
	for range 3 {
		c := start(t, "race", home)
		c.line(t)
		racers = append(racers, c)
	}
	for _, c := range racers {
		if _, err := io.WriteString(c.stdin, "go\n"); err != nil {
			t.Fatal(err)
		}
	}
	var got, want []string
	for _, c := range racers {
		got = append(got, strings.Fields(c.line(t))...)
	}
	for _, kind := range []string{"lease", "name", "key", "start"} {
		for i := range 20 {
			want = append(want, fmt.Sprintf("%s-%d", kind, i))
		}
	}
	for _, c := range racers {
		if err := errors.Join(c.stdin.Close(), c.cmd.Wait()); err != nil {
			t.Errorf("%v: %s", err, c.err.String())
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
