package link

import "golang.org/x/sys/unix"

// cloexecOnReceive closes received files in child processes from the beginning.
const cloexecOnReceive = unix.MSG_CMSG_CLOEXEC
