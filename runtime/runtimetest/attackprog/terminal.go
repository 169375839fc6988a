//go:build linux

package main

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// upperHalf is a bit of a request that the kernel ignores, and a filter
	// may not.
	upperHalf = 1 << 32
	// discipline is the number of a line discipline that every kernel has and
	// that takes no right: N_NULL. Others are loaded as modules by their number.
	discipline = 27
)

func terminal(facts) []attack {
	return []attack{
		{"ask for the size of the run's terminal", func() (string, error) { return done(errOf(unix.IoctlGetWinsize(0, unix.TIOCGWINSZ))) }},
		{"type into the run's terminal", func() (string, error) { return done(typeAhead(0)) }},
		{"type into a terminal of its own", func() (string, error) { return onTerminal(typeAhead) }},
		{"paste into the run's terminal", func() (string, error) { return done(paste(0)) }},
		{"paste into a terminal of its own", func() (string, error) { return onTerminal(paste) }},
		{"change the line discipline of the run's terminal", func() (string, error) { return done(changeDiscipline(0)) }},
		{"change the line discipline of a terminal of its own", func() (string, error) { return onTerminal(changeDiscipline) }},
		{"take the host's console", func() (string, error) { return done(ioctl(0, unix.TIOCCONS, nil)) }},
		{"open the host's consoles", func() (string, error) {
			return each([]string{"/dev/tty0", "/dev/tty1", "/dev/ttyS0", "/dev/hvc0"}, func(path string) (string, error) {
				return done(onFile(path, func(int) error { return nil }))
			})
		}},
	}
}

func ioctl(fd, request uintptr, argument unsafe.Pointer) error {
	return call(unix.SYS_IOCTL, fd, request, uintptr(argument))
}

// eitherHalf makes a request with and without a bit in its upper half.
func eitherHalf(fd, request uintptr, argument unsafe.Pointer) error {
	if ioctl(fd, request|upperHalf, argument) == nil {
		return nil
	}
	return ioctl(fd, request, argument)
}

// typeAhead puts a character into the input of a terminal.
func typeAhead(fd uintptr) error {
	character := byte('x')
	return eitherHalf(fd, unix.TIOCSTI, unsafe.Pointer(&character))
}

// paste puts a selection of the console into the input of a terminal.
func paste(fd uintptr) error {
	const pasteSelection = 3
	what := byte(pasteSelection)
	return eitherHalf(fd, unix.TIOCLINUX, unsafe.Pointer(&what))
}

// changeDiscipline changes it, and back where that works: N_NULL swallows output.
func changeDiscipline(fd uintptr) error {
	var null, usual int32 = discipline, 0
	err := eitherHalf(fd, unix.TIOCSETD, unsafe.Pointer(&null))
	if err == nil {
		err = ioctl(fd, unix.TIOCSETD, unsafe.Pointer(&usual))
	}
	return err
}

// onTerminal does something to a new terminal.
func onTerminal(do func(fd uintptr) error) (string, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return "", err
	}
	n, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return "", err
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return "", err
	}
	defer slave.Close()
	return done(do(slave.Fd()))
}
