package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

const (
	// ProjectFile is the name of the file in a workspace.
	ProjectFile = "moat.yaml"
	// formerFile is its earlier name, for workspaces that have no ProjectFile.
	formerFile = "agent.yaml"
	// HomeFile is the name of the person's file in the home.
	HomeFile = "config.yaml"
)

// Load reads moat.yaml of a workspace, or agent.yaml where there is no moat.yaml. The error matches
// ErrNone where there is neither. An *Error holds all mistakes of the file.
func Load(ctx context.Context, dir string) (*Config, error) {
	for _, name := range []string{ProjectFile, formerFile} {
		c, err := LoadFile(ctx, filepath.Join(dir, name))
		if errors.Is(err, ErrNone) {
			continue
		}
		return c, err
	}
	return nil, fmt.Errorf("load %s of %s: %w", ProjectFile, dir, ErrNone)
}

// LoadFile reads a file that has the content of a moat.yaml. The error matches
// ErrNone where there is none.
func LoadFile(ctx context.Context, path string) (*Config, error) {
	data, err := readRegular(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	return Parse(path, data)
}

// LoadHome reads config.yaml of the home: what the person wants for all runs. The
// error matches ErrNone where there is none.
func LoadHome(ctx context.Context, home string) (*Config, error) {
	path := filepath.Join(home, HomeFile)
	data, err := readRegular(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	return ParseHome(path, data)
}

// Parse reads the content of a moat.yaml. The name of the file is for messages and
// origins. An empty file states nothing. The error is an *Error.
func Parse(file string, data []byte) (*Config, error) {
	return parse(file, data, SourceProject, root(), checkProject)
}

// ParseHome is Parse for the person's config.yaml, which has fewer keys.
func ParseHome(file string, data []byte) (*Config, error) {
	return parse(file, data, SourceHome, root(), checkHome)
}

func parse(file string, data []byte, source Source, table shape[Config], check func(*reader, *Config)) (*Config, error) {
	r := &reader{source: source, file: file, origins: map[string]Origin{}}
	c := &Config{file: file, origins: r.origins}
	if top := r.document(data); top != nil {
		value, leave := r.enter(top, "")
		table.read(r, value, "", c)
		leave()
		check(r, c)
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// readRegular reads a file that somebody else may have made: it has to be a
// regular one, not a link to one elsewhere, and a small one.
func readRegular(ctx context.Context, path string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// Without O_NONBLOCK a named pipe would keep this waiting.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil, ErrNone
	case errors.Is(err, syscall.ELOOP):
		return nil, errors.New("it is a symbolic link; put the file itself there")
	case err != nil:
		return nil, errors.Unwrap(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("it has more than %d bytes", maxFile)
	}
	return data, nil
}
