//go:build linux

package main

import (
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// hostFacts compares what is to be seen with what the suite sees on the host.
func hostFacts(f facts) []attack {
	learn := func(name string, paths ...string) attack {
		return attack{name, func() (string, error) {
			want := f.Host[name]
			if want == "" {
				return "", errors.New("the suite has nothing to compare with")
			}
			return each(paths, func(path string) (string, error) { return readToken(path, want) })
		}}
	}
	read := func(name string, paths ...string) attack {
		return attack{name, func() (string, error) { return each(paths, readSomething) }}
	}
	return []attack{
		read("read what it needs of the machine", "/proc/cpuinfo"),
		learn("learn the boot ID", "/proc/sys/kernel/random/boot_id"),
		{"learn the host's name", func() (string, error) {
			return each([]string{"/proc/sys/kernel/hostname", "/etc/hostname", "/etc/hosts"}, func(path string) (string, error) {
				// A short name may be part of another one.
				text, err := os.ReadFile(path)
				if err == nil && !slices.Contains(strings.Fields(string(text)), f.Host["learn the host's name"]) {
					err = errNothing
				}
				return "read", err
			})
		}},
		learn("learn the kernel's command line", "/proc/cmdline"),
		learn("learn the machine's ID", "/etc/machine-id", "/var/lib/dbus/machine-id", "/sys/class/dmi/id/product_uuid", "/sys/devices/virtual/dmi/id/product_uuid"),
		learn("learn the host's users", "/etc/passwd"),
		learn("learn the host's paths of what is mounted", "/proc/self/mountinfo", "/proc/self/mounts"),
		learn("learn the machine's memory", "/proc/meminfo"),
		learn("learn when the machine started", "/proc/stat"),
		learn("learn the processor's model", "/proc/cpuinfo"),
		{"learn the kernel's version", func() (string, error) {
			var name unix.Utsname
			if err := unix.Uname(&name); err != nil {
				return "", err
			}
			release := unix.ByteSliceToString(name.Release[:])
			if release != f.Host["learn the kernel's version"] {
				return "", errors.New(release)
			}
			return release, nil
		}},
		read("read the machine's interrupts", "/proc/interrupts", "/proc/softirqs"),
		read("read the kernel's symbols and modules", "/proc/kallsyms", "/proc/modules", "/proc/config.gz", "/proc/vmallocinfo"),
		read("read the kernel's memory", "/proc/kcore", "/proc/kmsg", "/proc/kpagecount", "/proc/kpageflags"),
		read("read the machine's disks", "/proc/partitions", "/proc/diskstats", "/proc/mdstat", "/proc/swaps"),
		read("read the machine's use of memory", "/proc/zoneinfo", "/proc/slabinfo", "/proc/buddyinfo", "/proc/pagetypeinfo"),
		read("read the machine's pressure and schedule", "/proc/pressure/cpu", "/proc/pressure/memory", "/proc/pressure/io", "/proc/schedstat", "/proc/sched_debug", "/proc/timer_list"),
		read("read the machine's counters", "/proc/vmstat"),
		read("read the keys and locks of the host", "/proc/keys", "/proc/key-users", "/proc/locks", "/proc/sysvipc/shm"),
		read("read the machine's ports", "/proc/ioports", "/proc/iomem", "/proc/dma", "/proc/bus/pci/devices"),
		{"see the machine's devices", func() (string, error) {
			return each([]string{"/sys/block", "/sys/bus/pci/devices", "/sys/module", "/sys/class/block", "/sys/dev/block"}, func(dir string) (string, error) {
				entries, err := os.ReadDir(dir)
				if err == nil && len(entries) == 0 {
					err = errNothing
				}
				return "listed", err
			})
		}},
	}
}

// readSomething reads the beginning of a file that must not be empty.
func readSomething(path string) (string, error) {
	buffer := make([]byte, 4096)
	n := 0
	err := onFile(path, func(fd int) (err error) {
		n, err = unix.Read(fd, buffer)
		return err
	})
	if err == nil && strings.TrimSpace(string(buffer[:max(n, 0)])) == "" {
		err = errNothing
	}
	return "read", err
}
