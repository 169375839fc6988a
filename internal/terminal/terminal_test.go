package terminal_test

import (
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/term"

	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
)

func openPTY(t *testing.T) (master, tty *os.File) {
	t.Helper()
	master, tty, err := pty.Open()
	if err != nil {
		t.Skipf("no pseudo terminal here: %v", err)
	}
	t.Cleanup(func() { tty.Close(); master.Close() })
	return master, tty
}

func TestRawModeIsUndoneByRestoreHoweverOften(t *testing.T) {
	t.Parallel()
	_, tty := openPTY(t)
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := terminal.MakeRaw(tty)
	if err != nil {
		t.Fatal(err)
	}
	during, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if cmp.Equal(before, during, cmp.Exporter(exportAll)) {
		t.Error("raw mode changed nothing")
	}
	for range 2 {
		if err := raw.Restore(); err != nil {
			t.Fatal(err)
		}
	}
	after, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after, cmp.Exporter(exportAll)); diff != "" {
		t.Errorf("terminal after Restore (-before +after):\n%s", diff)
	}
}

func TestMakeRawRefusesWhatIsNoTerminal(t *testing.T) {
	t.Parallel()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if terminal.Is(f) || terminal.Is(nil) {
		t.Error("a file that is no terminal passes for one")
	}
	if _, err := terminal.MakeRaw(f); err == nil {
		t.Error("no error")
	}
	if _, err := terminal.SizeOf(f); err == nil {
		t.Error("no error for the size")
	}
}

func TestWatchSizeYieldsTheNewestSize(t *testing.T) {
	_, tty := openPTY(t)
	sizes, stop := terminal.WatchSize(tty)
	defer stop()
	want := terminal.Size{Rows: 33, Cols: 101}
	if err := pty.Setsize(tty, &pty.Winsize{Rows: want.Rows, Cols: want.Cols}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-sizes:
		if got != want {
			t.Errorf("size = %+v, want %+v", got, want)
		}
	case <-time.After(time.Minute):
		t.Fatal("no size within 10 s of the signal")
	}
	stop()
	stop() // again is fine
}

func TestInputReadsUntilTheEnd(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	in, err := terminal.NewInput(r)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	go func() {
		io.WriteString(w, "hello")
		w.Close()
	}()
	got, err := io.ReadAll(in)
	if err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v; want hello and the end", got, err)
	}
}

func TestClosingInputLeavesTheNextKeyToOthers(t *testing.T) {
	t.Parallel()
	master, tty := openPTY(t)
	raw, err := terminal.MakeRaw(tty)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Restore()
	in, err := terminal.NewInput(tty)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		_, err := in.Read(make([]byte, 16))
		result <- err
	}()
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !errors.Is(err, terminal.ErrClosed) {
		t.Errorf("a Read that waits at Close: %v, want ErrClosed", err)
	}
	if _, err := in.Read(make([]byte, 1)); !errors.Is(err, terminal.ErrClosed) {
		t.Errorf("a Read after Close: %v, want ErrClosed", err)
	}
	if err := in.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}

	if _, err := io.WriteString(master, "k"); err != nil {
		t.Fatal(err)
	}
	key := make([]byte, 1)
	if _, err := tty.Read(key); err != nil || key[0] != 'k' {
		t.Errorf("the next reader got %q, %v; want the key k", key, err)
	}
}
