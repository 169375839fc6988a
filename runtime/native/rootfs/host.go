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

// systemFiles are the entries of /etc that programs need and that tell nothing
// about the host's users, its network or its secrets. What is not there, or not
// open to everybody, is left out.
var systemFiles = []string{
	"alternatives", "bash.bashrc", "ca-certificates", "ca-certificates.conf", "crypto-policies", "debian_version",
	"fonts", "inputrc", "java", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "lsb-release", "magic",
	"magic.mime", "mime.types", "nsswitch.conf", "os-release", "perl", "pki/ca-trust", "pki/tls/certs", "profile",
	"profile.d", "protocols", "python3", "rpc", "services", "shells", "ssl/certs", "ssl/openssl.cnf", "terminfo",
	"timezone",
}

// Host returns a root of the host's own system directories. tools are further
// directories, such as toolchains, that are bound read-only at their own paths.
func Host(u User, tools []string) (*Root, error) {
	r := newRoot()
	for _, dir := range systemDirs {
		if err := r.addHost(dir, dir); err != nil {
			return nil, fmt.Errorf("use %s of this machine in a sandbox: %w", dir, err)
		}
	}
	for _, name := range systemFiles {
		file := "/etc/" + name
		if err := r.addHost(file, file); err != nil {
			return nil, fmt.Errorf("use %s of this machine in a sandbox: %w", file, err)
		}
	}
	for _, dir := range tools {
		clean, err := toolDir(dir)
		if err != nil {
			return nil, err
		}
		if !r.bound(clean) {
			r.bind(clean, clean, true)
		}
	}
	r.users(u)
	return r, nil
}

// addHost adds a file or directory of the host under the same path, or a link like
// the host's. What is missing or closed to others is left out.
func (r *Root) addHost(source, target string) error {
	info, err := os.Lstat(source)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		link, err := os.Readlink(source)
		if err != nil {
			return err
		}
		r.dir(path.Dir(target))
		r.entries[target] = entry{link: link}
		return nil
	}
	switch {
	case info.IsDir() && info.Mode().Perm()&0o005 == 0o005:
		r.bind(source, target, true)
	case info.Mode().IsRegular() && info.Mode().Perm()&0o004 != 0:
		r.bind(source, target, false)
	}
	return nil
}

// bound tells whether name is inside of a bind already.
func (r *Root) bound(name string) bool {
	return slices.ContainsFunc(r.Binds, func(b runtime.MountConfig) bool {
		return name == b.Target || strings.HasPrefix(name, b.Target+"/")
	})
}

// closed are directories that no sandbox gets, nor anything below them.
var closed = []string{"/proc", "/sys", "/dev", "/run", "/var/run", "/tmp", "/etc", "/boot", runtime.WorkspacePath}

// secrets are names of directories that hold a person's credentials.
var secrets = []string{".ssh", ".aws", ".azure", ".gnupg", ".docker", ".kube", ".password-store", "gcloud", ".drawbridge"}

// toolDir checks a directory that a person wants every sandbox to see.
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
	if info, err := os.Stat(clean); err != nil || !info.IsDir() {
		return refuse("it is not a directory")
	}
	for _, no := range closed {
		if clean == no || strings.HasPrefix(clean, no+"/") {
			return refuse("what is in " + no + " belongs to the host")
		}
	}
	for part := range strings.SplitSeq(clean, "/") {
		if slices.Contains(secrets, part) {
			return refuse("it may hold credentials")
		}
	}
	home, err := os.UserHomeDir()
	for _, own := range []string{home, "/home", "/root", "/var"} {
		if err == nil && own != "" && (clean == own || strings.HasPrefix(own+"/", clean+"/") || clean == "/") {
			return refuse("it holds more than tools")
		}
	}
	return clean, nil
}
