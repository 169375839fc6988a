package storage

import (
	"errors"
	"testing"
)

func TestAPortBelongsToOneLiveRun(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	with := func(ports ...int) Insertion { return Insertion{Ports: ports} }
	if _, err := s.InsertRun(t.Context(), run(1), with(20001, 20002)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.InsertRun(t.Context(), run(2), with(20003, 20002)); !errors.Is(err, ErrPortTaken) {
		t.Errorf("the port of another run: %v, want ErrPortTaken", err)
	}
	if _, err := s.Run(t.Context(), run(2).ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("the run is there: %v", err)
	}
	if _, err := s.InsertRun(t.Context(), run(2), with(20003)); err != nil {
		t.Errorf("a port of a run that was refused: %v", err)
	}
	has := func() bool {
		t.Helper()
		has, err := s.HasPorts(t.Context())
		if err != nil {
			t.Error(err)
		}
		return has
	}
	if has() {
		t.Error("a run that was not started counts")
	}
	move := func(n int, state string, ports ...int) error {
		_, err := s.ChangePorts(t.Context(), run(n).ID, liveStates, ports, func(r *RunRow) { r.State = state })
		return err
	}
	if err := move(1, stateRunning, 20003); !errors.Is(err, ErrPortTaken) {
		t.Errorf("a move to the port of another run: %v, want ErrPortTaken", err)
	}
	if got, err := s.Run(t.Context(), run(1).ID); err != nil || got.State != stateCreated {
		t.Errorf("a move that failed changed the run: %s, %v", got.State, err)
	}
	if err := move(1, stateRunning, 20001, 20004); err != nil {
		t.Error(err)
	}
	if !has() {
		t.Error("a run that is up does not count")
	}
	if err := move(2, stateCreated, 20002); err != nil {
		t.Errorf("a port that its run gave up: %v", err)
	}
	if err := move(1, stateStopped, 20001, 20004); err != nil {
		t.Error(err)
	}
	if has() {
		t.Error("a run that has ended counts")
	}
	if err := move(2, stateCreated, 20001); err != nil {
		t.Errorf("a port of a run that has ended: %v", err)
	}
	if err := s.DeleteRun(t.Context(), run(2).ID); err != nil {
		t.Error(err)
	}
	if _, err := s.InsertRun(t.Context(), run(3), with(20001)); err != nil {
		t.Errorf("a port of a run that is gone: %v", err)
	}
}
