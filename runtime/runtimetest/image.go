//go:build unix

package runtimetest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

const (
	imageRepo = "drawbridge-test"
	// ImageLabel marks the images that this package makes: ImageLabel=image.
	ImageLabel = "drawbridge.test"
	// imageTimeout bounds the import on a busy machine; it takes a second.
	imageTimeout = 2 * time.Minute
)

// applets are the names under which busybox is in the image.
var applets = []string{
	"[", "awk", "base64", "basename", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "echo", "env",
	"expr", "false", "find", "free", "getopt", "grep", "head", "hostname", "id", "ip", "kill", "ln", "ls", "md5sum", "mkdir",
	"mkfifo", "mknod", "mount", "mv", "nc", "nslookup", "od", "ping", "printenv", "printf", "ps", "pwd", "readlink", "rm", "rmdir",
	"sed", "seq", "sh", "sha256sum", "sleep", "sort", "stat", "stty", "sync", "tail", "tar", "tee", "test", "time",
	"timeout", "touch", "tr", "true", "tty", "umount", "uname", "uniq", "unshare", "usleep", "vi", "wc", "wget", "which", "whoami", "xargs", "yes",
}

// errNoBusybox says that the machine has no busybox that an image can be made of.
var errNoBusybox = errors.New("a statically linked busybox is needed for the test image; scripts/test provides it, and so does `apt-get install busybox-static`")

var imageOnce = sync.OnceValues(makeImage)

// Image returns the reference of an image that holds busybox, made of this
// machine's own busybox in the Docker engine of the environment. It is made once
// and stays, for further packages and test runs; it carries the label
// drawbridge.test=image. Without an engine or a static busybox the test ends as
// by Missing.
func Image(t testing.TB) string {
	t.Helper()
	ref, err := imageOnce()
	if err != nil {
		Missing(t, "make the test image: %v", err)
	}
	return ref
}

func makeImage() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), imageTimeout)
	defer cancel()
	cli, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return "", fmt.Errorf("configure the Docker client: %w", err)
	}
	defer cli.Close()
	return ImportImage(ctx, cli)
}

// ImportImage puts an image of busybox into another engine than that of the
// environment, under the name that Image returns.
func ImportImage(ctx context.Context, cli *client.Client) (string, error) {
	layer, err := imageLayer()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(layer)
	ref := imageRepo + ":busybox-" + hex.EncodeToString(sum[:6])
	return ref, importLayer(ctx, cli, ref, layer, []string{"ENV PATH=/usr/local/bin:/bin DRAWBRIDGE_IMAGE_ENV=kept", `ENTRYPOINT ["/bin/false"]`})
}

// importLayer puts an image of one layer into an engine that does not have it.
func importLayer(ctx context.Context, cli *client.Client, ref string, layer []byte, changes []string) error {
	err := locked("image", func(string) error {
		_, err := cli.ImageInspect(ctx, ref)
		if err == nil || !cerrdefs.IsNotFound(err) {
			return err
		}
		progress, err := cli.ImageImport(ctx, image.ImportSource{Source: bytes.NewReader(layer), SourceName: "-"}, ref, image.ImportOptions{
			Message: "for tests",
			Changes: append([]string{"LABEL " + ImageLabel + "=image"}, changes...),
		})
		if err != nil {
			return err
		}
		defer progress.Close()
		_, err = io.Copy(io.Discard, progress)
		return err
	})
	if err != nil {
		return fmt.Errorf("import %s into the engine: %w", ref, err)
	}
	return nil
}

// Busybox returns the path of a statically linked busybox on this machine. Where
// there is none the test ends as by Missing.
func Busybox(t testing.TB) string {
	t.Helper()
	path, err := staticBusybox()
	if err != nil {
		Missing(t, "%v", err)
	}
	return path
}

// imageLayer returns the image's one layer as a tar file that depends on nothing
// but the busybox in it.
func imageLayer() ([]byte, error) {
	path, err := staticBusybox()
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(h tar.Header, data []byte) {
		h.Size = int64(len(data))
		if err == nil {
			err = w.WriteHeader(&h)
		}
		if err == nil {
			_, err = w.Write(data)
		}
	}
	for _, dir := range []string{"bin/", "dev/", "etc/", "proc/", "root/", "sys/", "tmp/", "usr/", "usr/local/", "usr/local/bin/"} {
		add(tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	add(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:\n"))
	add(tar.Header{Name: "etc/secret-of-root", Typeflag: tar.TypeReg, Mode: 0o600}, []byte("only root reads this\n"))
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, program)
	for _, name := range applets {
		add(tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("write the image's layer: %w", err)
	}
	return out.Bytes(), nil
}

// staticBusybox returns the path of a busybox that needs no loader: the one that
// DRAWBRIDGE_TEST_BUSYBOX names, or this machine's.
func staticBusybox() (string, error) {
	path := os.Getenv("DRAWBRIDGE_TEST_BUSYBOX")
	if path == "" {
		var err error
		if path, err = exec.LookPath("busybox"); err != nil {
			return "", errNoBusybox
		}
	}
	program, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("%w (%s: %w)", errNoBusybox, path, err)
	}
	defer program.Close()
	for _, part := range program.Progs {
		if part.Type == elf.PT_INTERP {
			return "", fmt.Errorf("%w (%s is linked dynamically)", errNoBusybox, path)
		}
	}
	return path, nil
}
