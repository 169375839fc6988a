//go:build unix

package runtimetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// buildTimeout bounds one `go build` on a busy machine with a cold cache.
const buildTimeout = 5 * time.Minute

// built keeps what this process has built, by package path.
var built sync.Map // string -> func() (string, error)

// GuestDir returns a directory that holds the guest for this machine's
// architecture under the name by which drivers look for it
// (drawbridge-guest-linux-<arch>). The guest is built once per test process, from
// the sources as they are, into a cache that processes share; the directory is
// not to be changed.
func GuestDir(t testing.TB) string {
	t.Helper()
	path := Build(t, "./cmd/drawbridge-guest", "drawbridge-guest-linux-"+goruntime.GOARCH)
	return filepath.Dir(path)
}

// Build builds a main package of this module, named relative to the module's
// root, as a static program for Linux and returns the path of the file called
// name. It is built once per test process and kept in a cache by content.
func Build(t testing.TB, pkg, name string) string {
	t.Helper()
	if path := filepath.Join(os.Getenv(programsVariable), name); os.Getenv(programsVariable) != "" {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	once, _ := built.LoadOrStore(pkg+"\x00"+name, sync.OnceValues(func() (string, error) { return build(pkg, name) }))
	path, err := once.(func() (string, error))()
	if err != nil {
		if _, look := exec.LookPath("go"); look != nil {
			Missing(t, "the go command is needed to build %s: %v", pkg, look)
		}
		t.Fatal(err)
	}
	return path
}

func build(pkg, name string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return "", fmt.Errorf("make a directory for the build: %w", err)
	}
	defer os.RemoveAll(fresh)
	out := filepath.Join(fresh, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -buildid=", "-o", out, pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+goruntime.GOARCH, "GOFLAGS=-buildvcs=false")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, text)
	}
	return keep(out, name)
}

// keep moves a built file to the place in the cache that its content names.
func keep(out, name string) (string, error) {
	data, err := os.ReadFile(out)
	if err != nil {
		return "", fmt.Errorf("read what was built: %w", err)
	}
	sum := sha256.Sum256(data)
	var kept string
	err = locked("build", func(dir string) error {
		prune(dir, "bin-*")
		prune(dir, "build-*")
		home := filepath.Join(dir, "bin-"+hex.EncodeToString(sum[:8]))
		kept = filepath.Join(home, name)
		if err := os.MkdirAll(home, 0o755); err != nil {
			return err
		}
		now := time.Now()
		if have, err := os.ReadFile(kept); err == nil && bytes.Equal(have, data) {
			return os.Chtimes(home, now, now)
		}
		return os.Rename(out, kept)
	})
	if err != nil {
		return "", fmt.Errorf("keep %s in the test cache: %w", name, err)
	}
	return kept, nil
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module's root: %w", err)
	}
	file := strings.TrimSpace(string(out))
	if file == "" || file == os.DevNull {
		return "", fmt.Errorf("find the module's root: this test does not run in a module")
	}
	return filepath.Dir(file), nil
}
