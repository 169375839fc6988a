//go:build linux

// Package cgroup knows the control group that an OCI runtime makes for a sandbox, on
// version 1 and version 2 of the kernel's interface: where it is, what is in it, what
// it uses, and how it goes away. It needs no daemon: the files are the interface.
//
// A Group is plain data. Whoever has it, in whichever process, can count what is
// in it, kill it and remove it.
package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Limits bound a group. Zero is no limit.
type Limits struct {
	MemoryBytes int64
	CPUs        float64 // cores
	Pids        int64   // processes and threads
}

// removeTries bounds the removal of a group whose processes are just ending.
const (
	removeTries = 100
	removePause = 10 * time.Millisecond
)

// ErrUnavailable says that no control group can be made here.
var ErrUnavailable = errors.New("control groups cannot be written here")

// Group is the control groups of one sandbox: on version 2 one directory, on version
// 1 one a controller.
type Group struct {
	Unified string            `json:"unified,omitempty"` // version 2
	Dirs    map[string]string `json:"dirs,omitempty"`    // version 1: controller to directory
}

// controllers are those that limits need.
var controllers = []string{"memory", "cpu", "pids"}

// Layout is where control groups are on a machine, and where this process is in
// them.
type Layout struct {
	Root string            // mount point of version 2 where it has controllers, or empty
	Own  string            // group of this process there
	V1   map[string]string // version 1: controller to the directory below which a group can be made
}

// Here returns the layout of this machine. Its error matches ErrUnavailable.
func Here() (Layout, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return Layout{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return Layout{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return parseLayout(string(mounts), string(own))
}

// parseLayout reads what the kernel says about mounts and about this process.
func parseLayout(mounts, own string) (Layout, error) {
	groups := make(map[string]string) // controller to this process's group; "" is version 2
	for line := range strings.Lines(own) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for name := range strings.SplitSeq(fields[1], ",") {
			groups[name] = fields[2]
		}
	}
	l := Layout{V1: make(map[string]string)}
	for line := range strings.Lines(mounts) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		root, point := fields[3], fields[4]
		switch kind[0] {
		case "cgroup2":
			l.Root, l.Own = point, below(root, groups[""])
		case "cgroup":
			for name := range strings.SplitSeq(kind[2], ",") {
				if group, member := groups[name]; member {
					l.V1[name] = existing(point, below(root, group))
				}
			}
		}
	}
	if _, ok := l.V1["memory"]; ok && l.Root != "" {
		// Version 2 beside version 1 has no controllers that count, but
		// runtimes make a group there too.
		l.V1["unified"] = existing(l.Root, l.Own)
		l.Root, l.Own = "", ""
	}
	if l.Root == "" && len(l.V1) == 0 {
		return Layout{}, fmt.Errorf("%w: none are mounted", ErrUnavailable)
	}
	return l, nil
}

// below returns a group relative to what is mounted of the hierarchy.
func below(root, group string) string {
	if rest, ok := strings.CutPrefix(group, root); ok {
		return "/" + strings.TrimPrefix(rest, "/")
	}
	return "/"
}

// existing returns the directory of a group, or the mount point where the group
// lies outside of what can be seen.
func existing(point, group string) string {
	dir := filepath.Join(point, group)
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return dir
	}
	return point
}

// Relative returns the group that an OCI runtime makes for the relative path name:
// on version 1 below the groups of this process, and on version 2 beside its own,
// which may hold processes. Nothing is made.
func (l Layout) Relative(name string) *Group {
	if l.Root != "" {
		return &Group{Unified: filepath.Join(l.Root, filepath.Dir(filepath.Join("/", l.Own)), name)}
	}
	g := &Group{Dirs: make(map[string]string)}
	for controller, parent := range l.V1 {
		g.Dirs[controller] = filepath.Join(parent, name)
	}
	return g
}

