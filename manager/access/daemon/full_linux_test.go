package daemon

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// On a full disk the gate goes on to decide, lets nothing through that it cannot
// record, and is as before when there is room.
func TestFullDiskLetsNothingThroughUnseen(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a disk of its own takes root")
	}
	w := newWorld(t, stays)
	if err := syscall.Mount("tmpfs", w.home, "tmpfs", 0, "mode=0700,size=3m"); err != nil {
		t.Skipf("a disk of its own cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(w.home, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	var served atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		served.Add(1)
		_, _ = io.WriteString(rw, "ok")
	}))
	t.Cleanup(s.Close)
	host := s.Listener.Addr().String()
	url := "http://" + host + "/"
	r, other := w.request(1, host), w.request(2, host)
	got := w.register(r)
	ask := func() int {
		t.Helper()
		status, err := w.ask(r, got.Token, url)
		if err != nil {
			t.Fatal(err)
		}
		return status
	}
	if status := ask(); status != 200 {
		t.Fatalf("got %d", status)
	}
	ballast := filepath.Join(w.home, "ballast")
	if err := os.WriteFile(ballast, bytes.Repeat([]byte("x"), 4<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}

	// What the last block of the log has room for is still recorded.
	tries := 0
	for ; ask() == 200; tries++ {
		if tries > 1000 {
			t.Fatal("everything is let through")
		}
	}
	before := served.Load()
	for range 3 {
		if status := ask(); status != 503 {
			t.Errorf("what cannot be recorded got %d", status)
		}
	}
	if n := served.Load(); n != before {
		t.Errorf("%d requests went through unseen", n-before)
	}
	// Another run cannot be registered, nor this one otherwise, which changes nothing.
	changed := r
	changed.NetworkRules = nil
	for _, request := range []RegisterRequest{other, changed} {
		if _, err := w.client.Register(t.Context(), request); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "no space left on device") {
			t.Errorf("registering %s: %v", request.RunID, err)
		}
	}
	if status := ask(); status != 503 {
		t.Errorf("the run that was to be changed got %d", status)
	}
	store, err := credential.Open(credential.Dir(w.home), credential.Options{Backend: credential.BackendFile})
	if err == nil {
		err = store.Put(t.Context(), credential.Credential{Grant: "npm", Provider: "npm", Source: credential.SourcePrompt, Values: map[string]credential.Secret{"token": credential.NewSecret("npm_" + strings.Repeat("y", 36))}})
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writing a grant: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(daemonDir(w.home), "*", "*.new")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if status := ask(); status != 200 {
		t.Errorf("with room again it got %d", status)
	}
	lost := 0
	for _, e := range w.entries(r) {
		if strings.Contains(e.Error, "are lost: no space left on device") {
			lost++
		}
	}
	// The last block may have had room for one such entry, and no more.
	if lost == 0 {
		t.Error("the record does not say that something is lost")
	}
	w.register(other)

	// A daemon cannot start there, and it is said why.
	w.kill(syscall.SIGKILL)
	if err := os.WriteFile(ballast, bytes.Repeat([]byte("x"), 4<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	// Until the end of the block of its log it has something to say.
	log := filepath.Join(daemonDir(w.home), "daemon.log")
	f, err := os.OpenFile(log, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write([]byte("x"))
	}
	_ = f.Close()
	if _, err := w.client.Register(t.Context(), r); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), log+": no space left on device; make room there") {
		t.Errorf("starting a daemon: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if again := w.register(r); again.Token != got.Token {
		t.Error("with room again the run has another token")
	}
	if status := ask(); status != 200 {
		t.Errorf("with room again it got %d", status)
	}
}
