//go:build unix

package runtimetest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// programsVariable names, for a process of a test that runs as another user, the
// directory where the first one has put all programs that it needs.
const programsVariable = "DRAWBRIDGE_TEST_PROGRAMS"

var programs struct {
	once sync.Once
	dir  string
	err  error
}

// ProgramDir returns a directory that holds what a native sandbox needs: the
// guest, the shim, and gVisor's runtime. The latter takes minutes to build from
// nothing; what scripts/build has put into bin is taken where it is there.
func ProgramDir(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv(programsVariable); dir != "" {
		return dir
	}
	guest := Build(t, "./cmd/drawbridge-guest", "drawbridge-guest-linux-"+goruntime.GOARCH)
	shim := Build(t, "./cmd/drawbridge-shim", "drawbridge-shim")
	gvisor := builtGVisor(t)
	programs.once.Do(func() {
		programs.dir, programs.err = gather(guest, shim, gvisor)
	})
	if programs.err != nil {
		t.Fatalf("gather the programs: %v", programs.err)
	}
	return programs.dir
}

func builtGVisor(t testing.TB) string {
	t.Helper()
	root, err := moduleRoot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, "bin", "drawbridge-gvisor")
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		return path
	}
	return Build(t, "./cmd/drawbridge-gvisor", "drawbridge-gvisor")
}

// gather copies files into one directory of the test cache. It is made anew for
// each test process and removed as soon as it is old.
func gather(files ...string) (string, error) {
	var dir string
	err := locked("programs", func(cache string) error {
		prune(cache, "programs-*")
		var err error
		if dir, err = os.MkdirTemp(cache, "programs-"); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
		for _, file := range files {
			place := filepath.Join(dir, filepath.Base(file))
			if os.Link(file, place) == nil {
				continue
			}
			data, err := os.ReadFile(file)
			if err == nil {
				err = os.WriteFile(place, data, 0o755)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return dir, err
}

// user is the ordinary user of AsUser.
const user = 64321

// AsUser runs the test function called name once more, in a process of an ordinary
// user who shares nothing with this one but the programs of ProgramDir and the
// files named by env. It needs root.
func AsUser(t *testing.T, name string) {
	t.Helper()
	if os.Getuid() != 0 {
		Missing(t, "only root can become another user; the same test runs as this user by itself")
	}
	home := t.TempDir()
	programs := filepath.Join(home, "programs")
	if err := os.Mkdir(programs, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	test := filepath.Join(programs, "test")
	files := map[string]string{self: test, Busybox(t): filepath.Join(programs, "busybox")}
	for _, program := range []string{"testprog", "attackprog"} {
		files[Build(t, "./runtime/runtimetest/"+program, program)] = filepath.Join(programs, program)
	}
	for _, program := range []string{"drawbridge-guest-linux-" + goruntime.GOARCH, "drawbridge-shim", "drawbridge-gvisor"} {
		files[filepath.Join(ProgramDir(t), program)] = filepath.Join(programs, program)
	}
	for from, to := range files {
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	tmp := filepath.Join(home, "tmp")
	if err := errors.Join(os.Mkdir(tmp, 0o700), os.Chown(tmp, user, user)); err != nil {
		t.Fatal(err)
	}
	// The directories above are the test's own; the user has to get through.
	for dir := home; dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode()&0o001 == 0 {
			if err := os.Chmod(dir, info.Mode()|0o011); err != nil {
				t.Fatal(err)
			}
		}
	}
	cmd := exec.CommandContext(t.Context(), test, "-test.run=^"+name+"$", "-test.v", "-test.timeout=5m")
	cmd.Dir = tmp
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + tmp, "TMPDIR=" + tmp, "CI=" + os.Getenv("CI"), programsVariable + "=" + programs, "DRAWBRIDGE_TEST_BUSYBOX=" + filepath.Join(programs, "busybox")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	cmd.WaitDelay = 10 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = withAccount(t, user, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Errorf("%s as an ordinary user: %v\n%s", name, err, &out)
	}
}

// ImageFile returns a tar archive with the root file system of Image, for drivers
// that have no engine to keep images.
func ImageFile(t testing.TB) string {
	t.Helper()
	layer, err := imageLayer()
	if err != nil {
		Missing(t, "make the test image: %v", err)
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, layer, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