func hasAll(have, want []string) bool {
	set := make(map[string]bool, len(have))
	for _, name := range have {
		set[name] = true
	}
	for _, name := range want {
		if !set[name] {
			return false
		}
	}
	return true
}

// Kill kills everything in the group and below it, once.
func (g *Group) Kill() error {
	var failed []error
	for _, dir := range g.roots() {
		for _, pid := range processes(dir) {
			if pid == os.Getpid() {
				continue // a thread of this program that has joined, and is about to end
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				failed = append(failed, fmt.Errorf("kill process %d of %s: %w", pid, dir, err))
			}
		}
	}
	return errors.Join(failed...)
}

// Empty tells whether no process is left in the group.
func (g *Group) Empty() bool {
	for _, dir := range g.roots() {
		for _, pid := range processes(dir) {
			if pid != os.Getpid() {
				return false
			}
		}
	}
	return true
}

// roots returns one directory for each hierarchy whose processes count: they are
// the same in all.
func (g *Group) roots() []string {
	if g.Unified != "" {
		return []string{g.Unified}
	}
	if dir, ok := g.Dirs["pids"]; ok {
		return []string{dir}
	}
	return nil
}

// processes returns the processes in a group and below it.
func processes(dir string) []int {
	var all []int
	for _, sub := range tree(dir) {
		data, err := os.ReadFile(filepath.Join(sub, "cgroup.procs"))
		if err != nil {
			continue // it has just gone
		}
		for line := range bytes.Lines(data) {
			if pid, err := strconv.Atoi(string(bytes.TrimSpace(line))); err == nil && pid > 0 {
				all = append(all, pid)
			}
		}
	}
	return all
}

// tree returns dir and the directories below it, the deepest last.
func tree(dir string) []string {
	all := []string{dir}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return all
	}
	for _, e := range entries {
		if e.IsDir() {
			all = append(all, tree(filepath.Join(dir, e.Name()))...)
		}
	}
	return all
}

// Remove removes the group, which must be empty or about to be; nil if there is
// none.
func (g *Group) Remove() error {
	var failed []error
	for _, dir := range g.all() {
		failed = append(failed, removeTree(dir))
	}
	return errors.Join(failed...)
}

// all returns the directories of the group in all hierarchies.
func (g *Group) all() []string {
	dirs := slices.Collect(maps.Values(g.Dirs))
	if g.Unified != "" {
		dirs = append(dirs, g.Unified)
	}
	return dirs
}

func removeTree(dir string) error {
	var err error
	for try := range removeTries {
		if try > 0 {
			time.Sleep(removePause)
		}
		busy := false
		for _, group := range slices.Backward(tree(dir)) {
			if e := unix.Rmdir(group); e != nil && !errors.Is(e, unix.ENOENT) {
				busy, err = true, fmt.Errorf("remove the control group %s: %w", group, e)
			}
		}
		if !busy {
			return nil
		}
	}
	return err
}

// RemoveAbandoned removes the groups for relative paths that match pattern, as
// filepath.Match has it, if they are older than age and nothing is in them. What
// cannot be removed stays.
func (l Layout) RemoveAbandoned(pattern string, age time.Duration) {
	for _, places := range l.Relative(pattern).all() {
		found, err := filepath.Glob(places)
		if err != nil {
			return
		}
		for _, dir := range found {
			if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > age {
				_ = unix.Rmdir(dir) // fails where it has a process or a group
			}
		}
	}
}

// Possible tells whether a runtime of this user can make a group here.
func Possible() bool {
	l, err := Here()
	return err == nil && l.possible()
}

func (l Layout) possible() bool {
	if l.Root != "" {
		parent := filepath.Dir(l.Relative("x").Unified)
		have, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
		return err == nil && hasAll(strings.Fields(string(have)), controllers) && unix.Access(parent, unix.W_OK) == nil
	}
	for _, controller := range controllers {
		dir, ok := l.V1[controller]
		if !ok || unix.Access(dir, unix.W_OK) != nil {
			return false
		}
	}
	return true
}
