package storage

import (
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// bootID does not change while the machine runs.
var bootID = sync.OnceValues(func() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data)), err
})

func monotonicNanos() (int64, error) {
	var now unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return now.Nano(), err
}
