package storage

import (
	"sync"

	"golang.org/x/sys/unix"
)

// bootID does not change while the machine runs.
var bootID = sync.OnceValues(func() (string, error) { return unix.Sysctl("kern.bootsessionuuid") })

func monotonicNanos() (int64, error) {
	var now unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_UPTIME_RAW, &now) // stands still while the machine sleeps
	return now.Nano(), err
}
