package deps

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/drawbridge-mcp/drawbridge/internal/lazyregexp"
)

// Bounds on looking at a machine.
const (
	askTime     = 30 * time.Second // for a program to tell its version; those of Node.js take 10 s on a busy machine
	askedAtOnce = 4                // programs
	answerBytes = 4 << 10          // of its answer that are read
	noteBytes   = 4 << 20          // of a file that says what is installed
)

// HostItem is what a machine has of one item.
type HostItem struct {
	Item
	Path    string // of the program or the package; empty if it is not there
	Version string // empty if it is not known
	Problem string // why it does not do; empty if it does
	Get     string // how to get it, where it does not
}

// OnHost tells which items that were asked for a machine has itself, for runs that
// see directories of programs (dirs, in the order of their PATH) instead of an
// image. Programs are asked for their versions, with a limit of time, in an empty
// directory and with nothing of this process's environment.
func (p *Plan) OnHost(ctx context.Context, dirs []string) ([]HostItem, error) {
	home, err := os.MkdirTemp("", "drawbridge-deps-")
	if err != nil {
		return nil, fmt.Errorf("look for dependencies on this machine: %w", err)
	}
	defer func() { _ = os.RemoveAll(home) }() // what is left in a temporary directory does no harm
	var found []HostItem
	for _, item := range p.Items {
		if item.Asked {
			found = append(found, HostItem{Item: item})
		}
	}
	h := host{dirs: dirs, home: home}
	var group errgroup.Group
	group.SetLimit(askedAtOnce)
	for i := range found {
		group.Go(func() error { h.look(ctx, &found[i]); return ctx.Err() })
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("look for dependencies on this machine: %w", err)
	}
	return found, nil
}

// host is a machine as a run sees it.
type host struct {
	dirs []string // where programs are
	home string   // an empty directory
}

// look finds out about one item.
func (h host) look(ctx context.Context, item *HostItem) {
	var err error
	item.Path, item.Version, err = h.find(ctx, item.entry)
	switch {
	case err != nil:
		item.Problem = err.Error()
	case item.Wanted == "", fits(item.Version, item.Wanted):
		return
	case item.Version == "":
		item.Problem = fmt.Sprintf("%s does not tell its version, and %s is wanted", item.Path, item.Wanted)
	default:
		item.Problem = fmt.Sprintf("%s is version %s, and %s is wanted", item.Path, item.Version, item.Wanted)
	}
	item.Get = item.entry.how.get(item.Dependency.Version)
}

// fits tells whether a version is the wanted one, or begins with it.
func fits(have, wanted string) bool {
	rest, is := strings.CutPrefix(have, wanted)
	return is && (rest == "" || strings.ContainsRune(".-+", rune(rest[0])))
}

// errMissing says that a machine does not have something.
var errMissing = errors.New("it is not in the directories that runs see")

// find returns where an entry's program or package is, and its version.
func (h host) find(ctx context.Context, e *entry) (path, version string, err error) {
	if len(e.programs) == 0 {
		return h.findPackage(ctx, e)
	}
	if path = h.program(e.programs[0]); path == "" {
		return "", "", errMissing
	}
	if e.kind == TypeGo {
		info, err := buildinfo.ReadFile(path)
		if err == nil {
			return path, strings.TrimPrefix(info.Main.Version, "v"), nil
		}
	}
	asks := e.asks
	if asks == nil {
		asks = []string{"--version"}
	}
	answer, err := h.ask(ctx, path, asks...)
	if err != nil {
		return path, "", err
	}
	return path, versionText.FindString(answer), nil
}

// versionText finds a version in what a program says of itself.
var versionText = lazyregexp.New(`[0-9]+(\.[0-9]+)+`)

// findPackage looks for a package of a registry whose programs are not known.
func (h host) findPackage(ctx context.Context, e *entry) (path, version string, err error) {
	switch how := e.how.(type) {
	case npm:
		for _, dir := range h.dirs {
			path = filepath.Join(filepath.Dir(dir), "lib", "node_modules", filepath.FromSlash(how.name), "package.json")
			var about struct{ Version string }
			if data := readNote(path); data != nil && json.Unmarshal(data, &about) == nil {
				return filepath.Dir(path), about.Version, nil
			}
		}
	case crate:
		installed := regexp.MustCompile(`(?m)^"` + regexp.QuoteMeta(how.name) + ` ([^ "]+) `)
		for _, dir := range h.dirs {
			path = filepath.Join(filepath.Dir(dir), ".crates.toml")
			if found := installed.FindSubmatch(readNote(path)); found != nil {
				return path, string(found[1]), nil
			}
		}
	case pip:
		if path = h.program("python3"); path != "" {
			const script = "import sys, importlib.metadata; print(importlib.metadata.version(sys.argv[1]))"
			answer, err := h.ask(ctx, path, "-I", "-c", script, how.name)
			if ctx.Err() == nil && err != nil {
				return "", "", errMissing
			}
			return path, strings.TrimSpace(answer), err
		}
	}
	return "", "", errMissing
}

// readNote reads a small file; nil if it is not there.
func readNote(path string) []byte {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > noteBytes {
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return data
}

// program returns the path of a program, or nothing.
func (h host) program(name string) string {
	for _, dir := range h.dirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// ask runs a program and returns the beginning of what it says.
func (h host) ask(ctx context.Context, path string, arguments ...string) (string, error) {
	bound, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	cmd := exec.CommandContext(bound, path, arguments...)
	cmd.Dir = h.home
	cmd.Env = []string{"PATH=" + strings.Join(h.dirs, string(filepath.ListSeparator)), "HOME=" + h.home, "LC_ALL=C"}
	var answer head
	cmd.Stdout, cmd.Stderr = &answer, &answer
	// What it starts ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case bound.Err() != nil:
		return "", fmt.Errorf("%s did not tell its version within %v", path, askTime)
	case err != nil:
		line, _, _ := strings.Cut(strings.TrimSpace(answer.String()), "\n")
		return "", fmt.Errorf("%s does not work: %w: %q", path, err, line)
	}
	return answer.String(), nil
}

// head keeps the first answerBytes of what is written to it.
type head struct{ bytes.Buffer }

func (h *head) Write(p []byte) (int, error) {
	_, _ = h.Buffer.Write(p[:min(len(p), answerBytes-h.Len())]) // a buffer takes all
	return len(p), nil
}
