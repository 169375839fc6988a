package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// loginTimeout bounds a tool that is asked for its login: it may open a dialog
	// of the system's keychain.
	loginTimeout = 30 * time.Second
	// loginGrace is how long its output is waited for after it has been ended.
	loginGrace = time.Second
	// maxLogin is the greatest size in bytes of a file or an output that holds a
	// login.
	maxLogin = 1 << 20
)

// ErrNoLogin says that a tool is not installed or not logged in on the host.
var ErrNoLogin = errors.New("there is no login to take over")

// readLogin reads a file below the home of the user. The error matches ErrNoLogin
// where there is none.
func readLogin(parts ...string) ([]byte, string, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrNoLogin, err)
	}
	path := filepath.Join(append([]string{home}, parts...)...)
	// Without O_NONBLOCK a named pipe would keep this waiting.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, path, fmt.Errorf("%w: %w", ErrNoLogin, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, path, fmt.Errorf("%w: %s is not a file", ErrNoLogin, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxLogin+1))
	if err != nil {
		return nil, path, fmt.Errorf("read the login in %s: %w", path, err)
	}
	if len(data) > maxLogin {
		return nil, path, fmt.Errorf("read the login in %s: it has more than %d bytes", path, maxLogin)
	}
	return data, path, nil
}

// ask runs a tool that prints a login, and returns what it prints. The arguments
// hold no secret. The error matches ErrNoLogin where the tool has none, and does
// not quote what it printed.
func ask(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoLogin, err)
	}
	command := strings.Join(append([]string{name}, args...), " ")
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = loginGrace
	out := &bounded{limit: maxLogin}
	cmd.Stdout = out
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("run `%s`: %w", command, ctx.Err())
	case out.isOver:
		return "", fmt.Errorf("run `%s`: it prints more than %d bytes", command, maxLogin)
	case err != nil:
		return "", fmt.Errorf("%w: `%s` ended with %w", ErrNoLogin, command, err)
	}
	text := strings.TrimSpace(out.String())
	if text == "" {
		return "", fmt.Errorf("%w: `%s` printed nothing", ErrNoLogin, command)
	}
	return text, nil
}

// bounded keeps the beginning of what is written to it, and takes the rest.
type bounded struct {
	bytes.Buffer
	limit  int
	isOver bool
}

func (b *bounded) Write(data []byte) (int, error) {
	if b.Len()+len(data) > b.limit {
		b.isOver = true
		return len(data), nil
	}
	return b.Buffer.Write(data)
}

// assignment returns the value that a file of NAME=value lines gives a name.
func assignment(data []byte, name string) (value string, found bool) {
	for line := range strings.Lines(string(data)) {
		key, text, ok := strings.Cut(strings.TrimSpace(line), "=")
		key = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(key), "export "))
		if !ok || key != name {
			continue
		}
		text = strings.TrimSpace(text)
		if n := len(text); n >= 2 && (text[0] == '"' || text[0] == '\'') && text[n-1] == text[0] {
			text = text[1 : n-1]
		}
		value, found = text, text != ""
	}
	return value, found
}

// isReference reports whether a value is a reference to a variable rather than a
// secret itself.
func isReference(value string) bool { return strings.Contains(value, "${") }
