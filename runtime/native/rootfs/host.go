//go:build linux

package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// systemDirs are the host's system directories that programs are made of.
var systemDirs = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}

// systemFiles are the entries of /etc, as patterns, that programs need and that
// tell nothing about the host's users, its network or its secrets. What is not
// there, or not open to everybody, is left out. Settings of clients that may hold
// a token (gitconfig, npmrc, pip.conf, wgetrc, environment) are not among them.
var systemFiles = []string{
	"alternatives", "bash.bashrc", "ca-certificates", "ca-certificates.conf", "crypto-policies", "debian_version",
	"fonts", "inputrc", "java", "java-*", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias", "localtime",
	"lsb-release", "magic", "magic.mime", "maven/m2.conf", "mime.types", "nsswitch.conf", "*-release", "perl",
	"pki/ca-trust", "pki/tls/cert.pem", "pki/tls/certs", "pki/tls/openssl.cnf", "profile", "profile.d", "protocols",
	"python3*", "R", "rpc", "services", "shells", "ssl/cert.pem", "ssl/certs", "ssl/openssl.cnf", "terminfo",
	"timezone", "vim", "xattr.conf",
}

// Host returns a root of the host's own system directories. tools are further
// directories, such as toolchains, that are bound read-only at their own paths,
// and found under the paths that they were named by.
func Host(u User, tools []string) (*Root, error) {
	r := newRoot()
	r.users(u)
	var links []string
	for _, name := range hostNames() {
		isLink, err := r.addHost(name)
		if err != nil {
			return nil, fmt.Errorf("use %s of this machine in a sandbox: %w", name, err)
		}
		if isLink {
			links = append(links, name)
		}
	}
	// What a link leads to is known only now.
	for _, name := range links {
		if err := r.addLink(name); err != nil {
			return nil, fmt.Errorf("use %s of this machine in a sandbox: %w", name, err)
		}
	}
	for _, dir := range tools {
		clean, err := toolDir(dir)
		if err != nil {
			return nil, err
		}
		if r.obstacle(clean) != "" {
			return nil, fmt.Errorf("use the directory %s in sandboxes: it is another place there; name a toolchain's own directory with --native-path", dir)
		}
		if !r.bound(clean) {
			r.bind(clean, clean, true)
		}
		r.alias(path.Clean(dir), clean)
	}
	r.inlineSettings()
	return r, nil
}

// hostNames returns the paths that a sandbox may have of this machine, each once.
func hostNames() []string {
	names := slices.Clone(systemDirs)
	for _, pattern := range systemFiles {
		found, err := filepath.Glob("/etc/" + pattern)
		if err != nil {
			panic(err) // a pattern of ours is malformed
		}
		names = append(names, found...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// addHost adds a file or directory of the host under the same path, and tells
// whether it is a link instead. What is missing or closed to others is left out.
func (r *Root) addHost(name string) (isLink bool, err error) {
	info, err := os.Lstat(name)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
		return false, nil
	case err != nil:
		return false, err
	case info.Mode()&fs.ModeSymlink != 0:
		return true, nil
	case openToAll(info):
		r.bind(name, name, info.IsDir())
	}
	return false, nil
}

// addLink adds a link like the host's where it leads into the sandbox, or else
// what it leads to, where that is open to everybody.
func (r *Root) addLink(name string) error {
	link, err := os.Readlink(name)
	if err != nil {
		return err
	}
	to := link
	if !path.IsAbs(to) {
		to = path.Join(path.Dir(name), to)
	}
	if r.bound(path.Clean(to)) {
		r.dir(path.Dir(name))
		r.entries[name] = entry{link: link}
		return nil
	}
	actual, err := filepath.EvalSymlinks(name)
	if err != nil {
		return nil // it leads nowhere, or nowhere that this user may look
	}
	for at := actual; at != "/"; at = path.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil || at == actual && !openToAll(info) || at != actual && info.Mode().Perm()&0o001 == 0 {
			return nil
		}
	}
	info, err := os.Lstat(actual)
	if err != nil {
		return err
	}
	r.bind(actual, name, info.IsDir())
	return nil
}

// openToAll tells whether everybody may read a file or directory.
func openToAll(info fs.FileInfo) bool {
	if info.IsDir() {
		return info.Mode().Perm()&0o005 == 0o005
	}
	return info.Mode().IsRegular() && info.Mode().Perm()&0o004 != 0
}

// bound tells whether name is inside of a bind already.
func (r *Root) bound(name string) bool {
	return slices.ContainsFunc(r.Binds, func(b runtime.MountConfig) bool { return within(name, b.Target) })
}

// alias adds a link from name to where a directory really is, unless there is
// something already.
func (r *Root) alias(name, actual string) {
	_, taken := r.entries[name]
	if name == actual || taken || r.bound(name) || r.obstacle(name) != "" {
		return
	}
	r.dir(path.Dir(name))
	r.entries[name] = entry{link: actual}
}

// closed are directories that no sandbox gets, nor anything below them.
var closed = []string{"/proc", "/sys", "/dev", "/run", "/var/run", "/tmp", "/var/tmp", "/etc", "/boot", runtime.WorkspacePath}

// secrets are names of files and directories that hold a person's credentials.
var secrets = []string{
	".ssh", ".aws", ".azure", ".gnupg", ".docker", ".kube", ".password-store", "gcloud", ".drawbridge",
	".netrc", ".git-credentials",
}

// toolDir checks a directory that a person wants every sandbox to see, and returns
// where it really is.
func toolDir(dir string) (string, error) {
	refuse := func(why string) (string, error) {
		return "", fmt.Errorf("use the directory %s in sandboxes: %s; name a toolchain's own directory with --native-path", dir, why)
	}
	if !filepath.IsAbs(dir) {
		return refuse("it is not an absolute path")
	}
	clean, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return refuse(err.Error())
	}
	for _, no := range closed {
		if within(clean, no) {
			return refuse("what is in " + no + " belongs to the host")
		}
	}
	if why := personal(clean); why != "" {
		return refuse(why)
	}
	return clean, nil
}

// personal says why no sandbox gets the host directory dir, which is a resolved
// path: it holds homes, credentials or sockets. It returns nothing where it does
// not. What is deeper than in dir itself is not looked at.
func personal(dir string) string {
	homes := []string{"/home", "/root", "/var"}
	if home, err := os.UserHomeDir(); err == nil && home != "" {
		homes = append(homes, home)
		if actual, err := filepath.EvalSymlinks(home); err == nil {
			homes = append(homes, actual)
		}
	}
	for _, home := range homes {
		if within(home, dir) {
			return "it holds more than programs"
		}
	}
	for part := range strings.SplitSeq(dir, "/") {
		if slices.Contains(secrets, part) {
			return "it may hold credentials"
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err.Error()
	}
	for _, e := range entries {
		// A program may be called like what it keeps its credentials in.
		if slices.Contains(secrets, e.Name()) && (e.IsDir() || strings.HasPrefix(e.Name(), ".")) {
			return "it holds " + e.Name() + ", which may hold credentials"
		}
		if e.Type()&fs.ModeSocket != 0 {
			return "it holds the socket " + e.Name() + ", by which a program of the host could be reached"
		}
	}
	return ""
}
