package config

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoadTakesTheFileOfTheWorkspace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Load(t.Context(), dir); !errors.Is(err, ErrNone) {
		t.Errorf("an empty directory: %v", err)
	}
	write(t, filepath.Join(dir, "agent.yaml"), "name: former\n")
	if c, err := Load(t.Context(), dir); err != nil || c.Name != "former" {
		t.Errorf("agent.yaml alone: %v, %v", c, err)
	}
	write(t, filepath.Join(dir, "moat.yaml"), "name: current\n")
	c, err := Load(t.Context(), dir)
	if err != nil || c.Name != "current" || c.File() != filepath.Join(dir, "moat.yaml") {
		t.Errorf("both: %v, %v", c, err)
	}
	write(t, filepath.Join(dir, "moat.yaml"), "neme: x\n")
	var wrong *Error
	if _, err := Load(t.Context(), dir); !errors.As(err, &wrong) {
		t.Errorf("a mistake in moat.yaml: %v, and agent.yaml must not take its place", err)
	}
	if _, err := LoadHome(t.Context(), dir); !errors.Is(err, ErrNone) {
		t.Errorf("no config.yaml: %v", err)
	}
	write(t, filepath.Join(dir, "config.yaml"), "container: {cpus: 1}\n")
	if c, err := LoadHome(t.Context(), dir); err != nil || c.Container.CPUs != 1 || c.Origin("container.cpus").Source != SourceHome {
		t.Errorf("config.yaml: %v, %v", c, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Load(ended, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}

func TestLoadReadsOnlyARegularFileOfTheWorkspaceItself(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, "name: stolen\n")
	for _, tt := range []struct {
		name string
		make func(path string) error
		want string
	}{
		{"symbolic link", func(path string) error { return os.Symlink(secret, path) }, "it is a symbolic link"},
		{"link to nothing", func(path string) error { return os.Symlink("/nonexistent", path) }, "it is a symbolic link"},
		{"directory", func(path string) error { return os.Mkdir(path, 0o700) }, "it is no regular file"},
		{"named pipe", func(path string) error { return syscall.Mkfifo(path, 0o600) }, "it is no regular file"},
		{"too large", func(path string) error { return os.WriteFile(path, make([]byte, maxFile+1), 0o600) }, "it has more than 131072 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := tt.make(filepath.Join(dir, "moat.yaml")); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "agent.yaml"), "name: fallback\n")
			c, err := Load(t.Context(), dir)
			if err == nil || !strings.Contains(err.Error(), tt.want) || c != nil {
				t.Errorf("got %v, %v; want %q", c, err, tt.want)
			}
		})
	}
}
