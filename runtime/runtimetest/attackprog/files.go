//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Files that the suite mounts or leaves for the attacks.
const (
	program     = "/attackprog"   // this program, read-only
	mountedFile = "/mounted/file" // a file in a read-only directory of the host that everybody may write there
	mountedDir  = "/mounted"      // that directory
	guestFile   = "/run/drawbridge/guest"
	ownFile     = workspace + "/file" // a file of the workspace with the token in it
	rootsFile   = "/etc/secret-of-root"
)

// Requests and flags of ioctl(2) that package unix does not have.
const (
	freeze    = 0xc0045877 // FIFREEZE
	thaw      = 0xc0045878 // FITHAW
	immutable = 0x10       // FS_IMMUTABLE_FL
)

func files(f facts) []attack {
	canary := func(path string) (string, error) { return readToken(path, f.Token) }
	return []attack{
		{"read a file in the workspace", func() (string, error) { return canary(ownFile) }},
		{"read a link inside the workspace", func() (string, error) { return throughLink("file", f.Token) }},
		{"read a mounted file", func() (string, error) { return canary(mountedFile) }},
		{"read a host file by its path", func() (string, error) { return canary(f.Canary) }},
		{"read a host file by way of ..", func() (string, error) {
			return each([]string{workspace + "/../" + filepath.Base(f.Canary), workspace + strings.Repeat("/..", 40) + f.Canary, "/mounted/../" + filepath.Base(f.Canary)}, canary)
		}},
		{"read a host file through a link of its own", func() (string, error) {
			return each([]string{f.Canary, "../" + filepath.Base(f.Canary), "/proc/1/root" + f.Canary, "/proc/1/cwd/../" + filepath.Base(f.Canary)}, func(target string) (string, error) {
				return throughLink(target, f.Token)
			})
		}},
		{"read the list of passwords through a link of its own", func() (string, error) { return throughLink("/etc/shadow", "") }},
		{"read a host file through a link that the host left", func() (string, error) {
			return each([]string{"host-absolute", "host-relative", "host-directory/" + filepath.Base(f.Canary), "host-proc"}, func(name string) (string, error) {
				return canary(filepath.Join(workspace, name))
			})
		}},
		{"write a host file through a link that the host left", func() (string, error) {
			return each([]string{"host-absolute", "host-relative", "host-directory/new"}, func(name string) (string, error) {
				return done(os.WriteFile(filepath.Join(workspace, name), []byte("overwritten"), 0o666))
			})
		}},
		{"read a host file through another process's root", func() (string, error) { return throughProcesses("root", f.Canary, f.Token) }},
		{"read a host file through another process's directory", func() (string, error) {
			return throughProcesses("cwd", "/../"+filepath.Base(f.Canary), f.Token)
		}},
		{"read a file of root's outside", func() (string, error) {
			return each([]string{f.Secret, "/proc/1/root" + f.Secret, workspace + "/../" + filepath.Base(f.Secret)}, canary)
		}},
		{"read a file of root's in the image", func() (string, error) { return done(errOf(os.ReadFile(rootsFile))) }},
		{"open what the driver keeps of the run", func() (string, error) { return openAny(f.RunFiles, "/proc/1/root", "/proc/self/root") }},
		{"open a descriptor of another process", othersDescriptors},
		{"open a host file by its handle", func() (string, error) { return byHandle(f) }},
		{"link files in the workspace", func() (string, error) { return linkTo(ownFile) }},
		{"link a mounted file into the workspace", func() (string, error) {
			return each([]string{mountedFile, program, guestFile}, linkTo)
		}},
		{"write to a mounted file", func() (string, error) { return each([]string{mountedFile, guestFile}, overwrite) }},
		{"make a file in a mounted directory", func() (string, error) {
			return done(os.WriteFile(mountedDir+"/new", nil, 0o666))
		}},
		{"remove a mounted file", func() (string, error) { return done(os.Remove(mountedFile)) }},
		{"make a mount writable", func() (string, error) { return each([]string{mountedDir, program, "/"}, remount) }},
		{"write outside the workspace", func() (string, error) {
			return each([]string{"/new", "/bin/new", "/etc/new", "/run/new", "/run/drawbridge/new", filepath.Dir(f.Canary) + "/new"}, func(path string) (string, error) {
				return done(os.WriteFile(path, nil, 0o666))
			})
		}},
		{"make and open a device of the host's", func() (string, error) { return devices(f) }},
		{"open a device beyond the usual", unusualDevices},
		{"freeze the file system of the workspace", func() (string, error) {
			return done(onFile(ownFile, func(fd int) error {
				if err := unix.IoctlSetInt(fd, freeze, 0); err != nil {
					return err
				}
				return unix.IoctlSetInt(fd, thaw, 0)
			}))
		}},
		{"make a file of the workspace immutable", func() (string, error) {
			return done(onFile(ownFile, func(fd int) error {
				if err := unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, immutable); err != nil {
					return err
				}
				return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, 0)
			}))
		}},
	}
}

