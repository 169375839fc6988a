package main

import "syscall"

// maxRSS reads the peak memory in MB from what the system says of a process that
// has ended.
func maxRSS(usage any) (float64, bool) {
	u, ok := usage.(*syscall.Rusage)
	if !ok {
		return 0, false
	}
	return float64(u.Maxrss) * 1024 / 1e6, true
}
