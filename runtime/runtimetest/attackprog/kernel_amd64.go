//go:build linux

package main

import (
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// processorCalls are the entries to the kernel that this processor alone has.
func processorCalls() []attack {
	return []attack{
		{"change segment descriptors", func() (string, error) { return reached(call(unix.SYS_MODIFY_LDT, 0, 0, 0)) }},
		{"get at ports of the machine", func() (string, error) {
			return each([]error{call(unix.SYS_IOPL, 3), call(unix.SYS_IOPERM, 0x70, 2, 1)}, reached)
		}},
		{"make a call of another table", func() (string, error) { return inChild("foreign-call", "x32") }},
	}
}

// foreignCall32 asks for the process ID by the entry of 32-bit programs.
func foreignCall32() uintptr

// foreignCallTime is how long a call may take that a filter answers by ending the
// thread.
const foreignCallTime = 300 * time.Millisecond

// foreignCall ends well if a call that is not one of 64-bit programs is answered.
func foreignCall(table []string) {
	// A thread that is ended in a call keeps the place of a running one.
	runtime.GOMAXPROCS(2)
	answer := make(chan uintptr, 1)
	go func() {
		runtime.LockOSThread()
		if len(table) == 0 {
			answer <- foreignCall32()
			return
		}
		const x32 = 0x40000000
		got, _, _ := unix.RawSyscall(x32|unix.SYS_GETPID, 0, 0, 0)
		answer <- got
	}()
	select {
	case got := <-answer:
		if got == uintptr(os.Getpid()) {
			fmt.Print("it answered")
			return
		}
		fmt.Printf("it answered %d", int32(got))
	case <-time.After(foreignCallTime):
		fmt.Print("its thread was ended")
	}
	os.Exit(1)
}
