package worktree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/lazyregexp"
)

// safe are settings under which Git runs nothing that a repository names: no hook, no
// monitor of files, no transport but that to another directory.
var safe = []string{
	"-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.pager=cat", "-c", "submodule.recurse=false",
	"-c", "fetch.recurseSubmodules=false", "-c", "advice.detachedHead=false", "-c", "gc.auto=0", "-c", "maintenance.auto=false",
}

// git runs Git in a directory and returns what it prints, without the white space
// around it.
func git(ctx context.Context, timeout time.Duration, dir string, env []string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", append(append([]string{}, safe...), args...)...)
	cmd.Dir = dir
	cmd.Env = append(withoutGit(os.Environ()), "GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL=file", "GIT_NO_LAZY_FETCH=1", "GIT_OPTIONAL_LOCKS=0", "LC_ALL=C")
	cmd.Env = append(cmd.Env, env...)
	cmd.WaitDelay = time.Second
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return "", errors.New("run git: this machine has none; install it")
	}
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(words.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// withoutGit leaves out what would have Git look at another repository than the one in
// its directory.
func withoutGit(env []string) []string {
	var kept []string
	for _, entry := range env {
		if !strings.HasPrefix(entry, "GIT_") {
			kept = append(kept, entry)
		}
	}
	return kept
}

// reachable returns the URL of a remote as a sandbox may have it, without user and
// password; empty for a directory of this machine.
func reachable(remote string) string {
	if remoteShort.MatchString(remote) {
		return remote
	}
	u, err := url.Parse(remote)
	if err != nil || u.Host == "" {
		return ""
	}
	if u.Scheme == "ssh" && u.User != nil {
		u.User = url.User(u.User.Username()) // a name, which is part of the address
	} else {
		u.User = nil
	}
	return u.String()
}

var (
	remoteShort = lazyregexp.New(`^(?:[^@/]+@)?([A-Za-z0-9.-]+):([^/:].*)$`) // user@host:path
	unusual     = lazyregexp.New(`[^A-Za-z0-9._-]`)
)

// repoID names a repository after the URL of its remote, or after its directory.
func repoID(origin, dir string) string {
	host, path := "", ""
	if u, err := url.Parse(origin); err == nil && u.Host != "" {
		host, path = u.Hostname(), u.Path
	} else if parts := remoteShort.FindStringSubmatch(origin); parts != nil {
		host, path = parts[1], parts[2]
	}
	var names []string
	for part := range strings.SplitSeq(strings.TrimSuffix(strings.Trim(path, "/"), ".git"), "/") {
		if name := usual(part); name != "" {
			names = append(names, name)
		}
	}
	if host = usual(strings.ToLower(host)); host == "" || len(names) == 0 {
		return "_local/" + usual(filepath.Base(dir))
	}
	return host + "/" + strings.Join(names, "/")
}

// usual makes a text a name that is no path and not hidden.
func usual(text string) string {
	return strings.TrimLeft(unusual.ReplaceAllString(text, "_"), ".")
}
