package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// copyProgram puts a copy of this test's program at path, in one step.
func copyProgram(t *testing.T, path string) {
	t.Helper()
	from, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(to, from)
	if err = errors.Join(err, to.Close(), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

func TestUpgradeRefusesNoConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stays)
	program := filepath.Join(t.TempDir(), "daemon")
	copyProgram(t, program)
	w.client.command[0] = program
	host := service(t)
	var requests []RegisterRequest
	var tokens []string
	for i := range 4 {
		r := w.request(i+1, host+" allow GET /yes")
		requests = append(requests, r)
		tokens = append(tokens, w.register(r).Token)
	}
	before, err := w.client.Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Connections come all the time.
	stop := make(chan struct{})
	var callers sync.WaitGroup
	var mu sync.Mutex
	answered := 0
	for i, r := range requests {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				conn, err := dial(t.Context(), filepath.Join(r.GateDir, SocketFile))
				if err != nil {
					t.Errorf("a connection was refused: %v", err)
					return
				}
				_ = conn.Close()
				if status, err := w.ask(r, tokens[i], "http://"+host+"/yes"); err == nil { // what was open may break off
					if status != 200 {
						t.Errorf("got %d", status)
					}
					mu.Lock()
					answered++
					mu.Unlock()
				}
			}
		})
	}
	for range 2 {
		copyProgram(t, program)
		want, err := os.Stat(program)
		if err != nil {
			t.Fatal(err)
		}
		w.eventually("the daemon of the new program", func() bool {
			now, err := os.Stat(fmt.Sprintf("/proc/%d/exe", before.PID))
			return err == nil && os.SameFile(now, want)
		})
		mu.Lock()
		was := answered
		mu.Unlock()
		w.eventually("answers after the upgrade", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return answered > was+8
		})
	}
	close(stop)
	callers.Wait()
	after, err := w.client.Health(t.Context())
	if diff := cmp.Diff(before, after); diff != "" || err != nil {
		t.Errorf("the daemon is another one: %s %v", diff, err)
	}
	for i, r := range requests {
		if status, err := w.ask(r, tokens[i], "http://"+host+"/no"); status != 403 || err != nil {
			t.Errorf("what was refused got %d, %v", status, err)
		}
		if err := w.client.Unregister(t.Context(), r.RunID); err != nil {
			t.Error(err)
		}
	}
	// A file that cannot be started is no upgrade.
	if err := errors.Join(os.WriteFile(program+".bad", []byte("no program"), 0o700), os.Rename(program+".bad", program)); err != nil {
		t.Fatal(err)
	}
	r := w.request(9, host)
	token := w.register(r).Token
	w.eventually("the daemon to have looked at it", func() bool {
		words, err := os.ReadFile(w.client.logFile())
		return err == nil && strings.Contains(string(words), "goes on as it is")
	})
	if status, err := w.ask(r, token, "http://"+host+"/"); status != 200 || err != nil {
		t.Errorf("got %d, %v", status, err)
	}
}
