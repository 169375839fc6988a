package link

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// kept hands over to a guest that is kept and returns both ends.
func kept(t *testing.T) (*Keeper, *Meeting, *os.File, string) {
	t.Helper()
	dir := t.TempDir()
	r, err := Listen(filepath.Join(dir, "guest.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	path := filepath.Join(dir, "control.sock")
	control, err := ListenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { control.Close() })
	status, err := os.Create(filepath.Join(dir, "status"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { status.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	type met struct {
		meeting *Meeting
		start   Start
		files   Files
		err     error
	}
	guest := make(chan met, 1)
	go func() {
		var m met
		if m.meeting, m.start, m.files, m.err = Meet(ctx, r.path); m.err == nil {
			m.err = errors.Join(m.meeting.Ready(), m.meeting.Started(nil))
		}
		guest <- m
	}()
	visitor, err := r.Await(ctx)
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := visitor.Keep(ctx, Start{Command: []string{"x"}}, Files{Status: status, Segments: []*os.File{status, status}})
	m := <-guest
	if err := errors.Join(err, m.err); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keeper.Close() })
	if diff := cmp.Diff(Start{Command: []string{"x"}, Kept: true}, m.start); diff != "" {
		t.Error(diff)
	}
	if m.files.Status == nil || m.files.Control != nil || len(m.files.Segments) != 2 {
		t.Errorf("the guest got %+v", m.files)
	}
	return keeper, m.meeting, control, path
}

func TestKeptGuestGetsItsConnections(t *testing.T) {
	t.Parallel()
	keeper, meeting, control, path := kept(t)
	served := make(chan error, 1)
	go func() { served <- keeper.Serve(control) }()
	go func() {
		for {
			conn, err := meeting.Accept()
			if err != nil {
				return
			}
			if kind, _, err := conn.Receive(100); err == nil && kind == KindSignal {
				conn.Send(KindOK)
			}
			conn.Close()
		}
	}()
	for range 3 {
		client, err := Dial(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Signal(t.Context(), 15); err != nil {
			t.Fatal(err)
		}
	}
	control.Close()
	if err := <-served; err == nil {
		t.Error("it served a socket that was closed")
	}
}

func TestKeptGuestSeesTheEndOfItsKeeper(t *testing.T) {
	t.Parallel()
	keeper, meeting, _, _ := kept(t)
	if err := keeper.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := meeting.Accept(); !errors.Is(err, io.EOF) || errors.Is(err, ErrProtocol) {
		t.Errorf("after the end of the keeper: %v", err)
	}
}

func TestKeeperSeesTheEndOfItsGuest(t *testing.T) {
	t.Parallel()
	keeper, meeting, _, _ := kept(t)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		keeper.Gone()
	}()
	select {
	case <-gone:
		t.Fatal("it is said to be gone and is there")
	case <-time.After(20 * time.Millisecond):
	}
	meeting.conn.Close()
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Error("nobody noticed")
	}
}

// TestWhatIsNoConnectionIsRefusedAndTheNextOneServed sends a guest a byte without
// a descriptor.
func TestWhatIsNoConnectionIsRefusedAndTheNextOneServed(t *testing.T) {
	t.Parallel()
	keeper, meeting, control, path := kept(t)
	if _, err := keeper.conn.file.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := meeting.Accept(); !errors.Is(err, ErrProtocol) {
		t.Errorf("a byte alone: %v", err)
	}
	go func() { _ = keeper.Serve(control) }()
	client, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := meeting.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