func errOf[T any](_ T, err error) error { return err }

// readToken reads a file and looks for the suite's word in it, so that a file of
// the same name inside the sandbox is not taken for the host's.
func readToken(path, token string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if !strings.Contains(string(data), token) {
		return "", errors.New("another file")
	}
	return "read " + path, nil
}

// throughLink reads through a link in the workspace that it makes.
func throughLink(target, token string) (string, error) {
	const link = workspace + "/link-of-the-command"
	if err := os.Symlink(target, link); err != nil {
		return "", err
	}
	defer os.Remove(link)
	return readToken(link, token)
}

// pids lists the processes that can be seen.
func pids() []string {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		fail(err)
	}
	var list []string
	for _, entry := range entries {
		if strings.Trim(entry.Name(), "0123456789") == "" {
			list = append(list, entry.Name())
		}
	}
	return list
}

func throughProcesses(link, path, token string) (string, error) {
	return each(pids(), func(pid string) (string, error) {
		return readToken("/proc/"+pid+"/"+link+path, token)
	})
}

// openAny looks for files and sockets of the host by their paths there, below several
// roots. To find one is enough.
func openAny(paths []string, roots ...string) (string, error) {
	places := slices.Clone(paths)
	for _, root := range roots {
		for _, path := range paths {
			places = append(places, root+path)
		}
	}
	return each(places, func(path string) (string, error) {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		return done(unix.Close(fd))
	})
}

func onFile(path string, do func(fd int) error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return do(fd)
}

// othersDescriptors looks into the descriptors of all other processes.
func othersDescriptors() (string, error) {
	others := slices.DeleteFunc(pids(), func(pid string) bool { return pid == fmt.Sprint(os.Getpid()) })
	return each(others, func(pid string) (string, error) {
		entries, err := os.ReadDir("/proc/" + pid + "/fd")
		if err != nil {
			return "", err
		}
		return each(entries, func(entry os.DirEntry) (string, error) {
			return done(onFile("/proc/"+pid+"/fd/"+entry.Name(), func(int) error { return nil }))
		})
	})
}

// byHandle opens a file by what its file system calls it, which takes no path. The
// workspace is on the same file system.
func byHandle(f facts) (string, error) {
	handles := []unix.FileHandle{unix.NewFileHandle(f.Type, f.Handle)}
	// The root directory of a disk: inode 2 of the first generation.
	for inode := range byte(4) {
		handles = append(handles, unix.NewFileHandle(1, []byte{inode, 0, 0, 0, 0, 0, 0, 0}))
	}
	result := errNothing
	for _, at := range []string{workspace, "/", mountedDir, "/tmp"} {
		err := onFile(at, func(dir int) error {
			for _, handle := range handles {
				fd, err := unix.OpenByHandleAt(dir, handle, unix.O_RDONLY)
				if err == nil {
					return unix.Close(fd)
				}
				result = err
			}
			return result
		})
		if err == nil {
			return "opened from " + at, nil
		}
		result = err
	}
	return "", result
}

func linkTo(path string) (string, error) {
	link := workspace + "/hard-link-to-" + filepath.Base(path)
	defer os.Remove(link)
	return done(os.Link(path, link))
}

func overwrite(path string) (string, error) {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return done(os.Truncate(path, 0))
	}
	return done(file.Close())
}

func remount(path string) (string, error) {
	if err := unix.Mount("none", path, "", unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
		return "", err
	}
	return done(os.WriteFile(path+"/new", nil, 0o666))
}

// devices makes nodes for a disk, the memory and the log of the host.
func devices(f facts) (string, error) {
	type node struct {
		mode uint32
		dev  uint64
	}
	nodes := []node{{unix.S_IFBLK, f.Device}, {unix.S_IFCHR, unix.Mkdev(1, 1)}, {unix.S_IFCHR, unix.Mkdev(1, 11)}, {unix.S_IFCHR, unix.Mkdev(10, 200)}}
	return each([]string{workspace, "/tmp", "/dev", "/dev/shm"}, func(dir string) (string, error) {
		return each(nodes, func(n node) (string, error) {
			path := dir + "/node"
			defer os.Remove(path)
			if err := unix.Mknod(path, n.mode|0o666, int(n.dev)); err != nil {
				return "", err
			}
			return done(onFile(path, func(int) error { return nil }))
		})
	})
}

// unusualDevices opens everything below /dev that leads to a driver of the kernel
// which ordinary programs do not need.
func unusualDevices() (string, error) {
	usual := []string{"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"}
	var list []string
	entries, err := os.ReadDir("/dev")
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		if entry.Type()&os.ModeDevice == 0 || slices.Contains(usual, entry.Name()) {
			continue
		}
		if onFile("/dev/"+entry.Name(), func(int) error { return nil }) == nil {
			list = append(list, entry.Name())
		}
	}
	return found(list)
}
