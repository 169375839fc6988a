package daemon

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

func TestOfTwoDaemonsOneServes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stays)
	type end struct {
		pid int
		err error
	}
	ends := make(chan end, 2)
	for range 2 {
		cmd := exec.Command(w.client.command[0], w.client.command[1:]...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { ends <- end{cmd.Process.Pid, cmd.Wait()} }()
	}
	loser := <-ends
	if loser.err != nil {
		t.Errorf("the one that is not needed ends with %v", loser.err)
	}
	// Clients do not start a third one.
	client := NewClient(w.home, []string{"/nonexistent"})
	defer client.Close()
	var first Health
	w.eventually("an answer", func() (ok bool) {
		var err error
		first, err = client.Health(t.Context())
		return err == nil
	})
	if first.PID == loser.pid {
		t.Error("the one that has ended answers")
	}
	r := w.request(1)
	if _, err := client.Register(t.Context(), r); err != nil {
		t.Error(err)
	}

	// What it leaves behind when it is killed keeps nobody out.
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-ends
	for _, path := range []string{socketPath(w.home), filepath.Join(daemonDir(w.home), "daemon.lock"), runFile(w.home, r.RunID)} {
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("it is not there to be found: %v", err)
		}
	}
	w.register(w.request(2))
	if next, err := w.client.Health(t.Context()); err != nil || next.PID == first.PID || next.Runs != 2 {
		t.Errorf("after it was killed: %+v, %v", next, err)
	}
}

// What is in the place of the daemon's files is named, and left alone.
func TestWhatIsInTheWayOfTheDaemonIsNamed(t *testing.T) {
	t.Parallel()
	const nobody = 65534
	for name, test := range map[string]struct {
		put  func(home string) error
		at   func(home string) string
		want string
		root bool // only root can arrange it
	}{
		"a directory for the socket": {put: func(home string) error { return os.MkdirAll(filepath.Join(socketPath(home), "full"), 0o700) }, at: socketPath, want: "move it away"},
		"a file for the socket": {put: func(home string) error {
			return errors.Join(os.MkdirAll(daemonDir(home), 0o700), os.WriteFile(socketPath(home), nil, 0o600))
		}, at: socketPath, want: "move it away"},
		"a file for the directory": {put: func(home string) error { return os.WriteFile(daemonDir(home), nil, 0o600) }, at: daemonDir, want: "move it away"},
		"another user's socket": {root: true, put: func(home string) error {
			if err := os.MkdirAll(daemonDir(home), 0o700); err != nil {
				return err
			}
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketPath(home), Net: "unix"})
			if err != nil {
				return err
			}
			l.SetUnlinkOnClose(false)
			return errors.Join(l.Close(), os.Chown(socketPath(home), nobody, nobody))
		}, at: socketPath, want: "belongs to user 65534, not to user 0 who runs this; set DRAWBRIDGE_HOME"},
		"another user's directory": {root: true, put: func(home string) error {
			return errors.Join(os.MkdirAll(daemonDir(home), 0o755), os.Chown(daemonDir(home), nobody, nobody))
		}, at: daemonDir, want: "belongs to user 65534, not to user 0 who runs this; set DRAWBRIDGE_HOME"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.root && os.Geteuid() != 0 {
				t.Skip("only root can give files away")
			}
			w := newWorld(t, stays)
			r := w.request(1)
			if err := test.put(w.home); err != nil {
				t.Fatal(err)
			}
			_, err := w.client.Register(t.Context(), r)
			if err == nil || !strings.Contains(err.Error(), test.at(w.home)) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q and %q", err, test.at(w.home), test.want)
			}
			if err := os.RemoveAll(test.at(w.home)); err != nil {
				t.Fatal(err)
			}
			w.register(r) // the mirror
		})
	}
}

// The address of a socket is short. That is no reason for a home to be.
func TestHomeMayHaveALongPath(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stays)
	home := filepath.Join(w.home, strings.Repeat("a", 100), strings.Repeat("b", 100))
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	long := &world{T: t, home: home, client: NewClient(home, []string{os.Args[0], asDaemon, home, stays})}
	t.Cleanup(func() {
		long.kill(syscall.SIGTERM)
		long.client.Close()
		long.eventually("the end of all daemons", func() bool { return !endAll(home) })
	})
	host := service(t)
	r := long.request(1, host)
	_, err := long.client.Register(t.Context(), r)
	if err != nil {
		// Where the system has no way around it, it is said.
		if !strings.Contains(err.Error(), "set DRAWBRIDGE_HOME to a directory with a shorter path") {
			t.Error(err)
		}
		return
	}
	got := long.register(r)
	if status, err := long.ask(r, got.Token, "http://"+host+"/"); status != 200 || err != nil {
		t.Errorf("got %d, %v", status, err)
	}
}

// A run is not registered with a grant that cannot be used, and the message says
// which file it is, and what mends it.
func TestGrantThatCannotBeUsedIsNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stays)
	if err := os.Chmod(w.home, 0o700); err != nil {
		t.Fatal(err)
	}
	npm := credential.Credential{Grant: "npm", Provider: "npm", Source: credential.SourcePrompt, Values: map[string]credential.Secret{"token": credential.NewSecret("npm_" + strings.Repeat("y", 36))}}
	github := credential.Credential{Grant: "github", Provider: "github", Source: credential.SourcePrompt, Values: map[string]credential.Secret{"token": credential.NewSecret("ghp_" + strings.Repeat("x", 36))}}
	expired := npm
	expired.CreatedAt, expired.ExpiresAt = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	w.grant(github)
	file := filepath.Join(credential.Dir(w.home), "npm.age")
	change := func(change func(data []byte) []byte) func() error {
		return func() error {
			data, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			return os.WriteFile(file, change(data), 0o600)
		}
	}
	r := w.request(1)
	r.Grants = []string{"github", "npm"}
	for name, test := range map[string]struct {
		spoil func() error
		want  []string
	}{
		"truncated": {change(func(data []byte) []byte { return data[:len(data)/2] }), []string{file, "run `drawbridge grant npm`"}},
		"corrupt": {change(func(data []byte) []byte {
			data[len(data)-1] ^= 1
			return data
		}), []string{file, "run `drawbridge grant npm`"}},
		"swapped": {func() error {
			other, err := os.ReadFile(filepath.Join(credential.Dir(w.home), "github.age"))
			return errors.Join(err, os.WriteFile(file, other, 0o600))
		}, []string{file, "it holds another grant", "run `drawbridge grant npm`"}},
		"open to others": {func() error { return os.Chmod(file, 0o644) }, []string{file, "run `chmod 600 " + file + "`"}},
		"gone":           {func() error { return os.Remove(file) }, []string{"run `drawbridge grant npm`"}},
		"expired":        {func() error { w.grant(expired); return nil }, []string{"expired at", "run `drawbridge grant npm` again"}},
	} {
		w.grant(npm)
		if err := test.spoil(); err != nil {
			t.Fatal(err)
		}
		_, err := w.client.Register(t.Context(), r)
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
		if err != nil && (strings.Contains(err.Error(), "ghp_") || strings.Contains(err.Error(), "npm_")) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "open to others" {
			if err := os.Chmod(file, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.grant(npm)
	w.register(r) // the mirror
}
