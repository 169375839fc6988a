//go:build linux

package main

import (
	"errors"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// guestSocket is where the guest met the host once.
const guestSocket = "/run/drawbridge/guest.sock"

func guest(f facts) []attack {
	return []attack{
		{"read the environment of its own", func() (string, error) { return readToken("/proc/self/environ", f.Token) }},
		{"read the run's secrets from PID 1", func() (string, error) {
			return each([]string{"/proc/1/environ", "/proc/1/cmdline", "/proc/1/task/1/environ"}, func(path string) (string, error) {
				return readToken(path, f.Token)
			})
		}},
		{"list the descriptors of PID 1", func() (string, error) {
			return each([]string{"/proc/1/fd", "/proc/1/task/1/fd", "/proc/1/fdinfo", "/proc/1/map_files"}, func(dir string) (string, error) {
				return done(errOf(os.ReadDir(dir)))
			})
		}},
		{"open the memory of PID 1", func() (string, error) {
			return each([]int{os.O_RDONLY, os.O_RDWR}, func(flag int) (string, error) {
				return done(errOf(os.OpenFile("/proc/1/mem", flag, 0)))
			})
		}},
		{"learn the addresses of PID 1", func() (string, error) {
			return each([]string{"/proc/1/maps", "/proc/1/auxv", "/proc/1/syscall", "/proc/1/stack"}, func(path string) (string, error) {
				text, err := os.ReadFile(path)
				if err == nil && len(text) == 0 {
					err = errNothing
				}
				return "read", err
			})
		}},
		{"overwrite the program of PID 1", func() (string, error) {
			return each([]string{"/proc/1/exe", guestFile}, func(path string) (string, error) {
				return done(errOf(os.OpenFile(path, os.O_WRONLY, 0)))
			})
		}},
		{"talk to the host through the guest's socket", func() (string, error) { return done(talk(guestSocket)) }},
		{"replace the guest's socket", func() (string, error) {
			return each([]error{os.Remove(guestSocket), os.Rename(guestSocket, guestSocket+"-old"), os.WriteFile("/run/drawbridge/other", nil, 0o644)}, done)
		}},
		{"stop PID 1", func() (string, error) { return signalGuest(unix.SIGSTOP) }},
	}
}

// guestKilled is a group of its own, because what follows may never be seen.
func guestKilled(facts) []attack {
	return []attack{{"kill PID 1", func() (string, error) { return signalGuest(unix.SIGKILL) }}}
}

// talk tries to be taken for the guest: a connection that nobody accepts any more
// may still be queued, but says nothing.
func talk(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(answerWait)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

// signalGuest is refused if it has no effect: the kernel takes the signal and drops
// it, as for every PID 1 that does not handle it.
func signalGuest(signal unix.Signal) (string, error) {
	if err := unix.Kill(1, signal); err != nil {
		return "", err
	}
	pause()
	stat, err := os.ReadFile("/proc/1/stat")
	if err != nil {
		return "it is gone", nil
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	if strings.HasPrefix(state, "T") {
		return "it is stopped", unix.Kill(1, unix.SIGCONT)
	}
	return "", errors.New("it goes on")
}
