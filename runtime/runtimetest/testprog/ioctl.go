//go:build linux

package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func syscallIoctl(fd, request uintptr, data *[1]byte) (uintptr, uintptr, unix.Errno) {
	return unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(data)))
}
