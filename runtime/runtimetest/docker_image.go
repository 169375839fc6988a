//go:build unix

package runtimetest

import (
	"archive/tar"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// DockerImage returns the reference of an image that stands for the official
// docker:dind: busybox with the programs of this machine's Docker engine and of its
// client. Where this machine lacks them the test ends as by Missing.
func DockerImage(t testing.TB) string {
	t.Helper()
	return madeImage(t, "docker", dockerImage)
}

var dockerImage = sync.OnceValues(func() (string, error) {
	found := map[string]string{}
	for _, name := range []string{"dockerd", "containerd", "containerd-shim-runc-v2", "runc", "docker-proxy", "docker", "xtables-nft-multi"} {
		path, err := findProgram(name)
		if err != nil {
			return "", fmt.Errorf("%w; scripts/test installs it, and so does `apt-get install docker.io iptables`", err)
		}
		found[name] = path
	}
	modules, err := filepath.Glob("/usr/lib/*/xtables/*.so")
	if err != nil {
		return "", err
	}
	return importService("docker", func(i *imageFiles) {
		i.layer.Grow(dockerImageBytes)
		i.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
		i.directory("run", 0o755, 0)
		i.add(tar.Header{Name: "var/run", Typeflag: tar.TypeSymlink, Linkname: "../run", Mode: 0o777}, nil)
		for name, path := range found {
			i.program("usr/local/bin/"+name, path)
		}
		for _, name := range []string{"iptables", "ip6tables"} { // it looks at its own name
			i.program("usr/local/bin/"+name, found["xtables-nft-multi"])
		}
		for _, path := range modules {
			i.program(path, path)
		}
		i.directory("var/lib/docker", 0o711, 0)
	}, "VOLUME /var/lib/docker", `CMD ["dockerd"]`)
})

// dockerImageBytes is about the size of the image. What grows step by step is copied again
// and again.
const dockerImageBytes = 256 << 20

// findProgram finds a program in PATH, or where Debian has those of its engine.
func findProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin", "/usr/libexec/docker", "/usr/lib/docker"} {
		if err == nil {
			break
		}
		path = filepath.Join(dir, name)
		_, err = os.Stat(path)
	}
	if err != nil {
		return "", fmt.Errorf("%s is needed", name)
	}
	return filepath.EvalSymlinks(path)
}
