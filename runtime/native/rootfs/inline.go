//go:build linux

package rootfs

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Bounds of what is copied into a skeleton in place of one bind. What is larger stays
// a bind.
const (
	maxCopied      = 4 << 20 // bytes
	maxCopiedFiles = 4000
	// copiesLife is how long a process takes it that nothing has changed.
	copiesLife = 10 * time.Second
)

// inlineSettings makes the host's small files of /etc part of the skeleton. Each bind
// that is saved is one connection less between gVisor's kernel and its gofer, with a
// thread at both ends: with thirty of them, a quarter of the time that a sandbox takes
// to start.
func (r *Root) inlineSettings() {
	r.Binds = slices.DeleteFunc(r.Binds, func(b runtime.MountConfig) bool {
		if !within(b.Target, "/etc") {
			return false
		}
		entries, ok := settings.copy(b.Source)
		if !ok {
			return false
		}
		for below, e := range entries {
			r.dir(path.Dir(path.Join(b.Target, below)))
			r.entries[path.Join(b.Target, below)] = e
		}
		return true
	})
}

// settings are the copies that this process has made.
var settings = copies{known: make(map[string]*copied)}

// copies keeps what was read of the host, as long as it is the same there. It is safe
// for concurrent use.
type copies struct {
	mu    sync.Mutex
	known map[string]*copied // guarded by mu; by source
}

// copied is what was read of one file or directory.
type copied struct {
	entries map[string]entry // by the path below it; "." is itself
	state   string           // of the files when they were read
	until   time.Time        // as long as that is not looked at again
}

// copy returns a file or directory of the host as entries, and whether it can be had
// so.
func (c *copies) copy(source string) (map[string]entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	known := c.known[source]
	if known != nil && now.Before(known.until) {
		return known.entries, known.entries != nil
	}
	names, state, err := look(source)
	if known == nil || known.state != state || err != nil {
		known = &copied{state: state}
		if err == nil {
			known.entries, err = read(source, names)
		}
		if err != nil {
			known.entries = nil
		}
		c.known[source] = known
	}
	known.until = now.Add(copiesLife)
	return known.entries, known.entries != nil
}

var errNotCopied = errors.New("it is too large, or no plain file")

// look lists what is below source, itself included, and describes its state.
func look(source string) (names []string, state string, err error) {
	var text strings.Builder
	size := int64(0)
	err = filepath.WalkDir(source, func(name string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrPermission) && name != source {
			return fs.SkipDir
		}
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			size += info.Size()
		}
		if names = append(names, name); len(names) > maxCopiedFiles || size > maxCopied {
			return errNotCopied
		}
		fmt.Fprintf(&text, "%s %v %d %d\n", name, info.Mode(), info.Size(), info.ModTime().UnixNano())
		return nil
	})
	return names, text.String(), err
}

// read reads what look has listed. What not everybody may read is left out, as are
// sockets and the like.
func read(source string, names []string) (map[string]entry, error) {
	entries := make(map[string]entry, len(names))
	for _, name := range names {
		below, err := filepath.Rel(source, name)
		if err != nil {
			return nil, err
		}
		info, err := os.Lstat(name)
		if err != nil {
			return nil, err
		}
		switch mode := info.Mode(); {
		case mode&fs.ModeSymlink != 0:
			link, err := os.Readlink(name)
			if err != nil {
				return nil, err
			}
			entries[below] = entry{link: link}
		case mode.IsDir() && openToAll(info):
			entries[below] = entry{mode: 0o755}
		case mode.IsRegular() && openToAll(info) && info.Size() <= maxCopied:
			data, err := os.ReadFile(name)
			if err != nil {
				return nil, err
			}
			sum := sha256.Sum256(data)
			entries[below] = entry{file: true, data: string(data), sum: sum[:], mode: mode.Perm() & 0o555}
		}
	}
	return entries, nil
}
