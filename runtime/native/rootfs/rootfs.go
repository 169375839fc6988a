//go:build linux

// Package rootfs composes the root file systems of native sandboxes: a skeleton of
// directories, links and small files, and read-only binds of either the host's own
// system directories (Host) or an unpacked image (Images).
//
// Nothing of a user's is in a root: no home directory, no configuration that only
// some may read, no socket. The skeleton holds the places where a runtime mounts
// the rest, because a root that is read-only gets no new ones. Nothing in it is of
// one sandbox only, so that all that look alike share one (Skeletons).
package rootfs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Root is a root file system that has not been made yet.
type Root struct {
	Binds []runtime.MountConfig // read-only, in the order of mounting
	Env   []string              // the environment that an image sets

	entries map[string]entry // of the skeleton, by clean absolute path
}

// entry is a directory, a link or a file of a skeleton.
type entry struct {
	link string // target; else
	file bool   // a file with data; else a directory
	data string
	sum  []byte // SHA-256 of data, where that is known
	mode fs.FileMode
}

// Hostname is the name of the host in every sandbox: a name of one's own would take
// a skeleton of one's own.
const Hostname = "sandbox"

// User is who the command runs as.
type User struct {
	UID, GID int
}

// places are where every sandbox has something mounted, or finds a directory that
// programs expect.
var places = []string{
	"/proc", "/sys", "/dev", "/tmp", "/run", path.Dir(runtime.GuestPath), runtime.StageDir, runtime.WorkspacePath,
	"/home", "/mnt", "/opt", "/srv", "/var", "/var/lib", "/var/cache", "/var/log", "/var/empty",
}

// newRoot returns a root with what all of them have.
func newRoot() *Root {
	r := &Root{entries: make(map[string]entry)}
	for _, dir := range places {
		r.dir(dir)
	}
	r.entries["/root"] = entry{mode: 0o700}
	r.entries["/var/tmp"] = entry{link: "/tmp"}
	r.file(runtime.GuestPath, "", 0o555)
	r.file(runtime.GuestSocket, "", 0o444)
	return r
}

// dir adds a directory and those above it.
func (r *Root) dir(name string) {
	for ; name != "/" && name != "."; name = path.Dir(name) {
		if _, ok := r.entries[name]; ok {
			return
		}
		r.entries[name] = entry{mode: 0o755}
	}
}

func (r *Root) file(name, data string, mode fs.FileMode) {
	r.dir(path.Dir(name))
	r.entries[name] = entry{file: true, data: data, mode: mode}
}

// bind adds a read-only bind of a host file or directory, and its place.
func (r *Root) bind(source, target string, isDir bool) {
	if isDir {
		r.dir(target)
	} else {
		r.file(target, "", 0o444)
	}
	r.Binds = append(r.Binds, runtime.MountConfig{Source: source, Target: target, ReadOnly: true})
	// The command's user has to get there, also through what is root's.
	for above := path.Dir(target); above != "/"; above = path.Dir(above) {
		if e, ok := r.entries[above]; ok && !e.file && e.link == "" && e.mode&0o011 == 0 {
			e.mode |= 0o011
			r.entries[above] = e
		}
	}
}

// users writes the lists of users and the names of this host.
func (r *Root) users(u User) {
	r.file("/etc/passwd", fmt.Sprintf("root:x:0:0:root:/root:/bin/sh\nsandbox:x:%d:%d:sandbox:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n", u.UID, u.GID), 0o444)
	r.file("/etc/group", fmt.Sprintf("root:x:0:\nsandbox:x:%d:\nnogroup:x:65534:\n", u.GID), 0o444)
	r.file("/etc/hosts", fmt.Sprintf("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.1.1\t%s\n", Hostname), 0o444)
	r.file("/etc/hostname", Hostname+"\n", 0o444)
}

// kernelPlaces are mounted over by the sandbox itself; nothing else goes there.
var kernelPlaces = []string{"/proc", "/sys", "/dev"}

// AddTarget makes sure that there is a place at target where something can be
// mounted: a directory or a file.
func (r *Root) AddTarget(target string, isDir bool) error {
	refuse := func(why string) error {
		return fmt.Errorf("mount something at %s: %s; choose a target under /mnt, /opt or %s", target, why, runtime.WorkspacePath)
	}
	if !path.IsAbs(target) {
		return refuse("it is not an absolute path")
	}
	target = path.Clean(target)
	if target == "/" {
		return refuse("that is the sandbox's own root")
	}
	for _, no := range kernelPlaces {
		if within(target, no) {
			return refuse(no + " belongs to the sandbox itself")
		}
	}
	for _, b := range r.Binds {
		if target != b.Target && within(target, b.Target) {
			if !hasPlace(b.Source, strings.TrimPrefix(target, b.Target+"/"), isDir) {
				return refuse("the read-only directory " + b.Target + " has no place for it")
			}
			return nil
		}
	}
	if at := r.obstacle(target); at != "" {
		return refuse(at + " is no directory")
	}
	if e, ok := r.entries[target]; ok && (e.link != "" || e.file == isDir) {
		return refuse("there is something else in the sandbox")
	}
	if isDir {
		r.dir(target)
	} else if _, ok := r.entries[target]; !ok {
		r.file(target, "", 0o444)
	}
	return nil
}

// within tells whether name is dir or inside of it.
func within(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}

// hasPlace tells whether something can be mounted at rest inside of the host
// directory source. A link on the way leads elsewhere in the sandbox than here, so
// that it is no way.
func hasPlace(source, rest string, isDir bool) bool {
	root, err := os.OpenRoot(source)
	if err != nil {
		return false
	}
	defer root.Close()
	for at := path.Dir(rest); at != "."; at = path.Dir(at) {
		if info, err := root.Lstat(at); err != nil || !info.IsDir() {
			return false
		}
	}
	info, err := root.Lstat(rest)
	return err == nil && (isDir && info.IsDir() || !isDir && info.Mode().IsRegular())
}

// obstacle returns what of the skeleton is above name and no directory, or nothing.
func (r *Root) obstacle(name string) string {
	for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
		if e, ok := r.entries[dir]; ok && (e.link != "" || e.file) {
			return dir
		}
	}
	return ""
}

// make makes the skeleton in dir, which is empty.
func (r *Root) make(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("make a root file system: %w", err)
	}
	defer root.Close()
	for _, name := range r.names() {
		if err := r.entries[name].make(root, strings.TrimPrefix(name, "/")); err != nil {
			return fmt.Errorf("make %s of a root file system: %w", name, err)
		}
	}
	return nil
}

// names returns the skeleton's paths, each directory before what is in it.
func (r *Root) names() []string {
	names := make([]string, 0, len(r.entries))
	for name := range r.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// key names a skeleton by what is in it.
func (r *Root) key() string {
	sum := sha256.New()
	for _, name := range r.names() {
		e := r.entries[name]
		fmt.Fprintf(sum, "%q %q %v %o %d %x\n", name, e.link, e.file, e.mode, len(e.data), e.sum)
		if e.sum == nil {
			_, _ = io.WriteString(sum, e.data) // a hash takes everything
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

func (e entry) make(root *os.Root, name string) error {
	switch {
	case e.link != "":
		return root.Symlink(e.link, name)
	case e.file:
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = f.WriteString(e.data)
		return errors.Join(err, f.Chmod(e.mode), f.Close())
	default:
		if err := root.Mkdir(name, 0o700); err != nil {
			return err
		}
	}
	return root.Chmod(name, e.mode) // whatever the umask is
}
