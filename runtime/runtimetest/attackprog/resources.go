//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What is asked for, each more than the suite lets a sandbox have.
const (
	muchTmp    = 64 << 20  // bytes, of 16 MiB
	muchMemory = 128 << 20 // bytes of /dev/shm
	muchDisk   = 64 << 20  // bytes of the workspace
	manyFiles  = 1 << 20
)

func resources(facts) []attack {
	return []attack{
		{"write a little", func() (string, error) { return fill("/tmp/little", 1<<20) }},
		{"fill the temporary directory", func() (string, error) { return fill("/tmp/much", muchTmp) }},
		{"fill the shared memory", func() (string, error) { return fill("/dev/shm/much", muchMemory) }},
		{"fill the workspace", func() (string, error) { return fill(workspace+"/much", muchDisk) }},
		{"open files without end", openWithoutEnd},
		{"raise the limit of open files", func() (string, error) { return raise(unix.RLIMIT_NOFILE) }},
		{"raise the limit of core files", func() (string, error) { return raise(unix.RLIMIT_CORE) }},
		{"leave a core file", leaveCore},
	}
}

// fill writes a file of a size and removes it again.
func fill(path string, size int) (string, error) {
	file, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer os.Remove(path)
	defer file.Close()
	block := make([]byte, 1<<20)
	for written := 0; written < size; written += len(block) {
		if _, err := file.Write(block); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("wrote %d bytes", size), nil
}

func openWithoutEnd() (string, error) {
	var open []int
	defer func() {
		for _, fd := range open {
			unix.Close(fd)
		}
	}()
	for len(open) < manyFiles {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		open = append(open, fd)
	}
	return fmt.Sprintf("opened %d", len(open)), nil
}

func raise(limit int) (string, error) {
	var now unix.Rlimit
	if err := unix.Getrlimit(limit, &now); err != nil {
		return "", err
	}
	return done(unix.Setrlimit(limit, &unix.Rlimit{Cur: now.Cur, Max: now.Max + 1}))
}

// leaveCore lets a program crash in the workspace, with as great a limit as it can
// get.
func leaveCore() (string, error) {
	child := exec.Command("sh", "-c", "ulimit -c unlimited 2>/dev/null; kill -SEGV $$")
	child.Dir = workspace
	_ = child.Run() // says that it crashed
	pause()
	files, err := filepath.Glob(workspace + "/*core*")
	if err != nil {
		return "", err
	}
	if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() {
		return "", errors.New("it did not crash")
	} else if status.CoreDump() {
		files = append(files, "the kernel says so")
	}
	return found(files)
}

// burn keeps all processors busy for ever.
func burn([]string) {
	for range runtime.NumCPU() {
		go func() {
			for {
				continue
			}
		}()
	}
	select {}
}

// bombTime is how long a fork bomb goes on.
const bombTime = time.Second

// forkBomb starts a bomb and says after a while how many processes there are.
func forkBomb() {
	runtime.GC() // makes the threads that this process will need, while it can
	if err := exec.Command(os.Args[0], "bomb").Start(); err != nil {
		fail(err)
	}
	time.Sleep(bombTime)
	fmt.Printf("survived among %d\n", len(pids()))
	os.Exit(0)
}

// bomb starts others like itself for ever.
func bomb() {
	for {
		if exec.Command(os.Args[0], "bomb").Start() != nil {
			time.Sleep(beatTime)
		}
	}
}

// writeEndlessly prints lines, the given number of MiB in all, once the suite has
// seen the sandbox start.
func writeEndlessly(mib string) {
	n, err := strconv.Atoi(mib)
	if err != nil {
		fail(err)
	}
	if _, err := awaitFacts(); err != nil {
		fail(err)
	}
	line := make([]byte, 1<<10)
	for i := range line {
		line[i] = 'x'
	}
	line[len(line)-1] = '\n'
	for range n << 10 {
		if _, err := os.Stdout.Write(line); err != nil {
			fail(err)
		}
	}
}
