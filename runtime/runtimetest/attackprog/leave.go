//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// beatTime is between two signs of life of a process that is left behind.
const beatTime = 20 * time.Millisecond

// leaveBehind starts processes that are hard to get rid of, and ends when the suite
// has seen them: it makes the file go in the workspace then.
func leaveBehind(marker string) {
	background := func(kind string) *exec.Cmd {
		return exec.Command("sh", "-c", `"$0" remain "$1" "$2" </dev/null >/dev/null 2>&1 &`, os.Args[0], kind, marker)
	}
	daemon := background("daemon")
	daemon.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	group := exec.Command(os.Args[0], "remain", "group", marker)
	group.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	for _, c := range []*exec.Cmd{daemon, background("orphan"), group, exec.Command(os.Args[0], "remain", "deaf", marker), exec.Command(os.Args[0], "remain", "stopped", marker)} {
		if err := c.Start(); err != nil {
			fail(err)
		}
	}
	for {
		if _, err := os.Stat(workspace + "/go"); err == nil {
			return
		}
		time.Sleep(beatTime)
	}
}

// remain gives signs of life for as long as it lives.
func remain(kind string) {
	if kind == "deaf" {
		signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT)
	}
	for beat := 0; ; beat++ {
		fresh := workspace + "/new-" + kind
		if err := os.WriteFile(fresh, []byte(strconv.Itoa(beat)), 0o644); err != nil {
			fail(err)
		}
		if err := os.Rename(fresh, workspace+"/beat-"+kind); err != nil {
			fail(fmt.Errorf("give a sign of life: %w", err))
		}
		if kind == "stopped" {
			_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
		}
		time.Sleep(beatTime)
	}
}
