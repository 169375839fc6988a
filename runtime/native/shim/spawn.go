//go:build linux

package shim

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime/confine"
)

// fork starts args on a thread of its own, which enters what the runtime is to be
// in, and ends: name spaces and the set of processors belong to a thread, and a
// child inherits those of the one that starts it. So nothing of this is seen in
// the rest of the host, or of this process, and nothing of it has to be undone.
func (k *keeper) fork(args []string, fds []uintptr) (int, error) {
	type result struct {
		pid int
		err error
	}
	started := make(chan result, 1)
	stage := k.job.Stage
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this function
		pid, err := k.forkHere(args, fds)
		started <- result{pid, err}
		if stage != "" && err == nil {
			set := <-k.stage // or the program ends
			set.done <- setStage(stage, set.places)
		}
	}()
	r := <-started
	return r.pid, r.err
}

func (k *keeper) forkHere(args []string, fds []uintptr) (int, error) {
	sys := &syscall.SysProcAttr{Setsid: true}
	if err := k.enter(); err != nil {
		return 0, err
	}
	if k.notes.Group == nil {
		if err := narrow(k.job.Limits); err != nil {
			return 0, err
		}
	}
	// Held so that the reaper knows the child before it can reap it.
	k.reaper.mu.Lock()
	defer k.reaper.mu.Unlock()
	pid, err := syscall.ForkExec(args[0], args, &syscall.ProcAttr{Dir: "/", Env: os.Environ(), Files: fds, Sys: sys})
	if err == nil {
		k.reaper.expect(pid)
	}
	return pid, err
}

// gvisorDescriptors is how many descriptors a process of gVisor's sandbox has room
// for: it moves its standard streams to 253 and up.
const gvisorDescriptors = 256

// withRoom returns descriptors for a child, the first of them once more near the end
// of that room. The kernel gives a process the table that its parent's highest
// descriptor needs. One with several threads, as gVisor is when it moves its streams,
// waits for all processors before its table grows, for eight milliseconds and more.
func withRoom(descriptors []uintptr) []uintptr {
	const closed = ^uintptr(0)
	first := descriptors[0]
	// A few places stay free, for the child to move descriptors by way of.
	for len(descriptors) < gvisorDescriptors-4 {
		descriptors = append(descriptors, closed)
	}
	return append(descriptors, first)
}

// enter moves this thread into name spaces of its own.
func (k *keeper) enter() error {
	flags := 0
	if k.job.Networkless {
		flags |= unix.CLONE_NEWNET
	}
	if k.job.Workspace != "" || k.job.Stage != "" {
		flags |= unix.CLONE_NEWNS
	}
	if flags == 0 {
		return nil
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("make name spaces: %w", err)
	}
	if flags&unix.CLONE_NEWNS == 0 {
		return nil
	}
	// What is unmounted on the host is to go away here too, but nothing that is
	// mounted here is to be seen there.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("separate the mounts: %w", err)
	}
	if k.job.Stage != "" {
		return makeStage(k.job.Stage, k.job.Places)
	}
	var mapper confine.Mapper
	defer mapper.Close()
	if err := mapper.Mount(k.job.Workspace, k.job.WorkspaceMount); err != nil {
		return confine.CannotMap(k.job.Workspace, err)
	}
	return nil
}

// reaper reaps every child, the inherited ones too. Nothing else in the program
// may wait.
type reaper struct {
	mu    sync.Mutex
	ended map[int]status      // guarded by mu: of children that were expected or came by themselves and have ended
	asked map[int]chan status // guarded by mu: of those that somebody waits for
}

func newReaper() *reaper {
	r := &reaper{ended: make(map[int]status), asked: make(map[int]chan status)}
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	go func() { // as long as the program
		for range children {
			r.reap()
		}
	}()
	return r
}

// expect registers a child that has just been started; mu is held.
func (r *reaper) expect(pid int) { r.asked[pid] = make(chan status, 1) }

// maxEnded bounds what is kept of children that nobody asked for: the process of a
// sandbox is asked for within moments.
const maxEnded = 1024

func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var w syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &w, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if waiting, ok := r.asked[pid]; ok {
			waiting <- statusOf(w)
			delete(r.asked, pid)
		} else if len(r.ended) < maxEnded {
			r.ended[pid] = statusOf(w)
		}
	}
}

// await returns a channel that gets how a child ended.
func (r *reaper) await(pid int) <-chan status {
	r.mu.Lock()
	defer r.mu.Unlock()
	if waiting, ok := r.asked[pid]; ok {
		return waiting
	}
	waiting := make(chan status, 1)
	if s, ok := r.ended[pid]; ok {
		delete(r.ended, pid)
		waiting <- s
		return waiting
	}
	r.asked[pid] = waiting
	return waiting
}

// status is how a process ended.
type status struct {
	code, signal int
	lost         bool // nobody knows
}

func statusOf(w syscall.WaitStatus) status {
	if w.Signaled() {
		return status{code: 128 + int(w.Signal()), signal: int(w.Signal())}
	}
	return status{code: w.ExitStatus()}
}

func (s status) failed() bool { return s.code != 0 || s.lost }

func (s status) String() string {
	switch {
	case s.lost:
		return "an unknown end"
	case s.signal != 0:
		return fmt.Sprintf("signal %d", s.signal)
	}
	return fmt.Sprintf("exit code %d", s.code)
}
