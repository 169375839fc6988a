package confine

// MaskedPaths are hidden from the sandbox. The engine's own list is replaced by
// this one, so the first part repeats it; the rest tells a command about the host
// and is needed by no ordinary program.
//
// What stays visible, because programs need it or the kernel has no other view:
// the kernel's version (uname), the machine's memory, load, uptime and processors
// (/proc/meminfo, loadavg, uptime, cpuinfo, stat, vmstat; sysinfo(2) says the same), and
// in /proc/self/mountinfo the paths on the host of what is mounted from it. gVisor
// shows none of these.
var MaskedPaths = []string{
	"/proc/acpi",
	"/proc/asound",
	"/proc/kcore",
	"/proc/keys",
	"/proc/latency_stats",
	"/proc/sched_debug",
	"/proc/scsi",
	"/proc/timer_list",
	"/proc/timer_stats",
	"/sys/firmware",

	"/proc/buddyinfo",
	"/proc/bus",
	"/proc/cmdline",
	"/proc/config.gz",
	"/proc/consoles",
	"/proc/diskstats",
	"/proc/dma",
	"/proc/driver",
	"/proc/fs",
	"/proc/interrupts",
	"/proc/iomem",
	"/proc/ioports",
	"/proc/kallsyms",
	"/proc/key-users",
	"/proc/kpagecgroup",
	"/proc/kpagecount",
	"/proc/kpageflags",
	"/proc/locks",
	"/proc/mdstat",
	"/proc/modules",
	"/proc/mtrr",
	"/proc/pagetypeinfo",
	"/proc/partitions",
	"/proc/pressure",
	"/proc/schedstat",
	"/proc/slabinfo",
	"/proc/softirqs",
	"/proc/swaps",
	"/proc/sys/fs/binfmt_misc",
	"/proc/sys/kernel/random/boot_id",
	"/proc/sysvipc",
	"/proc/vmallocinfo",
	"/proc/zoneinfo",
	"/sys/block",
	"/sys/bus",
	"/sys/class/block",
	"/sys/dev",
	"/sys/fs/ext4",
	"/sys/fs/xfs",
	"/sys/fs/btrfs",
	"/sys/hypervisor",
	"/sys/kernel",
	"/sys/module",
	"/sys/devices/platform",
	"/sys/devices/pci0000:00",
	"/sys/devices/virtual/block",
	"/sys/devices/virtual/dmi",
	"/sys/devices/virtual/powercap",
}

// ReadonlyPaths is the engine's own list without what is masked.
var ReadonlyPaths = []string{
	"/proc/irq",
	"/proc/sys",
	"/proc/sysrq-trigger",
}
