package guest

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// defaultPath is searched where the environment has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// processes starts and reaps all children. As PID 1 the guest inherits every
// orphan, so one loop waits for any child, and nothing else in the program may
// wait: package os/exec would race with it.
type processes struct {
	jobs   chan func() // run on the thread that starts processes
	limits string      // of what is started, as link.Start has them; set before the first start

	mu   sync.Mutex // guards live; held from fork to registration, so that the loop knows a child before it can reap it
	live map[int]*process
}

// process is a child that was started on purpose. Its pid is also that of its
// session and process group.
type process struct {
	pid    int
	done   chan struct{} // closed when it has been reaped
	status syscall.WaitStatus
}

// newProcesses starts the loops, which live as long as the program.
func newProcesses() *processes {
	p := &processes{jobs: make(chan func()), live: map[int]*process{}}
	ready := make(chan struct{})
	go p.spawn(ready)
	<-ready
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	go func() {
		for range children {
			p.reap()
		}
	}()
	return p
}

// spawn starts processes on a thread of its own, because no_new_privs belongs to
// a thread, and a child inherits it from the one that forks.
func (p *processes) spawn(ready chan<- struct{}) {
	runtime.LockOSThread()
	// Engines set it too, so a kernel that refuses is no reason to fail.
	_ = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	close(ready)
	for job := range p.jobs {
		job()
	}
}

func (p *processes) reap() {
	for {
		p.mu.Lock()
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if child := p.live[pid]; pid > 0 && child != nil {
			child.status = status
			delete(p.live, pid)
			close(child.done)
		}
		p.mu.Unlock()
		if pid <= 0 && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// program is a command that was found.
type program struct {
	path string
	argv []string
	env  []string
	dir  string
}

// start starts prog with the given descriptors. With tty, the first of them
// becomes its controlling terminal.
func (p *processes) start(prog program, fds []uintptr, tty bool) (*process, error) {
	return p.fork(prog.limited(p.limits), fds, &syscall.SysProcAttr{Setsid: true, Setctty: tty, Ctty: 0})
}

// startWrapped starts prog with the descriptors of this program. A terminal
// stays theirs in common, so the child stays in its foreground group.
func (p *processes) startWrapped(prog program, terminal bool) (*process, error) {
	return p.fork(prog.limited(p.limits), []uintptr{0, 1, 2}, &syscall.SysProcAttr{Setpgid: !terminal})
}

func (p *processes) fork(prog program, fds []uintptr, sys *syscall.SysProcAttr) (*process, error) {
	type result struct {
		child *process
		err   error
	}
	results := make(chan result, 1)
	p.jobs <- func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		pid, err := syscall.ForkExec(prog.path, prog.argv, &syscall.ProcAttr{
			Dir: prog.dir, Env: prog.env, Files: fds, Sys: sys,
		})
		if err != nil {
			results <- result{err: startError(prog.argv[0], err)}
			return
		}
		child := &process{pid: pid, done: make(chan struct{})}
		p.live[pid] = child
		results <- result{child: child}
	}
	r := <-results
	return r.child, r.err
}

func startError(name string, err error) error {
	e := &link.CommandError{Code: link.CodeNotExecutable, Message: fmt.Sprintf("start %q: %v", name, err)}
	switch {
	case errors.Is(err, unix.ENOENT):
		e.Code = link.CodeNotFound
		e.Message = fmt.Sprintf("start %q: the interpreter or loader that it names is not in the sandbox; use an image that has it", name)
	case errors.Is(err, unix.ENOEXEC):
		e.Message = fmt.Sprintf("start %q: is no program of this machine's kind, and names no interpreter; add a #! line, or run it with a shell", name)
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM):
		e.Code = link.CodeSetup
		e.Message = fmt.Sprintf("start %q: %v; the sandbox is at its limit of processes or memory", name, err)
	}
	return e
}

// signalGroup sends sig to the process group of child, unless it has ended.
func (p *processes) signalGroup(child *process, sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live[child.pid] != child {
		return link.ErrEnded
	}
	return syscall.Kill(-child.pid, sig)
}

// exitOf returns the exit code in the way of a shell, and the signal.
func exitOf(status syscall.WaitStatus) (code, sig int) {
	if status.Signaled() {
		return 128 + int(status.Signal()), int(status.Signal())
	}
	return status.ExitStatus(), 0
}

// lookup finds command in the sandbox, as a shell would.
func lookup(command, env []string, dir string) (program, error) {
	if dir == "" {
		dir = "/"
	}
	prog := program{argv: command, env: env, dir: dir}
	if len(command) == 0 || command[0] == "" {
		return prog, &link.CommandError{Code: link.CodeNotFound, Message: "the command is empty"}
	}
	name := command[0]
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return prog, &link.CommandError{Code: link.CodeNotExecutable,
			Message: fmt.Sprintf("start %q: working directory %q is not a directory in the sandbox", name, dir)}
	}
	candidates := []string{name}
	if !strings.Contains(name, "/") {
		candidates = nil
		for _, d := range filepath.SplitList(searchPath(env)) {
			candidates = append(candidates, filepath.Join(d, name))
		}
	}
	found := ""
	for _, c := range candidates {
		if !filepath.IsAbs(c) {
			c = filepath.Join(dir, c)
		}
		info, err := os.Stat(c)
		if err != nil {
			continue
		}
		if !info.IsDir() && unix.Access(c, unix.X_OK) == nil {
			prog.path = c
			return prog, nil
		}
		if found == "" {
			found = c
		}
	}
	if found != "" {
		return prog, &link.CommandError{Code: link.CodeNotExecutable,
			Message: fmt.Sprintf("start %q: %s is not an executable file; make it one with chmod +x, or run it with its interpreter", name, found)}
	}
	return prog, &link.CommandError{Code: link.CodeNotFound,
		Message: fmt.Sprintf("start %q: command not found in the sandbox (searched %s); check the spelling, or use an image that has it", name, strings.Join(candidates, ", "))}
}

func searchPath(env []string) string {
	path := defaultPath
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	return path
}

// mergeEnv returns base with the variables of extra put in their place.
func mergeEnv(base, extra []string) []string {
	index := map[string]int{}
	var env []string
	for _, list := range [][]string{base, extra} {
		for _, kv := range list {
			key, _, _ := strings.Cut(kv, "=")
			if i, ok := index[key]; ok {
				env[i] = kv
				continue
			}
			index[key] = len(env)
			env = append(env, kv)
		}
	}
	return env
}
