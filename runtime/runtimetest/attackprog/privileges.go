//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setUserProgram is a copy of this program that belongs to root and has the
// set-user-ID bit.
const setUserProgram = "/mounted/set-user-id"

func privileges(facts) []attack {
	list := []attack{
		{"change the mode of a file of its own", func() (string, error) { return inFresh(func(path string) error { return unix.Chmod(path, 0o755) }) }},
		{"have a capability", capabilities},
		{"become root", func() (string, error) {
			return each([]error{call(unix.SYS_SETUID, 0), call(unix.SYS_SETREUID, 0, 0), call(unix.SYS_SETRESUID, 0, 0, 0), call(unix.SYS_SETGID, 0), call(unix.SYS_SETRESGID, 0, 0, 0)}, done)
		}},
		{"become root for files", func() (string, error) {
			_ = call(unix.SYS_SETFSUID, 0)
			// The second call returns what the first one set.
			if now, _, _ := unix.Syscall(unix.SYS_SETFSUID, ^uintptr(0), 0, 0); now != 0 {
				return "", unix.EPERM
			}
			return "root", nil
		}},
		{"join the group of root", func() (string, error) {
			group := uint32(0)
			return done(call(unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&group))))
		}},
		{"take capabilities", func() (string, error) {
			all := [2]unix.CapUserData{{Effective: ^uint32(0), Permitted: ^uint32(0)}, {Effective: 1, Permitted: 1}}
			return done(unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &all[0]))
		}},
		{"raise an ambient capability", func() (string, error) {
			return done(unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_SYS_ADMIN, 0, 0))
		}},
		{"allow new privileges again", func() (string, error) { return done(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0)) }},
		{"have its memory dumped as root", func() (string, error) { return done(unix.Prctl(unix.PR_SET_DUMPABLE, 2, 0, 0, 0)) }},
		{"run a set-user-ID program of root's", func() (string, error) {
			got, err := runSetUser()
			if err == nil && strings.TrimSpace(got) != "0" {
				return "", errors.New("runs as " + got)
			}
			return got, err
		}},
		{"give a file capabilities", func() (string, error) {
			capability := []byte{1, 0, 0, 2, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}
			return inFresh(func(path string) error { return unix.Setxattr(path, "security.capability", capability, 0) })
		}},
		{"give a file to root", func() (string, error) { return inFresh(func(path string) error { return os.Chown(path, 0, 0) }) }},
	}
	return append(list, setUserAttacks()...)
}

// runSetUser runs the program and returns the user that it ran as.
func runSetUser() (string, error) {
	child := os.Args[0]
	os.Args[0] = setUserProgram
	defer func() { os.Args[0] = child }()
	return inChild("identity")
}

// fresh returns the name of a file that is not there, in each place where files
// can be made.
func fresh() []string { return []string{workspace + "/fresh", "/tmp/fresh"} }

// inFresh does something to an empty program in each of these places.
func inFresh(do func(path string) error) (string, error) {
	return each(fresh(), func(path string) (string, error) {
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			return "", err
		}
		defer os.Remove(path)
		return done(do(path))
	})
}

// setUserAttacks make a file with the set-user-ID bit, by every call that takes a
// mode. What could be made stays for the suite to find.
func setUserAttacks() []attack {
	const mode = 0o4755
	keep := func(name string, do func(path string) error) attack {
		return attack{"make a set-user-ID file by " + name, func() (string, error) {
			return each(fresh(), func(path string) (string, error) {
				path += "-" + name
				if err := do(path); err != nil {
					return "", err
				}
				info, err := os.Stat(path)
				if err == nil && info.Mode()&(os.ModeSetuid|os.ModeSetgid) == 0 {
					err = errors.New("the bit was dropped")
				}
				return filepath.Base(path), err
			})
		}}
	}
	existing := func(do func(path string) error) func(path string) error {
		return func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o755), do(path)) }
	}
	closed := func(fd int, err error) error {
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	return []attack{
		keep("chmod", existing(func(path string) error { return unix.Chmod(path, mode) })),
		keep("chmod of the group", existing(func(path string) error { return unix.Chmod(path, 0o2755) })),
		keep("fchmod", existing(func(path string) error {
			return onFile(path, func(fd int) error { return unix.Fchmod(fd, mode) })
		})),
		keep("fchmodat", existing(func(path string) error { return unix.Fchmodat(unix.AT_FDCWD, path, mode, 0) })),
		keep("fchmodat2", existing(func(path string) error { return unix.Fchmodat(unix.AT_FDCWD, path, mode, unix.AT_SYMLINK_NOFOLLOW) })),
		keep("open", func(path string) error { return closed(unix.Open(path, unix.O_CREAT|unix.O_WRONLY, mode)) }),
		keep("creat", func(path string) error { return closed(unix.Creat(path, mode)) }),
		keep("openat2", func(path string) error {
			return closed(unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_CREAT | unix.O_WRONLY, Mode: mode}))
		}),
		keep("mknod", func(path string) error { return unix.Mknod(path, unix.S_IFREG|mode, 0) }),
		keep("a temporary file", func(path string) error {
			fd, err := unix.Open(filepath.Dir(path), unix.O_TMPFILE|unix.O_WRONLY, mode)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
		}),
	}
}
