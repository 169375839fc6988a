package daemon

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// An upgrade. When the file that a daemon was started from is replaced, the daemon
// becomes the program that is there now: it keeps its process, its lock and its
// listening sockets, so that whoever connects meanwhile waits a moment and is not
// refused. Connections that are open break off, as with any end of a daemon.

// inheritedVariable tells the next program which descriptors it has, as JSON.
const inheritedVariable = "DRAWBRIDGE_DAEMON_INHERITED"

// inherited are descriptors that a program gets from its predecessor.
type inherited struct {
	Lock    int            `json:"lock"`
	Clients int            `json:"clients"` // where Managers connect
	Runs    map[string]int `json:"runs"`    // by run ID
}

// takeInherited returns what a predecessor left to this process, nil if there is
// none, and keeps it from programs that this one starts.
func takeInherited() *inherited {
	text := os.Getenv(inheritedVariable)
	if text == "" {
		return nil
	}
	_ = os.Unsetenv(inheritedVariable)
	var i inherited
	if json.Unmarshal([]byte(text), &i) != nil {
		return nil
	}
	unix.CloseOnExec(i.Lock)
	unix.CloseOnExec(i.Clients)
	for _, fd := range i.Runs {
		unix.CloseOnExec(fd)
	}
	return &i
}

// listener returns the listener of a run, once; nil if there is none.
func (i *inherited) listener(id string) *net.UnixListener {
	if i == nil {
		return nil
	}
	fd, ok := i.Runs[id]
	if !ok {
		return nil
	}
	delete(i.Runs, id)
	return listenerOf(fd)
}

// listenerOf takes ownership of a descriptor; nil if it is no listener.
func listenerOf(fd int) *net.UnixListener {
	file := os.NewFile(uintptr(fd), "inherited")
	if file == nil {
		return nil
	}
	defer file.Close()
	l, err := net.FileListener(file)
	if err != nil {
		return nil
	}
	own, ok := l.(*net.UnixListener)
	if !ok {
		_ = l.Close()
		return nil
	}
	own.SetUnlinkOnClose(false)
	return own
}

// closeRest closes what nobody asked for.
func (i *inherited) closeRest() {
	if i == nil {
		return
	}
	for _, fd := range i.Runs {
		_ = unix.Close(fd)
	}
}

// program is the file that this process was started from.
type program struct {
	path string
	at   os.FileInfo
}

func ownProgram() (*program, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	at, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	return &program{path, at}, nil
}

// wasReplaced reports whether another file is there now, completely: not one that
// is being written, nor one that nobody could start.
func (p *program) wasReplaced() bool {
	now, err := os.Stat(p.path)
	return err == nil && !os.SameFile(now, p.at) && now.Mode().IsRegular() && unix.Access(p.path, unix.X_OK) == nil
}

// succeed makes this process the program that is there now. It returns only if that
// fails; then everything is served as before.
func (s *server) succeed(lock *os.File, clients *net.UnixListener) error {
	var opened []int
	// A duplicate is not closed when the program changes.
	duplicate := func(from syscall.Conn) int {
		raw, err := from.SyscallConn()
		if err != nil {
			return -1
		}
		fd := -1
		if err := raw.Control(func(own uintptr) { fd, _ = unix.Dup(int(own)) }); err != nil || fd < 0 {
			return -1
		}
		opened = append(opened, fd)
		return fd
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	left := inherited{Lock: duplicate(lock), Clients: duplicate(clients), Runs: make(map[string]int, len(s.runs))}
	for id, r := range s.runs {
		left.Runs[id] = duplicate(r.listener)
	}
	text, err := json.Marshal(left)
	if err == nil {
		err = syscall.Exec(s.program.path, os.Args, append(os.Environ(), inheritedVariable+"="+string(text))) //nolint:gosec // the path and arguments are this process's own
	}
	for _, fd := range opened {
		_ = unix.Close(fd)
	}
	return fmt.Errorf("become the program that is now at %s: %w", s.program.path, err)
}
